"""LibContinual's golden numbers: its small network, tasks on its vectors, single steps.

In the file's words: `relu(batchnorm(linear(x)))`, 12 inputs, 8 features, a linear head; float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cljax.methods.teacher import TeacherMixin
from cljax.models import Classifier, LinearHead
from cljax.models.norm import BatchNorm
from cljax.optimizers import SGD
from cljax.stages import TrainStage
from cljax.state import Batch, Data, Subset, Task, hyperparameters
from tests.helpers import lucir, tiny

KEY = jax.random.key(0)
# our part of the network: (PyTorch's name, its part of ours, PyTorch's part)
_LAYERS = {
    "fc": (("weight", "params", "kernel"), ("bias", "params", "bias")),
    "bn": (
        ("weight", "params", "scale"),
        ("bias", "params", "bias"),
        ("running_mean", "batch_stats", "mean"),
        ("running_var", "batch_stats", "var"),
    ),
}


class Backbone(nn.Module):
    """12 numbers to 8 features."""

    @nn.compact
    def __call__(self, images, train=False, weights=None):
        """images [B, 12] -> features [B, 8]."""
        return nn.relu(BatchNorm(name="bn")(nn.Dense(8, name="fc")(images), train, weights))


@dataclasses.dataclass(frozen=True)
class Shift:
    """Preprocessing of vectors, with a shift for augmentation."""

    by: float = 0.0

    def draw(self, key, count, sizes):
        """Whatever the key is."""
        return self.by

    def train(self, images, draws):
        """Shifted."""
        return images + draws

    def center(self, images):
        """The images as they are."""
        return images

    def test(self, images):
        """As they are."""
        return images


class Expected(lucir.Expected):
    """A file of the small network, compared in float32."""

    def __init__(self, goldens, file: str):
        super().__init__(goldens, file, "float32")

    def close(self, name, got, loose=1e-6, of=1.0):
        """As the README of the golden numbers has it for small networks."""
        super().close(name, got, loose, of)

    def equal(self, name: str, got) -> None:
        """Compares whole numbers."""
        np.testing.assert_array_equal(got, self.arrays[name], err_msg=name)
        self._compared.add(name)

    def network(self, prefix: str, variables, num_rows: int) -> None:
        """Compares all tensors; of the head, the first rows."""
        for name, tensor in to_torch(variables, num_rows).items():
            if f"{prefix}{name}" in self.arrays:
                self.close(f"{prefix}{name}", tensor)


def build(cls, num_classes: int, optimizer: SGD, shift: float = 0.0, **parts):
    """A method around the small network."""
    return cls(
        classifier=Classifier(Backbone(), LinearHead(num_classes)),
        preprocessing=Shift(shift),
        training=TrainStage("train", 1, 0, 10, optimizer),
        **{"memory": tiny.NO_MEMORY} | parts,
    )


def from_torch(arrays, prefix: str, num_classes: int):
    """Variables from PyTorch's tensors; head rows that do not exist yet are sevens."""
    found = {"params": {}, "batch_stats": {}}
    for layer, parts in _LAYERS.items():
        for name, kind, ours in parts:
            place = found[kind].setdefault("backbone", {}).setdefault(layer, {})
            place[ours] = jnp.asarray(arrays[f"{prefix}backbone.{layer}.{name}"].T)
    weight, bias = (arrays[f"{prefix}classifier.{name}"] for name in ("weight", "bias"))
    kernel = np.full((8, num_classes), 7, np.float32)
    kernel[:, : len(bias)] = weight.T
    bias = np.concatenate([bias, np.full(num_classes - len(bias), 7, np.float32)])
    found["params"]["head"] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
    return found


def to_torch(variables, num_rows: int) -> dict[str, np.ndarray]:
    """PyTorch's tensors, without running statistics if there are none."""
    found = {}
    for layer, parts in _LAYERS.items():
        for name, kind, ours in parts:
            if kind in variables:
                tensor = np.asarray(variables[kind]["backbone"][layer][ours]).T
                found[f"backbone.{layer}.{name}"] = tensor
    head = variables["params"]["head"]
    found["classifier.weight"] = np.asarray(head["kernel"]).T[:num_rows]
    found["classifier.bias"] = np.asarray(head["bias"])[:num_rows]
    return found


