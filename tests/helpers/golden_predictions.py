"""Predicts golden arrays from the random draws behind them, or from other golden arrays.

The reference code ran on random states and images. Whoever knows the seed and the position in the
stream can draw them again; `compact.py` stores only the differences.
"""

import functools
import math

import numpy as np

# Images of `lucir/`: seed, number of images, and where the colors of their blocks and the noise of
# their pixels begin in the stream of PCG64.
_IMAGES = {
    ("lucir_resnet32", "x"): (1000, 16, 213923, 216995),
    ("lucir_update_incremental", "step1.x"): (2000, 16, 659, 6803),
    ("lucir_update_incremental", "step2.x"): (2000, 16, 3731, 55955),
    ("lucir_update_first_phase", "step1.x"): (2500, 16, 0, 3072),
    ("lucir_update_first_phase", "step2.x"): (2500, 16, 52232, 55304),
    ("lucir_evaluation", "x"): (5000, 40, 0, 7680),
    ("lib_lucir", "imprint.x"): (7000, 20, 0, 3840),
}
_MEAN, _STD = np.array([[0.5071, 0.4866, 0.4409], [0.2009, 0.1984, 0.2023]])[..., None, None]
_HERDING = "lucir_herding_and_means"


def predict(folder: str, file: str, name: str, files: dict) -> np.ndarray | None:
    """Predicts an array.

    Args:
      folder: "dfcil" or "lucir".
      file: the golden file, without ending.
      name: of the array of floats in the file.
      files: the arrays before it, by file and name.

    Returns:
      An array of the same shape, float32 or float64, or None where nothing is known.
    """
    return {"dfcil": _predict_dfcil, "lucir": _predict_lucir}[folder](file, name, files)


def _predict_dfcil(file, name, files):
    states = files["states"]
    kind, _, tensor = name.partition("/")
    if file == "float64":
        return files[kind][tensor]
    if file == "states":
        return _generator().get(tensor) if kind == "G" else states.get(f"M/{tensor}")
    _, after, tensor = name.rpartition("after/")
    return states.get(f"M/{tensor}") if after else None


def _predict_lucir(file, name, files):
    if (file, name) in _IMAGES:
        return _images(*_IMAGES[file, name])
    if file == _HERDING and name.startswith("features"):
        return _predict_features(name, files)
    if file == "lucir_resnet32":
        return _resnet().get(name)
    kind, _, tensor = name.partition(".")
    start = files["lucir_resnet32"].get(f"state.{tensor}")
    after = files.get(file, {}).get(f"after_step1.{tensor}")
    if kind == "after_step1":
        return start
    if kind == "after_step2":
        return after
    if kind == "grad_step1" and start is not None and after is not None:
        # SGD with learning rate 0.1 and weight decay 5e-4.
        return (start - after) / np.float32(0.1) - np.float32(5e-4) * start
    return None


def _torch_uniform(seed, count):
    """The first draws of PyTorch from [0, 1) in float32."""
    words = np.random.RandomState(seed).randint(2**32, size=count, dtype=np.uint32)
    return (words & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)


@functools.cache
def _generator():
    """PyTorch's initial tensors of the CIFAR generator: uniform, bounded by 1 / sqrt(fan-in)."""
    tensors = {
        "l1.0.weight": ((8192, 1000), 1000),
        "l1.0.bias": ((8192,), 1000),
        "conv_blocks1.0.weight": ((128, 128, 3, 3), 128 * 9),
        "conv_blocks1.0.bias": ((128,), 128 * 9),
        "conv_blocks2.0.weight": ((64, 128, 3, 3), 128 * 9),
        "conv_blocks2.0.bias": ((64,), 128 * 9),
        "conv_blocks2.3.weight": ((3, 64, 3, 3), 64 * 9),
        "conv_blocks2.3.bias": ((3,), 64 * 9),
    }
    sizes = [math.prod(shape) for shape, _ in tensors.values()]
    draws = np.split(_torch_uniform(1000, sum(sizes)), np.cumsum(sizes)[:-1])
    found = {}
    for (name, (shape, fan_in)), draw in list(zip(tensors.items(), draws, strict=True))[1:]:
        bound = float(np.float32(1 / math.sqrt(fan_in)))
        found[name] = (
            (draw.astype(np.float64) * (2 * bound) - bound).astype(np.float32).reshape(shape)
        )
    return found


