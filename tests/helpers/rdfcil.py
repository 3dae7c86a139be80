"""R-DFCIL's golden numbers: networks, states and tensors.

The folder `rdfcil/` has the conventions of `dfcil/`, see `tests.helpers.goldens`.
"""

import functools
import itertools
from types import SimpleNamespace

import jax
import numpy as np

from cljax.interop import torch
from cljax.inversion import Inversion
from cljax.methods.rdfcil import RDFCIL, HeadFinetuning, InversionOfOld
from cljax.models import make_classifier
from cljax.optimizers import SGD
from cljax.stages import TrainStage
from cljax.state import hyperparameters
from tests.helpers import tiny
from tests.helpers.golden_updates import make_dreamer
from tests.helpers.goldens import channels_last, enable, jit, state_dict

# Tasks of 7, 5 and 8 classes; classes never seen, with random head columns, must change nothing.
SIZES = (7, 5, 8)
OLD, SEEN, NUM_CLASSES = 12, 20, 24
HEADS = tuple(f"head.classifiers.{task}.weight" for task in range(len(SIZES)))
# PyTorch's name of each projection.
PROJECTIONS = {"student": "rkd.embed1", "teacher": "rkd.embed2"}


@hyperparameters
class Given(tiny.GivenImages, RDFCIL):
    """R-DFCIL with given images."""


def method(classifier, generator=None, learning_rate: float = 0.1, batch_size: int = 12) -> RDFCIL:
    """R-DFCIL with the published settings; dreamed images are given, in place of a generator."""
    optimizer = SGD(learning_rate, 0.9, 5e-4)
    heads = SGD(0.005, 0.9, 5e-4)
    return Given(
        classifier=classifier,
        preprocessing=tiny.PLAIN,
        training=TrainStage("train", 1, 0, batch_size, optimizer),
        memory=tiny.NO_MEMORY,
        inversion_stage=InversionOfOld("invert", 1, 0, 1, Inversion(generator)),
        head_stage=HeadFinetuning("heads", 1, 0, batch_size, heads),
    )


def _with_unseen(state, name, precision):
    """The state of `NUM_CLASSES` classes at a precision."""
    state = {k: v.astype(precision) for k, v in state.items()}
    rows = np.concatenate([state.pop(head) for head in HEADS if head in state])
    unseen = np.random.default_rng(len(name)).normal(size=(NUM_CLASSES, 64)).astype(precision)
    return state | {HEADS[0]: np.concatenate([rows, unseen[len(rows) :]])}


@functools.cache
def classifier(goldens, name: str, precision: str):
    """ResNet-32 with NUM_CLASSES classes, and the variables (numpy) "M" or "T"."""
    module = make_classifier("resnet32_rdfcil", NUM_CLASSES, 16, np.dtype(precision))
    state = _with_unseen(state_dict(goldens, name), name, precision)
    with enable(precision):
        return module, torch.classifier_from_torch(module, state)


def tensors(module, state, precision: str) -> dict[str, np.ndarray]:
    """PyTorch's tensors of a learner: the network's with the heads of the tasks, projections."""
    params = dict(state.params)
    projections = params.pop("projections", {})
    with enable(precision):
        found = torch.classifier_to_torch(
            module, {"params": params, "batch_stats": state.batch_stats}
        )
    rows = np.split(found.pop(HEADS[0]), np.cumsum(SIZES))
    found |= dict(zip(HEADS, rows, strict=False))
    for name, torch_name in PROJECTIONS.items():
        if name in projections:
            dense = projections[name]["Dense_0"]
            found[f"{torch_name}.weight"] = np.asarray(dense["kernel"]).T
            found[f"{torch_name}.bias"] = np.asarray(dense["bias"])
    return found


def make_projections(goldens, precision: str):
    """The projections (numpy) of the angles."""
    stored = {name: v.astype(precision) for name, v in state_dict(goldens, "R").items()}

    def dense(name):
        return {"kernel": stored[f"{name}.weight"].T, "bias": stored[f"{name}.bias"]}

    return {name: {"Dense_0": dense(torch_name)} for name, torch_name in PROJECTIONS.items()}


def make_original(goldens, precision: str) -> SimpleNamespace:
    """States and inputs that all cases share, at one precision."""
    module, learner = classifier(goldens, "M", precision)
    _, teacher = classifier(goldens, "T", precision)
    _, dream = make_dreamer(goldens, precision)
    inputs = goldens("inputs")
    return SimpleNamespace(
        goldens=goldens,
        precision=precision,
        classifier=module,
        learner=learner,
        teacher=teacher,
        projections=make_projections(goldens, precision),
        dream=dream,
        real=[channels_last(inputs[name], precision) for name in ("x_real", "x_real2")],
        labels=[inputs[name].astype(np.int32) for name in ("y_new", "y_new2")],
        latents=[inputs[name] for name in ("z", "z2")],
        y_first=inputs["y_first"].astype(np.int32),
    )


def initial_state(original, method):
    """The learner at the start of the third task, with no labels counted."""
    params = original.learner["params"] | {"projections": original.projections}
    state = tiny.learner(
        params, original.learner["batch_stats"], teacher=original.teacher, extras=method.no_labels()
    )
    return state.replace(opt_state=method.training.optimizer.init(params))


def third_task():
    """The task of all cases but the first."""
    return tiny.task(OLD, SEEN, boundaries=(0, *itertools.accumulate(SIZES)), index=2)


@functools.partial(jit, static_argnames=("module", "train"))
def outputs_of(module, variables, images, train):
    """Outputs and running statistics of a pass in train or eval mode."""
    outputs, updates = module.apply(variables, images, train=train, mutable=["batch_stats"])
    return outputs, updates["batch_stats"]


def key():
    """A key, for what draws nothing."""
    return jax.random.key(0)