def start(method, expected, prefix: str):
    """The state before the first task, with the network of `prefix`."""
    state = method.init(tiny.ZEROS, (12,))
    return state.replace(**from_torch(expected, prefix, method.classifier.num_classes))


def begin(method, expected, state, task: Task, prefix: str):
    """The state at the start of a task's training, compared; a head that grows has new rows."""
    num_classes = method.classifier.num_classes
    golden, rows = from_torch(expected, prefix, num_classes), expected[f"{prefix}classifier.bias"]
    if len(rows) < num_classes:
        is_new = jnp.arange(num_classes) >= task.old
        grown = golden["params"]["head"], state.params["head"]
        head = jax.tree.map(lambda g, h: jnp.where(is_new, g, h), *grown)
        state = state.replace(params=state.params | {"head": head})
    expected.network(prefix, state.variables, len(rows))
    return state.replace(opt_state=method.training.optimizer.init(state.params))


def data_of(vectors) -> Data:
    """The data set; class by class."""
    labels = np.repeat(np.arange(len(vectors), dtype=np.int32), vectors.shape[1])
    images = jnp.asarray(vectors.reshape(-1, vectors.shape[-1]))
    return Data(images, jnp.asarray(labels), images, jnp.asarray(labels))


def make_task(sizes, index: int, per_class: int) -> Task:
    """A task of consecutive classes."""
    bounds = np.cumsum([0, *sizes])
    old, seen = bounds[index : index + 2]
    table = np.zeros((max(sizes), per_class), np.int32)
    table[: seen - old] = np.arange(old * per_class, seen * per_class).reshape(-1, per_class)
    counts = np.where(np.arange(max(sizes)) < seen - old, per_class, 0)
    images = np.zeros(max(sizes) * per_class, np.int32)
    images[: (seen - old) * per_class] = table[: seen - old].reshape(-1)
    task = tiny.task(
        int(old),
        int(seen),
        index == 0,
        boundaries=tuple(bounds.tolist()),
        index=index,
        images=Subset(jnp.asarray(images), jnp.int32((seen - old) * per_class)),
        label_map=tuple(range(bounds[-1])),
    )
    return task.replace(
        class_images=jnp.asarray(table), class_image_counts=jnp.asarray(counts, jnp.int32)
    )


def batch_of(expected, step: str) -> Batch:
    """The batch of a golden step."""
    return Batch(jnp.asarray(expected[f"{step}.x"]), expected[f"{step}.y"].astype(np.int32), None)


_update = jax.jit(tiny.update)


@jax.jit
def _observe(method, state, task, batch):
    return method.observe(state, task, batch, KEY)


def step(method, expected, state, task: Task, name: str):
    """A golden step, compared: the new state, and the terms of its loss."""
    batch = batch_of(expected, name)
    observed = _observe(method, state, task, batch)
    state, metrics = _update(method.training, method, state, task, batch, 0, KEY)
    expected.equal(f"{name}.pred", observed.predictions)
    expected.close(f"{name}.acc", metrics["accuracy"])
    expected.close(f"{name}.loss", metrics["loss"])
    prefix, _, last = name.rpartition(".")
    after = f"{prefix}.after_{last}." if prefix else f"after_{last}."
    rows = expected[f"{after}classifier.bias"].shape[0]
    expected.network(after, state.variables, rows)
    return state, observed.terms


def loss_with_eval_teacher(method, expected, state, task, name: str) -> None:
    """Compares the loss with the other teacher: that of the paper."""

    class EvalTeacher(type(method)):
        teacher_outputs = TeacherMixin.teacher_outputs

    other = hyperparameters(EvalTeacher)(
        **{f.name: getattr(method, f.name) for f in dataclasses.fields(method)}
    )
    prefix = name.split(".")[0]
    loss = _observe(other, state, task, batch_of(expected, name)).loss
    expected.close(f"{prefix}.loss_if_teacher_in_eval", loss)
