"""Small networks with ready values, for tests of rules rather than of numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from cljax.models import LATENT_SIZE, Classifier, Generator, make_classifier

NUM_CLASSES = 10
IMAGE_SHAPE = (8, 8, 3)


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
