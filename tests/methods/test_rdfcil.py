"""R-DFCIL's own parts, on small networks."""

import jax
import numpy as np
import pytest

from cljax.models import make_classifier
from cljax.state import Batch
from tests.helpers import rdfcil, tiny
from tests.helpers.tiny import NUM_CLASSES


@pytest.fixture(scope="module", params=["linear", "cosine"])
def case(request):
    """The method, and a state after a first task of four classes."""
    name = "resnet8_rdfcil" if request.param == "linear" else "resnet8"
    classifier = make_classifier(name, NUM_CLASSES, 4, head=request.param)
    method = rdfcil.method(classifier, tiny.generator(), batch_size=6)
    state = jax.jit(lambda: method.init(tiny.ZEROS, tiny.IMAGE_SHAPE))()
    return method, state


@pytest.mark.slow
def test_a_later_task_draws_the_columns_of_its_classes(case):
    method, state = case
    after = jax.jit(lambda state: method.before_task(state, tiny.task(4, 7), None))(state)
    head, drawn = (s.params["head"] for s in (state, after))
    changed = (head["kernel"] != drawn["kernel"]).any(0)
    np.testing.assert_array_equal(np.flatnonzero(changed), [4, 5, 6])
    assert jax.tree.map(np.shape, head) == jax.tree.map(np.shape, drawn)
    if "scale" in head:
        assert head["scale"] == drawn["scale"]


@pytest.mark.slow
def test_a_step_counts_labels_of_real_and_dreamed_images(case):
    method, state = case
    state = state.replace(generator=tiny.images(6, 1))
    state = state.replace(opt_state=method.training.optimizer.init(state.params))
    batch = Batch(tiny.images(6, 0), np.int32([4, 5, 6, 4, 4, 5]), None)
    update = jax.jit(tiny.update)
    stages = (method.training, method.head_stage)
    for number, stage in enumerate(stages, start=1):
        state, _ = update(stage, method, state, tiny.task(4, 7), batch, 0, rdfcil.key())
        counts = np.asarray(state.extras.counts)
        np.testing.assert_array_equal(counts[4:], number * np.array([3, 2, 1, 0, 0, 0]))
        assert counts[:4].sum() == 6 * number


def terms_of(num_classes):
    """Loss terms of both stages with a head of so many columns, the first ones always the same."""
    whole = tiny.variables(make_classifier("resnet8_rdfcil", NUM_CLASSES, 4), 0)
    head = {"kernel": whole["params"]["head"]["kernel"][:, :num_classes]}
    learner = whole | {"params": whole["params"] | {"head": head}}
    method = rdfcil.method(
        make_classifier("resnet8_rdfcil", num_classes, 4), tiny.generator(), batch_size=6
    )
    batch = Batch(tiny.images(6, 0), np.int32([4, 5, 6, 4, 4, 5]), None)

    @jax.jit
    def observe():
        start = method.init(tiny.ZEROS, tiny.IMAGE_SHAPE)
        state = start.replace(
            params=start.params | learner["params"],
            batch_stats=learner["batch_stats"],
            teacher=jax.tree.map(lambda leaf: 1.1 * leaf, learner),
            generator=tiny.images(6, 1),
        )
        args = state, tiny.task(4, 7), batch, rdfcil.key()
        return method.observe(*args).terms, method.observe_head(*args).terms

    return observe()


def test_classes_never_seen_change_nothing():
    """Masked equals sliced."""
    sliced, masked = terms_of(7), terms_of(NUM_CLASSES)
    assert [len(terms) for terms in sliced] == [3, 2]
    for one, other in zip(sliced, masked, strict=True):
        for name, value in one.items():
            assert value > 0
            np.testing.assert_allclose(value, other[name], rtol=1e-5)