@functools.cache
def _resnet():
    """PyTorch's initial convolutions of LUCIR's ResNet-32: normal, by their fan-out."""
    shapes = {"conv1": (16, 3, 3, 3)}
    for stage, width in enumerate((16, 32, 64), start=1):
        for block in range(5):
            narrow = width // 2 if stage > 1 and block == 0 else width
            part = f"layer{stage}.{block}"
            shapes[f"{part}.conv1"] = (width, narrow, 3, 3)
            shapes[f"{part}.conv2"] = (width, width, 3, 3)
            if narrow < width:
                shapes[f"{part}.downsample.0"] = (width, narrow, 1, 1)
    # The layers' default initialization, which they replace, takes the first draws.
    sizes = [466992] + [math.prod(shape) for shape in shapes.values()]
    draws = np.split(_torch_uniform(1000, sum(sizes)), np.cumsum(sizes)[:-1])[1:]
    found = {}
    for (name, shape), draw in zip(shapes.items(), draws, strict=True):
        std = math.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        found[f"state.{name}.weight"] = (_box_muller(draw) * np.float32(std)).reshape(shape)
    return found


def _box_muller(uniform):
    """PyTorch's normal numbers from uniform ones: eight cosines, then eight sines; float32."""
    first, second = uniform.reshape(-1, 2, 8).astype(np.float64).swapaxes(0, 1)
    radius = np.sqrt(-2 * np.log(1 - first)).astype(np.float32)
    angle = (second.astype(np.float32) * np.float32(2 * np.pi)).astype(np.float64)
    parts = [radius * part(angle).astype(np.float32) for part in (np.cos, np.sin)]
    return np.stack(parts, 1).reshape(-1)


def _pcg64_uniform(seed, start, count):
    words = np.random.PCG64(seed).advance(start).random_raw(count)
    return (words >> 11) * 2.0**-53


def _images(seed, count, colors, noise):
    """Images [B, 3, 32, 32] of blocks of 4x4 pixels and noise, normalized as LUCIR does."""
    blocks = _pcg64_uniform(seed, colors, count * 192).reshape(count, 3, 8, 8)
    blocks = blocks.repeat(4, 2).repeat(4, 3)
    pixels = _pcg64_uniform(seed, noise, blocks.size).reshape(blocks.shape)
    return ((0.7 * blocks + 0.3 * pixels - _MEAN) / _STD).astype(np.float32)


@functools.cache
def herding_draws() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draws the features behind `lucir_herding_and_means`, samples in the order of the draws.

    Returns:
      float64 features of the training images [6, 500, 64], what a flipped image adds to them, and
      features of the test images [6, 20, 64]. The third class lies in nine tight clusters.
    """
    random = np.random.default_rng(3000)
    means = 0.22 * random.standard_normal((6, 1, 64))
    noise = random.standard_normal((6, 500, 64))
    centers = random.standard_normal((9, 64))
    noise[2] = centers[random.integers(0, 9, 500)] + 0.02 * noise[2]
    flips = 0.5 * random.standard_normal((6, 500, 64))
    return means + noise, flips, means + random.standard_normal((6, 20, 64))


def _predict_features(name, files):
    train, flips, test = herding_draws()
    if name == "features_test":
        return test
    order = files["herding_order"]["order"][..., None].astype(np.int64)
    if name == "features_train":
        return np.take_along_axis(train, order, 1)
    return files[_HERDING]["features_train"] + np.take_along_axis(flips, order, 1)
