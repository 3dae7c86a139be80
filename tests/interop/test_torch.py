"""State dicts of the original to variables and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cljax.errors import UserError
from cljax.interop import torch
from cljax.models import make_classifier, make_generator
from tests.helpers import tiny
from tests.helpers.goldens import counts, state_dict

DIRECTIONS = {
    "classifier": (torch.classifier_from_torch, torch.classifier_to_torch),
    "generator": (torch.generator_from_torch, torch.generator_to_torch),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "module", "prefix", "name"),
    [
        ("classifier", make_classifier("resnet32", 100), "M", "resnet32(100)"),
        ("classifier", make_classifier("resnet14", 1000), "net18", "resnet18(1000)"),
        ("generator", make_generator("cifar", (32, 32, 3)), "G", "generator.CIFAR_GEN"),
        (
            "generator",
            make_generator("tiny_imagenet", (64, 64, 3)),
            "tiny",
            "generator.TINYIMNET_GEN",
        ),
        ("generator", make_generator("imagenet", (224, 224, 3)), "imnet", "generator.IMNET_GEN"),
    ],
)
def test_round_trip_of_the_original_states(goldens, kind, module, prefix, name, dtype):
    read, write = DIRECTIONS[kind]
    original = {k: v.astype(dtype) for k, v in state_dict(goldens, prefix).items()}
    returned = write(module, read(module, original))
    assert {k: list(v.shape) for k, v in returned.items()} == counts(goldens)[name]["tensors"]
    for tensor, values in original.items():
        assert returned[tensor].dtype == dtype
        np.testing.assert_array_equal(returned[tensor], values)


@pytest.mark.parametrize("kind", ["classifier", "generator"])
def test_round_trip_of_our_variables(kind):
    module = getattr(tiny, kind)()
    read, write = DIRECTIONS[kind]
    variables = tiny.variables(module, seed=0)
    returned = read(module, write(module, jax.tree.map(jnp.asarray, variables)))
    jax.tree.map(np.testing.assert_array_equal, returned, variables)


def test_order_of_the_exported_tensors_is_that_of_the_network(goldens):
    module = make_classifier("resnet32", 100)
    exported = torch.classifier_to_torch(
        module, torch.classifier_from_torch(module, state_dict(goldens, "T"))
    )
    assert list(exported) == goldens("states")["state_names"].tolist()


def test_kernels_are_reordered():
    module = tiny.classifier()
    variables = tiny.variables(module, seed=0)
    exported = torch.classifier_to_torch(module, variables)
    backbone = variables["params"]["backbone"]
    convolution = backbone["stage2_block0"]["conv1"]["kernel"]
    for o, i, h, w in [(0, 0, 0, 0), (7, 3, 2, 1), (4, 1, 0, 2)]:
        assert exported["layer2.0.conv1.weight"][o, i, h, w] == convolution[h, w, i, o]
    np.testing.assert_array_equal(exported["last.weight"], variables["params"]["head"]["kernel"].T)
    assert exported["last.bias"].flags["C_CONTIGUOUS"]


def test_the_generators_first_map_is_channel_major_in_pytorch():
    module = tiny.generator()
    variables = tiny.variables(module, seed=0)
    exported = torch.generator_to_torch(module, variables)
    latent = np.random.default_rng(1).normal(size=1000)
    theirs = (exported["l1.0.weight"] @ latent + exported["l1.0.bias"]).reshape(4, 2, 2)
    project = variables["params"]["project"]
    ours = (latent @ project["kernel"] + project["bias"]).reshape(2, 2, 4)
    np.testing.assert_allclose(np.moveaxis(theirs, 0, -1), ours, rtol=1e-5)


def test_other_image_channels():
    module = make_classifier("resnet8", 10, width=4)
    exported = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    exported["conv1.weight"] = exported["conv1.weight"][:, :1]
    variables = torch.classifier_from_torch(module, exported, image_channels=1)
    assert variables["params"]["backbone"]["conv1"]["kernel"].shape == (3, 3, 1, 4)


def test_counters_of_batches_are_ignored():
    module = tiny.classifier()
    exported = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    with_counters = exported | {"bn1.num_batches_tracked": np.int64(7)}
    jax.tree.map(
        np.testing.assert_array_equal,
        torch.classifier_from_torch(module, with_counters),
        torch.classifier_from_torch(module, exported),
    )


def test_mismatches_are_listed():
    module = tiny.classifier()
    state = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    bias = state.pop("bn1.bias")
    with pytest.raises(UserError, match=r"missing: bn1\.bias$"):
        torch.classifier_from_torch(module, state)
    state |= {"bn1.bias": bias[:3], "fc.bias": bias}
    with pytest.raises(UserError) as error:
        torch.classifier_from_torch(module, state)
    assert "surplus: fc.bias; misshapen: bn1.bias [3] instead of [4]" in str(error.value)
    with pytest.raises(UserError, match=r"missing: .*, \S+ and \d+ more$"):
        torch.classifier_from_torch(
            make_classifier("resnet14", 10, width=4),
            {k: v for k, v in state.items() if k != "fc.bias" and k != "bn1.bias"}
            | {"bn1.bias": bias},
        )


BIAS = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (BIAS.astype(object), "is object; expected floating-point numbers"),
        (BIAS.astype(str), "is <U32; expected floating-point numbers"),
        (BIAS.astype(complex), "is complex128; expected floating-point numbers"),
        (BIAS.astype(int), "is int64; expected floating-point numbers"),
        (None, "is object; expected floating-point numbers"),
        (BIAS * np.nan, "holds NaN or infinity; expected finite numbers"),
        (np.full_like(BIAS, np.inf), "holds NaN or infinity; expected finite numbers"),
        ([[1.0, 2.0], [3.0]], "is not an array: "),
    ],
)
def test_an_entry_that_is_not_of_finite_floats_is_named(value, words):
    module = tiny.classifier()
    variables = tiny.variables(module, seed=0)
    state = torch.classifier_to_torch(module, variables)
    with pytest.raises(UserError) as error:
        torch.classifier_from_torch(module, state | {"bn1.bias": value})
    assert str(error.value).startswith(f"state dict: bn1.bias {words}")
    variables["params"]["backbone"]["bn1"]["bias"] = value
    with pytest.raises(UserError) as error:
        torch.classifier_to_torch(module, variables)
    assert str(error.value).startswith(f"variables: params.backbone.bn1.bias {words}")


def test_halves_of_a_head_that_do_not_fit_are_a_mismatch():
    module = make_classifier("resnet8_lucir", 10, width=4, head="cosine")
    state = torch.classifier_to_torch(module, tiny.variables(module, seed=0))
    weight = state.pop("fc.weight")
    halves = {"fc.fc1.weight": weight[:5], "fc.fc2.weight": weight[5:, :3]}
    with pytest.raises(UserError, match=r"missing: fc\.weight; surplus: fc\.fc1\.weight, fc\.fc2"):
        torch.classifier_from_torch(module, state | halves)


def test_variables_of_another_network_are_not_written():
    module = tiny.classifier()
    variables = tiny.variables(make_classifier("resnet8", 11, width=4), seed=0)
    with pytest.raises(UserError, match=r"params\.head\.kernel \[16, 11\] instead of \[16, 10\]"):
        torch.classifier_to_torch(module, variables)
