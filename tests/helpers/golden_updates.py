"""Single steps of the original: what all golden cases share."""

import functools
from types import SimpleNamespace

import numpy as np

from cljax.interop import torch
from tests.helpers import tiny
from tests.helpers.goldens import channels_last, enable, jit, network

OLD = 20
SEEN = {"first": 20, "update": 40, "uneven": 32}
update = jit(tiny.update)


def make_dreamer(goldens, precision: str):
    """The generator, and a function from latents to the images that its golden state dreams."""
    generator, dreamer = network(goldens, "G", precision)
    generate = jit(functools.partial(generator.apply, train=False))

    def dream(latents):
        with enable(precision):
            return generate(dreamer, latents.astype(precision))

    return generator, dream


def make_original(goldens, precision: str) -> SimpleNamespace:
    """States and inputs that all cases share, at one precision."""
    classifier, learner = network(goldens, "M", precision)
    teacher = network(goldens, "T", precision)[1]
    generator, dream = make_dreamer(goldens, precision)
    inputs = goldens("inputs")
    return SimpleNamespace(
        goldens=goldens,
        precision=precision,
        classifier=classifier,
        learner=learner,
        teacher=teacher,
        generator=generator,
        dream=dream,
        real=channels_last(inputs["x_real"], precision),
        y_new=inputs["y_new"].astype(np.int32),
        y_mix=inputs["y_mix"].astype(np.int32),
        y_first=inputs["y_first"].astype(np.int32),
    )


def fold(labels: np.ndarray, seen: int) -> np.ndarray:
    """Golden labels of 40 classes for the case of `seen` ones."""
    return np.where(labels < OLD, labels, OLD + (labels - OLD) % (seen - OLD or 1))


def initial_state(original, method, **parts):
    """The learner before the step; `parts` as in `tiny.learner`."""
    state = tiny.learner(**original.learner, teacher=original.teacher, **parts)
    return state.replace(opt_state=method.training.optimizer.init(state.params))


def _tensors(original, state):
    params = {name: state.params[name] for name in original.learner["params"]}
    variables = {"params": params, "batch_stats": state.batch_stats}
    with enable(original.precision):
        return torch.classifier_to_torch(original.classifier, variables)


def compare_state(expected, original, state, prefix: str = "", start=None) -> None:
    """All stored tensors after steps, and how far each of the 157 tensors moved.

    `start`: the state from which they moved; by default the one before all steps.
    """
    before = _tensors(original, tiny.learner(**original.learner))
    after = _tensors(original, state)
    start = before if start is None else _tensors(original, start)
    names = [name for name in expected.names if name.startswith(f"{prefix}after/")]
    assert len(names) >= 10
    for name in names:
        tensor = name.removeprefix(f"{prefix}after/")
        if "running" in tensor:
            expected.forward(name, after[tensor])
        else:
            expected.update(name, after[tensor], before[tensor])
    tensors = original.goldens("states")["state_names"]
    moved = [np.linalg.norm(after[tensor] - start[tensor]) for tensor in tensors]
    expected.update(f"{prefix}delta_norm", np.array(moved, original.precision))


@functools.partial(jit, static_argnames=("classifier", "train"))
def outputs_of(classifier, variables, images, train):
    """The outputs of a pass in train or eval mode."""
    mutable = ["batch_stats"] if train else []
    return classifier.apply(variables, images, train=train, mutable=mutable)[0]


def compare_accuracy(metrics, logits, labels) -> None:
    """The accuracy that a step reports is that of the golden logits."""
    want = np.mean(np.argmax(logits, -1) == labels)
    np.testing.assert_allclose(metrics["accuracy"], want, rtol=1e-6)
