"""Always Be Dreaming in plain NumPy and float64, written from its specification alone.

The specification says in words and formulas what the ABD reference code computes. Nothing here
comes from `cljax`: networks have PyTorch's names and layouts (images [B, C, H, W]), gradients are
those of `tests.helpers.autodiff`, statistics and optimizers are loops over arrays. Numbers of
sections are those of the specification.
"""

import itertools
import random
from collections.abc import Mapping, Sequence

import numpy as np

from tests.helpers import autodiff
from tests.helpers.autodiff import Var, as_var, conv, exp, leaky_relu, log, stop, tanh

State = dict[str, np.ndarray]  # tensors by PyTorch's names
AXES = (0, 2, 3)  # all but the channels

# Section 11.
MU, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 2e-4
ADAM_RATE, CONTENT, TEMPERATURE, STATISTICS, PRIOR = 1e-3, 1.0, 1000.0, 50.0, 1e-3


# Sections 2 and 3: tasks, augmentation.


def tasks(labels: np.ndarray, sizes: Sequence[int], num_classes: int, seed: int):
    """Mapped labels of the images, and the images of each task in file order."""
    order = list(range(num_classes))
    random.Random(seed).shuffle(order)
    mapped = np.argsort(order)[labels]
    stops = np.cumsum(sizes)
    return mapped, [
        np.flatnonzero((stop - size <= mapped) & (mapped < stop))
        for size, stop in zip(sizes, stops, strict=True)
    ]


