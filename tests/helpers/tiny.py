"""Small networks with ready values, and methods and tasks around them or others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from cljax import inversion as inversion_lib
from cljax.data.augment import Augmentation
from cljax.data.preprocessing import Preprocessing
from cljax.inversion import Inversion
from cljax.memory.policy import MemoryPolicy
from cljax.methods.abd import AlwaysBeDreaming
from cljax.methods.base import Finetune
from cljax.methods.bic import BiasCorrection, BiC
from cljax.methods.deep_inversion import DeepInversion, DeepInversionLwF
from cljax.methods.dreaming import Dreaming
from cljax.methods.e2e import BalancedFinetuning, EndToEnd
from cljax.methods.icarl import MultiClassLwF
from cljax.methods.lwf import LearningWithoutForgetting
from cljax.models import LATENT_SIZE, Classifier, Generator, make_classifier
from cljax.optimizers import SGD
from cljax.rng import Streams
from cljax.stages import Epoch, InversionStage, StepInput, TrainStage
from cljax.state import GeneratorState, LearnerState, Subset, Task, hyperparameters

NUM_CLASSES = 10
IMAGE_SHAPE = (8, 8, 3)
PLAIN = Preprocessing(Augmentation(), (0.0,) * 3, (1.0,) * 3)
ZEROS = Streams(0, 0, 0, 0)
NO_MEMORY = MemoryPolicy(0, "random", "bootstrap", False)


def update(stage, method, state, task, batch, epoch, key):
    """A stage's update of a state by a given batch."""
    teacher = None if task is None else method.epoch_teacher(state, task)
    prepared = Epoch(None, None, None, None, teacher)
    inputs = StepInput(method, stage, None, task, epoch, prepared)
    return stage.update(inputs, state, (batch, key))


def step(stage, method, data, task, epoch, prepared, i, state):
    """Step `i` of a stage, as training takes it."""
    inputs = StepInput(method, stage, data, task, epoch, prepared)
    return stage.update(inputs, state, stage.draw(inputs, i, state))


def classifier(dtype=jnp.float32) -> Classifier:
    """Ten classes, four channels."""
    return make_classifier("resnet8", NUM_CLASSES, width=4, dtype=dtype)


def generator(dtype=jnp.float32) -> Generator:
    """Images of IMAGE_SHAPE."""
    return Generator(map_size=2, map_channels=4, stages=(4, 4), dtype=dtype)


def variables(module, seed: int, dtype=jnp.float32):
    """Random variables without the compilation of `init`: all in numpy, variances positive."""
    size = LATENT_SIZE if isinstance(module, Generator) else IMAGE_SHAPE
    inputs = jnp.zeros((2, size) if isinstance(size, int) else (2, *size))
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), inputs, train=False))
    random = np.random.default_rng(seed)

    def fill(path, leaf):
        values = random.normal(size=leaf.shape)
        match path[-1].key:
            case "kernel":
                values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
            case "var" | "scale":
                values = 1 + 0.3 * np.abs(values)
            case _:
                values *= 0.1
        return values.astype(dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def fresh(variables) -> GeneratorState:
    """A generator with these variables and a fresh Adam."""
    opt_state = optax.scale_by_adam().init(variables["params"])
    return GeneratorState(variables["params"], variables["batch_stats"], opt_state)


def images(count: int, seed: int) -> np.ndarray:
    """Standard normal images."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, *IMAGE_SHAPE)).astype(np.float32)


def sgd(learning_rate: float = 0.1) -> SGD:
    """The published optimiser at a constant rate."""
    return SGD(learning_rate, 0.9, 2e-4)


class GivenImages:
    """Replays given images instead of dreaming: those in the place of the state's generator."""

    def dream(self, state, key, count):
        """The images."""
        return state.generator


@hyperparameters
class Given(GivenImages, AlwaysBeDreaming):
    """ABD with given images."""


@hyperparameters
class GivenDeepInversion(GivenImages, DeepInversion):
    """DeepInversion with given images."""


@hyperparameters
class GivenDeepInversionLwF(GivenImages, DeepInversionLwF):
    """LwF with given images."""


METHODS = {
    "base": Finetune,
    "lwf": LearningWithoutForgetting,
    "lwf_mc": MultiClassLwF,
    "e2e": EndToEnd,
    "bic": BiC,
    "abd": AlwaysBeDreaming,
    "given": Given,
    "given_deep_inversion": GivenDeepInversion,
    "given_deep_inversion_lwf": GivenDeepInversionLwF,
}


def method(
    kind, classifier, generator=None, batch_size: int = 20, memory: MemoryPolicy = NO_MEMORY
):
    """One of METHODS; the "given" ones replay given images."""
    cls = METHODS[kind]
    parts = {
        "classifier": classifier,
        "preprocessing": PLAIN,
        "training": TrainStage("train", 1, 0, batch_size, sgd()),
        "memory": memory,
    }
    if issubclass(cls, Dreaming):
        parts["inversion_stage"] = InversionStage("dream", 1, 0, 1, Inversion(generator))
    if kind == "e2e":
        parts["balancing_stage"] = BalancedFinetuning("balance", 1, 0, batch_size, sgd(0.001))
    if kind == "bic":
        parts["correction_stage"] = BiasCorrection("correct", 1, 0, batch_size, sgd(0.001))
    return cls(**parts)


def learner(params, batch_stats=None, streams=ZEROS, **parts) -> LearnerState:
    """A state of which only the given parts exist."""
    names = ("opt_state", "teacher", "generator", "exemplars")
    return LearnerState(params, batch_stats or {}, streams=streams, **dict.fromkeys(names) | parts)


def divergences(running, moments) -> dict[str, np.ndarray]:
    """The divergence of each batch-norm layer, by the layer's path."""
    running, moments = (traverse_util.flatten_dict(tree, sep="/") for tree in (running, moments))
    result = {}
    for layer in sorted({path.rpartition("/")[0] for path in moments}):
        alone = (
            {name: tree[f"{layer}/{name}"] for name in ("mean", "var")}
            for tree in (running, moments)
        )
        result[layer] = inversion_lib.statistics_divergence(*alone)
    return result


def task(
    old: int,
    seen: int,
    is_first: bool = False,
    *,
    boundaries: tuple[int, ...] = (),
    index: int | None = None,
    images: Subset | None = None,
    label_map: tuple[int, ...] = (0,),
) -> Task:
    """A task; without data unless they are given."""
    nothing = jnp.zeros(1, jnp.int32)
    index = (0 if is_first else 1) if index is None else index
    return Task(
        index=jnp.int32(index),
        old=jnp.int32(old),
        seen=jnp.int32(seen),
        past_images=jnp.int32(0),
        boundaries=jnp.array(boundaries or sorted({0, old, seen}), jnp.int32),
        images=images or Subset(nothing, jnp.int32(0)),
        class_images=nothing[None],
        class_image_counts=nothing,
        label_map=jnp.array(label_map, jnp.int32),
        is_first=is_first,
    )
