"""ResNet-18 to 50 in plain NumPy, straight from a PyTorch state dict: what torchvision computes."""

import re

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def features(state: dict[str, np.ndarray], images: np.ndarray, max_pool: bool) -> np.ndarray:
    """Features [B, D] in eval mode of images [B, C, H, W]; in the dtype of both."""
    size = state["conv1.weight"].shape[-1]
    x = _conv(images, state["conv1.weight"], 2 if size == 7 else 1)
    x = _relu(_norm(x, state, "bn1"))
    if max_pool:
        x = pool(x)
    blocks = {m[1]: None for name in state if (m := re.match(r"(layer\d\.\d+)\.", name))}
    for block in blocks:
        starts_stage = block.endswith(".0") and not block.startswith("layer1")
        x = _block(x, state, block, 2 if starts_stage else 1)
    return x.mean((2, 3))


def pool(x: np.ndarray) -> np.ndarray:
    """3x3 maxima with stride 2 of [B, C, H, W], padded by one pixel that is never one."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    return sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2].max((-1, -2))


def _block(x, state, name, stride):
    shortcut, y, count = x, x, 3 if f"{name}.conv3.weight" in state else 2
    for i in range(1, count + 1):
        # A bottleneck's 3x3 convolution has the stride; a basic block's first one.
        step = stride if i == count - 1 else 1
        y = _norm(_conv(y, state[f"{name}.conv{i}.weight"], step), state, f"{name}.bn{i}")
        y = _relu(y) if i < count else y
    if f"{name}.downsample.0.weight" in state:
        shortcut = _conv(x, state[f"{name}.downsample.0.weight"], stride)
        shortcut = _norm(shortcut, state, f"{name}.downsample.1")
    return _relu(y + shortcut)


def _conv(x, kernel, stride):
    size = kernel.shape[-1]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, kernel, optimize=True)


def _norm(x, state, name):
    def channel(key):
        return state[f"{name}.{key}"][:, None, None]

    x = (x - channel("running_mean")) / np.sqrt(channel("running_var") + 1e-5)
    return x * channel("weight") + channel("bias")


def _relu(x):
    return np.maximum(x, 0)
