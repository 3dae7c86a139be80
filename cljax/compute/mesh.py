"""Arranges devices: rows share the seeds, and the devices of a row share a batch.

Programs are written for one seed and whole batches. `Executor` gives every row its seeds, and XLA
divides a batch that `shard_batch` has marked, with whatever must then be summed over the row, such
as a batch's statistics and gradients.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cljax.compute import per_seed
from cljax.errors import UserError

PyTree = Any

SEEDS, DATA = "seeds", "data"


def make_mesh(
    seeds: int,
    data: int,
    num_seeds: int,
    batch_size: int,
    devices: Sequence[Any] | None = None,
) -> Mesh | None:
    """Makes the mesh of the devices of all processes; None for a single device.

    Args:
      seeds, data: wanted sizes of the axes SEEDS and DATA, as `mesh_shape` takes them.
      num_seeds, batch_size: numbers that the axes must divide.
      devices: devices of the mesh; None: all.

    Raises:
      UserError: as `mesh_shape`; or a process would have no work.
    """
    devices = jax.devices() if devices is None else devices
    shape = mesh_shape(len(devices), seeds, data, num_seeds, batch_size)
    # In their order, a row lies within one process where possible. Unlike `jax.make_mesh`, this
    # accepts any number of devices of a TPU's grid.
    used = devices[: shape[0] * shape[1]]
    for process in sorted({d.process_index for d in devices} - {d.process_index for d in used}):
        raise UserError(
            f"config.mesh: {shape[0]} x {shape[1]} devices (seeds x data) leave process {process} "
            "without work; start fewer processes"
        )
    if len(used) == 1:
        return None
    return Mesh(np.array(used).reshape(shape), (SEEDS, DATA), axis_types=(AxisType.Auto,) * 2)


def mesh_shape(
    num_devices: int, seeds: int, data: int, num_seeds: int, batch_size: int
) -> tuple[int, int]:
    """Returns the numbers of devices along the seeds and along the data.

    Args:
      num_devices: number of devices.
      seeds, data: wanted numbers; 0: as many as fit, seeds first.
      num_seeds, batch_size: numbers that each must divide.

    Raises:
      UserError: the wanted numbers do not fit.
    """
    wanted = {"seeds": (seeds, num_seeds), "data": (data, batch_size)}
    for axis, (count, total) in wanted.items():
        if count < 0:
            raise UserError(f"config.mesh.{axis}={count}: must be 0 (as many as fit) or more")
        if count and total % count:
            what = f"the {total} seeds"
            if axis == "data":
                what = f"both config.batch_size and config.eval.batch_size, as divisors of {total}"
            raise UserError(f"config.mesh.{axis}={count}: must divide {what}")
    if max(seeds, 1) * max(data, 1) > num_devices:
        raise UserError(
            f"config.mesh: {max(seeds, 1)} x {max(data, 1)} devices (seeds x data) are wanted, but "
            f"only {num_devices} exist"
        )
    seeds = seeds or _largest_divisor(num_seeds, num_devices // max(data, 1))
    return seeds, data or _largest_divisor(batch_size, num_devices // seeds)


def _largest_divisor(number, limit):
    return max(n for n in range(1, limit + 1) if number % n == 0)


def shard_batch(batch: PyTree) -> PyTree:
    """Marks a batch to be divided along axis 0 among the devices of a row; values stay.

    Call it where a batch is made. It does nothing without a mesh, or if the batch does not divide.
    """
    count = jax.sharding.get_abstract_mesh().shape.get(DATA, 1)

    def shard(x):
        if count == 1 or x.shape[0] % count:
            return x
        return jax.lax.with_sharding_constraint(x, P(DATA))

    return jax.tree.map(shard, batch)


def replicate(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Puts NumPy arrays, equal in every process, on all devices of the mesh; None: on one."""
    if mesh is None:
        return jax.device_put(tree)
    return jax.tree.map(lambda x: _place(x, NamedSharding(mesh, P())), tree)


def by_seed(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of values stacked along axis 0 by seed: every row has its own."""
    return NamedSharding(mesh, P(SEEDS))


def stack_seeds(mesh: Mesh, per_seed: list[PyTree]) -> PyTree:
    """Stacks values of seeds, equal in every process, along axis 0, and gives each row its own."""
    sharding = by_seed(mesh)
    return jax.tree.map(lambda *leaves: _place(np.stack(leaves), sharding), *per_seed)


def place_batches(mesh: Mesh, read: Callable, rows: np.ndarray) -> jax.Array:
    """Reads batches for the devices of a mesh: each gets its seeds' and its share of a batch.

    Args:
      mesh: the mesh.
      read: int [...] -> array [..., H, W, C]; called for every device of this process.
      rows: int [seeds, W, B], equal in every process.

    Returns:
      [seeds, W, B, H, W, C].
    """
    divides = rows.shape[2] % mesh.shape[DATA] == 0
    sharding = NamedSharding(mesh, P(SEEDS, None, DATA if divides else None))
    shape = *rows.shape, *read(rows[:0, 0, 0]).shape[1:]

    def read_part(part: Any) -> np.ndarray:
        return read(rows[part[:3]])

    return jax.make_array_from_callback(shape, sharding, read_part)


def _place(x, sharding):
    x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
    # Other than `jax.device_put`, this does not compare the values of all processes.
    return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)


def map_seeds(mesh: Mesh, function: Callable) -> Callable:
    """Returns `function` of one seed as a function of a group: every row runs its own seeds.

    A single seed of a row is no mapped axis, as weights per seed would turn its convolutions into
    grouped ones. Arguments are those of `Executor.call`, reduced to one group.
    """

    def of_row(*args):
        if jax.tree.leaves(per_seed.only(args))[0].shape[0] > 1:
            return jax.vmap(function, in_axes=per_seed.axes(args))(*args)
        first = per_seed.map_per_seed(args, lambda value: jax.tree.map(lambda x: x[0], value))
        return jax.tree.map(lambda x: x[None], function(*first))

    def of_group(*args):
        return jax.shard_map(
            of_row,
            mesh=mesh,
            in_specs=per_seed.map_per_seed(args, lambda _: P(SEEDS), lambda _: P()),
            out_specs=P(SEEDS),
            axis_names={SEEDS},  # within a row the axis DATA stays automatic
            check_vma=False,
        )(*args)

    return of_group