def augment(image: np.ndarray, choices: Mapping) -> np.ndarray:
    """Colour jitter, flip, and a crop of the image in a border of four black pixels.

    Args:
      image: uint8 [H, W, 3].
      choices: `brightness`, `contrast`, `brightness_first`, `mirrored` and `offsets`.
    """

    def blend(pixels, degenerate, factor):
        difference = np.float32(factor) * (pixels.astype(np.float32) - np.float32(degenerate))
        return np.trunc(np.clip(np.float32(degenerate) + difference, 0, 255)).astype(np.uint8)

    def brighten(pixels):
        return blend(pixels, 0, choices["brightness"])

    def contrast(pixels):
        red, green, blue = np.moveaxis(pixels.astype(np.int64), -1, 0)
        grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
        return blend(pixels, np.floor(grey.mean() + 0.5), choices["contrast"])

    steps = (brighten, contrast) if choices["brightness_first"] else (contrast, brighten)
    image = steps[1](steps[0](image))
    image = image[:, ::-1] if choices["mirrored"] else image
    row, column = choices["offsets"]
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    return padded[row : row + image.shape[0], column : column + image.shape[1]]


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Network inputs [B, C, H, W] of uint8 [B, H, W, C]."""
    return np.moveaxis((images / 255 - np.array(mean)) / np.array(std), -1, 1)


# Section 4: networks. They also return the inputs of their batch norms, in forward order.


def batch_norm(x, state, name, is_train, inputs, epsilon=1e-5):
    inputs[name] = x
    if is_train:
        mean = x.mean(AXES)
        variance = ((x - mean) ** 2).mean(AXES)
    else:
        mean, variance = (_by_channel(state[f"{name}.running_{kind}"]) for kind in ("mean", "var"))
    x = (x - mean) / (variance + epsilon) ** 0.5
    if f"{name}.weight" in state:
        x = x * _by_channel(state[f"{name}.weight"]) + _by_channel(state[f"{name}.bias"])
    return x


def _by_channel(values):
    return as_var(values).reshape(1, -1, 1, 1)


def moved(state: State, inputs: Mapping[str, Var], times: int = 1) -> State:
    """The state with running statistics after `times` train-mode passes of the same batch."""
    state = dict(state)
    for name, x in inputs.items():
        batch = x.value
        count = batch.size // batch.shape[1]
        statistics = {"mean": batch.mean(AXES), "var": batch.var(AXES) * count / (count - 1)}
        for (kind, value), _ in itertools.product(statistics.items(), range(times)):
            state[f"{name}.running_{kind}"] = 0.9 * state[f"{name}.running_{kind}"] + 0.1 * value
    return state


def resnet(state, images, is_train):
    """Features [B, D], logits [B, K] and inputs of batch norms of the CIFAR ResNet."""
    inputs = {}

    def norm(x, name):
        return batch_norm(x, state, name, is_train, inputs)

    x = conv(as_var(images), as_var(state["conv1.weight"]), padding=1)
    x = leaky_relu(norm(x, "bn1"))
    for name in _blocks(state):
        stride = 2 if name in ("layer2.0", "layer3.0") else 1
        y = conv(x, as_var(state[f"{name}.conv1.weight"]), stride, 1)
        y = leaky_relu(norm(y, f"{name}.bn1"))
        y = norm(conv(y, as_var(state[f"{name}.conv2.weight"]), 1, 1), f"{name}.bn2")
        if stride == 2:
            quarter = y.shape[1] // 4
            x = autodiff.pad_channels(x[:, :, ::2, ::2], quarter, quarter)
        x = leaky_relu(x + y)
    features = x.mean((2, 3)).reshape(*x.shape[:2])
    return features, head(state, features), inputs


def _blocks(state):
    end = ".conv1.weight"
    return sorted(name.removesuffix(end) for name in state if "layer" in name and end in name)


def head(state, features):
    return features @ as_var(state["last.weight"]).T + as_var(state["last.bias"])


def generator(state, latents, is_train):
    """Images [B, 3, H, W] and inputs of batch norms of CIFAR_GEN, of any width."""
    inputs = {}

    def convolve(x, name):
        kernel, bias = as_var(state[f"{name}.weight"]), state[f"{name}.bias"]
        return conv(x, kernel, padding=1) + _by_channel(bias)

    x = as_var(latents) @ as_var(state["l1.0.weight"]).T + as_var(state["l1.0.bias"])
    channels = as_var(state["conv_blocks0.0.weight"]).shape[0]
    side = int((x.shape[1] // channels) ** 0.5)
    x = x.reshape(-1, channels, side, side)
    x = batch_norm(x, state, "conv_blocks0.0", is_train, inputs)
    for block in ("conv_blocks1", "conv_blocks2"):
        x = convolve(_twice(x), f"{block}.0")
        x = leaky_relu(batch_norm(x, state, f"{block}.1", is_train, inputs, 0.8), 0.2)
    x = tanh(convolve(x, "conv_blocks2.3"))
    return batch_norm(x, state, "conv_blocks2.5", is_train, inputs), inputs


def _twice(x):
    """Each pixel as 2x2 equal ones."""
    return _take(x, *(np.repeat(np.arange(n), 2) for n in x.shape[2:]))


def _take(x, rows, columns):
    return x[:, :, rows[:, None], columns]


# Sections 7 and 8.3: losses.


def cross_entropies(logits: Var, labels: np.ndarray) -> Var:
    """Those of the rows, [B]."""
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def log_softmax(logits: Var) -> Var:
    logits = logits - logits.value.max(1, keepdims=True)
    return logits - log(exp(logits).sum(1))


def smooth(x: Var) -> Var:
    """Reflects each channel by two pixels at each border, and convolves it with the kernel."""
    batch, channels, height, width = x.shape
    offsets = np.arange(-2, 3)
    kernel = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4)
    kernel = (kernel / kernel.sum())[None, None]
    rows, columns = (np.pad(np.arange(n), 2, mode="reflect") for n in (height, width))
    reflected = _take(x, rows, columns).reshape(batch * channels, 1, height + 4, width + 4)
    return conv(reflected, as_var(kernel)).reshape(batch, channels, height, width)


def divergence(x: Var, state: State, name: str) -> Var:
    """D of a batch norm of the solver with the input x."""
    mean = x.mean(AXES)
    variance = ((x - mean) ** 2).mean(AXES) + 1e-8
    running_mean = _by_channel(state[f"{name}.running_mean"])
    running_variance = _by_channel(state[f"{name}.running_var"] + 1e-8)
    ratio = (running_variance + (running_mean - mean) ** 2) / variance
    return (log(variance**0.5 / running_variance**0.5) - (1 - ratio) * 0.5).mean()


class Learner:
    """One seed: its classifier, teacher and generator, and the states of both optimizers.

    Attributes:
      classifier, teacher, generator: `State`s.
      velocity: of the classifier's SGD; empty before its first step.
      first, second: Adam's moments of the generator's parameters.
      count: its number of steps.
    """

    def __init__(self, classifier: State, generator: State):
        self.classifier, self.teacher, self.generator = classifier, {}, generator
        self.velocity: State = {}
        self.first = {n: np.zeros(p.shape) for n, p in generator.items() if "running" not in n}
        self.second = dict(self.first)
        self.count = 0

    def begin_task(self):
        """Resets the classifier's optimizer, and nothing else."""
        self.velocity = {}

    def freeze(self):
        """Copies the classifier as the teacher."""
        self.teacher = dict(self.classifier)

    def train(self, images, labels, seen, rate) -> dict[str, float]:
        """A step of the first task; returns the loss, and the fraction of right labels."""
        state = _with_variables(self.classifier)
        _, logits, inputs = resnet(state, images, True)
        loss = cross_entropies(logits, labels).mean()
        self._descend(state, loss, rate)
        self.classifier = moved(self.classifier, inputs)
        right = logits.value[:, :seen].argmax(1) == labels
        return {"class": loss.value.item(), "accuracy": right.mean()}

    def train_later(self, images, labels, latents, old, seen, rate) -> dict[str, float]:
        """A step of a later task; returns the loss terms, and fractions of right labels."""
        count = len(labels)
        dreamed = generator(self.generator, latents, False)[0].value
        images = np.concatenate([images, dreamed])
        features_before, logits_before, _ = resnet(self.teacher, images, False)
        dreamed_labels = logits_before.value[count:, :old].argmax(1)
        labels = np.concatenate([labels, dreamed_labels])
        weights = np.where(labels < old, old / seen, 1 - old / seen)

        state = _with_variables(self.classifier)
        features, logits, inputs = resnet(state, images, True)
        local = cross_entropies(logits[:count, old:seen], labels[:count] - old)
        fine = cross_entropies(head(state, stop(features)), labels)
        differences = (features - features_before.value) @ as_var(
            self.teacher["last.weight"][:old]
        ).T
        terms = {
            "local": (local * weights[:count]).mean(),
            "head": (fine * weights).mean(),
            "distillation": MU * (differences**2).sum(1).mean().reshape(1) / old,
        }
        self._descend(state, terms["local"] + terms["head"] + terms["distillation"], rate)
        self.classifier = moved(self.classifier, inputs, times=2)
        right = logits.value[:, :seen].argmax(1) == labels
        return {name: term.value.item() for name, term in terms.items()} | {
            "accuracy": right[:count].mean(),
            "dreamed_accuracy": right[count:].mean(),
        }

    def invert(self, latents, seen) -> dict[str, float]:
        """A step of the generator against the teacher; returns the loss terms."""
        state = _with_variables(self.generator)
        images, inputs = generator(state, latents, True)
        _, logits, of_teacher = resnet(self.teacher, images, False)
        logits = logits[:, :seen]
        labels = logits.value.argmax(1)
        mean = exp(log_softmax(logits)).mean(0)
        divergences = [divergence(x, self.teacher, name) for name, x in of_teacher.items()]
        terms = {
            "content": CONTENT * cross_entropies(logits / TEMPERATURE, labels).mean(),
            "balance": 1 + (mean * log(mean)).sum() / np.log(seen),
            "statistics": STATISTICS / len(divergences) * sum(divergences, Var(0.0)),
            "prior": PRIOR * ((images - smooth(images)) ** 2).mean(),
        }
        loss = sum(terms.values(), Var(0.0))
        grads = autodiff.gradients(loss, {name: state[name] for name in self.first})
        self.generator = moved(self.generator, inputs)
        self.count += 1
        for name, grad in grads.items():
            self.first[name] = 0.9 * self.first[name] + 0.1 * grad
            self.second[name] = 0.999 * self.second[name] + 0.001 * grad**2
            first = self.first[name] / (1 - 0.9**self.count)
            second = self.second[name] / (1 - 0.999**self.count)
            step = ADAM_RATE * first / (np.sqrt(second) + 1e-8)
            self.generator[name] = self.generator[name] - step
        return {name: term.value.item() for name, term in terms.items()}

    def _descend(self, state, loss, rate):
        """Torch's SGD, with weight decay on every parameter."""
        variables = {name: x for name, x in state.items() if isinstance(x, Var)}
        self.classifier = dict(self.classifier)
        for name, grad in autodiff.gradients(loss, variables).items():
            grad = grad + WEIGHT_DECAY * self.classifier[name]
            before = self.velocity.get(name)
            self.velocity[name] = grad if before is None else MOMENTUM * before + grad
            self.classifier[name] = self.classifier[name] - rate * self.velocity[name]


def rate(epoch: int, milestones: Sequence[int], start: float = 0.1) -> float:
    """The learning rate of an epoch (section 5)."""
    return start * 0.1 ** sum(milestone <= epoch for milestone in milestones)


def logits(state: State, images: np.ndarray) -> np.ndarray:
    """Logits [B, K] in eval mode, by which test images are scored."""
    return resnet(state, images, False)[1].value


def _with_variables(state):
    """The state with its parameters as variables; running statistics stay arrays."""
    return {name: x if "running" in name else Var(x) for name, x in state.items()}
