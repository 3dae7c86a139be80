"""Keeps images on the host that do not fit the device, and brings a training epoch's to it ahead.

Compiled code indexes `HostImages` like an array on the device: it then waits for the host. The
steps of a training epoch need not wait, because the order of their images is known before:
`windows` reads them while the device computes.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from cljax.compute import mesh
from cljax.compute.executor import Executor
from cljax.compute.per_seed import PerSeed
from cljax.errors import UserError

# A compiled loop takes up to so many steps at once, as long as their images are not larger.
_WINDOW_STEPS, _WINDOW_BYTES = 16, 2**26
_READERS = 4  # threads; as many windows wait for the device


_mistakes: list[UserError] = []  # in images that compiled code asked for; JAX passes on a text


@contextlib.contextmanager
def reporting_mistakes() -> Iterator[None]:
    """Raises the UserError of an image that compiled code could not get, instead of JAX's."""
    _mistakes.clear()
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if _mistakes:
            raise _mistakes[0] from error
        raise


class ImageArray(Protocol):
    """What images can be read from: a NumPy array, also one mapped from a file, or files."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, H, W, C]."""
        ...

    def __getitem__(self, rows: Any, /) -> np.ndarray:
        """Reads the images of rows int [B]: uint8 [B, H, W, C]."""
        ...


@jax.tree_util.register_static
class HostImages:
    """Images of a split that stay on the host, static in compiled functions.

    Attributes:
      shape: [N, H, W, C].
      dtype: uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, images: ImageArray):
        self._images = images
        self.shape = images.shape

    def __getitem__(self, rows: jax.Array) -> jax.Array:
        """Returns the images of rows int32 [B] in compiled code, which waits for the host.

        On a mesh every device gets those rows of a batch that are its own.
        """
        found = jax.sharding.get_abstract_mesh()
        if found.empty:
            return self._fetch(rows)
        divides = rows.shape[0] % found.shape[mesh.DATA] == 0
        spec = P(mesh.DATA) if divides else P()
        # A callback needs all axes of the mesh to be manual; SEEDS is already.
        return jax.shard_map(
            self._fetch,
            mesh=found,
            in_specs=spec,
            out_specs=spec,
            axis_names={mesh.DATA},
            check_vma=False,
        )(rows)

    def _fetch(self, rows):
        def read(rows):
            try:
                return self.read(rows)
            except UserError as error:
                _mistakes.append(error)
                raise

        shape = jax.ShapeDtypeStruct((*rows.shape, *self.shape[1:]), self.dtype)
        return jax.pure_callback(read, shape, rows, vmap_method="expand_dims")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Reads images on the host: int [...] -> uint8 [..., H, W, C]."""
        rows = np.asarray(rows)
        return np.asarray(self._images[rows.ravel()]).reshape(*rows.shape, *self.shape[1:])


class Window(NamedTuple):
    """Holds the images of consecutive steps, for every seed.

    Attributes:
      starts, stops: the steps of each seed.
      images: uint8 [W, B, H, W, C] of each seed; those of step i are at i % W.
    """

    starts: list[int]
    stops: list[int]
    images: PerSeed[jax.Array]


def windows(
    executor: Executor,
    images: HostImages,
    orders: Sequence[np.ndarray],
    batch_size: int,
    starts: Sequence[int],
    stops: Sequence[int],
) -> Iterator[Window]:
    """Brings the images of an epoch's steps to the device, before the steps need them.

    Args:
      executor: says how many steps run at once, and on which devices images belong.
      images: the training images.
      orders: per seed int32 [capacity], rows of `images` in the order in which steps take them.
      batch_size: images per step B.
      starts, stops: first step, and the one after the last, of each seed.
    """
    import grain  # takes more than a second, and only images on the host need it

    steps = _num_steps(executor, batch_size, images.shape[1:])
    first, last = min(starts) // steps, -(-max(stops) // steps)
    source = _Source(executor, images, orders, steps, batch_size)
    options = grain.ReadOptions(num_threads=_READERS, prefetch_buffer_size=_READERS)
    dataset = grain.MapDataset.source(source)[first:last].to_iter_dataset(options)
    for k, found in enumerate(dataset, first):
        bounds = k * steps, (k + 1) * steps
        yield Window(np.clip(starts, *bounds).tolist(), np.clip(stops, *bounds).tolist(), found)


def _num_steps(executor, batch_size, image_shape):
    """Number of steps W of a window: one where the host loops over steps."""
    if not executor.compiled_loop:
        return 1
    return max(1, min(_WINDOW_STEPS, _WINDOW_BYTES // (batch_size * math.prod(image_shape))))


class _Source:
    """The windows' images on the device, by the number of the window, as Grain reads them."""

    def __init__(self, executor, images, orders, steps, batch_size):
        self._executor, self._images = executor, images
        self._shape = steps, batch_size
        padding = -min(map(len, orders)) % math.prod(self._shape)
        self._orders = [np.pad(order, (0, padding)) for order in orders]

    def __len__(self) -> int:
        return len(self._orders[0]) // math.prod(self._shape)

    def __getitem__(self, index: int) -> PerSeed[jax.Array]:
        size = math.prod(self._shape)
        own = slice(index * size, (index + 1) * size)
        rows = [order[own].reshape(self._shape) for order in self._orders]
        return self._executor.read(self._images.read, rows)
