"""R-DFCIL's network: the original's numbers, initial values and tensors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.interop import torch
from cljax.models import Projection, make_classifier
from tests.helpers import rdfcil, tiny
from tests.helpers.goldens import PRECISIONS, Expected, channels_last, enable, state_dict
from tests.helpers.rdfcil import OLD, SEEN, outputs_of

precisions = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.mark.slow
@precisions
def test_resnet32_is_the_originals(rdfcil_goldens, precision):
    expected = Expected(rdfcil_goldens, "network", precision)
    images = channels_last(rdfcil_goldens("inputs")["x_real"], precision)
    module, variables = rdfcil.classifier(rdfcil_goldens, "M", precision)
    _, teacher = rdfcil.classifier(rdfcil_goldens, "T", precision)
    with enable(precision):
        in_eval, _ = outputs_of(module, variables, images, train=False)
        in_train, statistics = outputs_of(module, variables, images, train=True)
        old, _ = outputs_of(module, teacher, images, train=False)
    expected.forward("eval_features", in_eval.features)
    expected.forward("eval_logits", in_eval.logits[:, :SEEN])
    expected.forward("train_features", in_train.features)
    expected.forward("train_logits", in_train.logits[:, :SEEN])
    expected.forward("old_logits", old.logits[:, :OLD])
    after = rdfcil.tensors(module, tiny.learner(variables["params"], statistics), precision)
    names = {name for name in expected.names if name.startswith("train_stats/")}
    assert len(names) == 62
    for name in names:
        expected.forward(name, after[name.removeprefix("train_stats/")])
    expected.all_compared()


@pytest.mark.slow
def test_initial_values(rdfcil_goldens):
    want = json.loads((rdfcil_goldens.folder / "initial.json").read_text())
    module = make_classifier("resnet32_rdfcil", 400)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert sum(x.size for x in jax.tree.leaves(params["backbone"])) == 463_504
    names = torch.classifier_to_torch(module, tiny.variables(module, 0) | {"params": params})
    scales = {name for name in names if ".bn_" in name and name.endswith("weight")}
    zero = {name for name in scales if not names[name].any()}
    assert zero == {f"backbone.{name}" for name in want["resnet32"]["batch_norm_weights_zero"]}
    assert all((names[name] == 1).all() for name in scales - zero)
    ratios = []
    for name, array in names.items():
        if ".conv_" in name:
            ratios.append(array.std() / np.sqrt(2 / (9 * array.shape[0])))
    low, high = want["resnet32"]["conv_std_over_sqrt_2_by_fan_out"]
    assert low - 0.05 < min(ratios) and max(ratios) < high + 0.05  # small kernels spread
    head = params["head"]
    assert set(head) == {"kernel"}
    np.testing.assert_allclose(head["kernel"].std(), want["classifier"]["std"], rtol=0.02)


def test_initial_projections(rdfcil_goldens):
    want = json.loads((rdfcil_goldens.folder / "initial.json").read_text())["projections"]
    params = Projection().init(jax.random.key(0), jnp.zeros((1, 64)))["params"]["Dense_0"]
    for name, array in (("weight", params["kernel"].T), ("bias", params["bias"])):
        original = want[f"embed1.{name}"]
        assert list(array.shape) == original["shape"]
        largest = np.abs(array).max() * 8
        np.testing.assert_allclose(largest, original["max_abs_times_sqrt_fan_in"], atol=0.02)


def test_heads_of_tasks_are_joined(rdfcil_goldens):
    state = state_dict(rdfcil_goldens, "M")
    module = make_classifier("resnet32_rdfcil", SEEN)
    variables = torch.classifier_from_torch(module, state)
    whole = np.concatenate([state[name] for name in rdfcil.HEADS])
    np.testing.assert_array_equal(variables["params"]["head"]["kernel"], whole.T)
    back = torch.classifier_to_torch(module, variables)
    np.testing.assert_array_equal(back.pop(rdfcil.HEADS[0]), whole)
    for name, array in back.items():
        np.testing.assert_array_equal(array, state[name], err_msg=name)


def test_a_head_without_its_task_is_told(rdfcil_goldens):
    state = state_dict(rdfcil_goldens, "M")
    del state[rdfcil.HEADS[1]]
    with pytest.raises(UserError, match=r"surplus: head.classifiers.2.weight"):
        torch.classifier_from_torch(make_classifier("resnet32_rdfcil", SEEN), state)


def test_a_new_block_is_its_shortcut():
    """Features of the initial network are means of every fourth pixel of the first layer's."""
    module = make_classifier("resnet8_rdfcil", 10, width=4)
    images = tiny.images(3, 0)
    variables = jax.jit(module.init)(jax.random.key(0), images)
    outputs, captured = module.apply(
        variables, images, capture_intermediates=True, mutable=["intermediates"]
    )
    first = captured["intermediates"]["backbone"]["bn1"]["__call__"][0]
    means = np.maximum(first, 0)[:, ::4, ::4].mean((1, 2))
    np.testing.assert_allclose(outputs.features[:, :4], means, rtol=1e-5)
    assert not np.any(outputs.features[:, 4:])
