"""Runs a program's steps in shape only, and compiles them for devices that are not here."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from cljax.compute import mesh as mesh_lib
from cljax.compute import per_seed
from cljax.compute.executor import Executor

PyTree = Any
_LOWERED_FOR = {"gpu": "cuda", "tpu": "tpu"}


class TargetExecutor(Executor):
    """Executes nothing: results have shapes and dtypes, and every program can be compiled.

    Must be made and used within `device.programs_for(platform)`, so that programs are those of a
    run on that platform. Arguments may be arrays or `jax.ShapeDtypeStruct`.

    Attributes:
      platform: "gpu" or "tpu".
      target: a device of the target; without a mesh, the one that has everything.
    """

    def __init__(
        self,
        platform: str,
        target: Any,
        sharing: str,
        mesh: jax.sharding.Mesh | None,
        graphs: str,
    ):
        """Takes an accelerator's loop."""
        super().__init__(sharing, compiled_loop=True, mesh=mesh, graphs=graphs)
        self.platform = platform
        self.target = target

    def sum_steps(self, step, inputs, zeros, count) -> list[PyTree]:
        """Takes note of the program of `count` steps; returns the zeros, as nothing is added."""
        carry = self.distribute(list(zeros))
        self.repeat(step, inputs, carry, [0] * len(zeros), [count] * len(zeros))
        return list(zeros)

    def held_bytes(self, function: Any, num_seeds: int) -> tuple[int, int]:
        """Returns the bytes that a device holds when a function's program runs.

        Returns:
          Those of all arguments, which include what the program does not use, and those of the
          seeds that wait for their turn.
        """
        arguments = [p.arguments for (f, _), p in self._compiled.items() if f is function][-1]
        groups = len(self._grouped(range(num_seeds)))
        waiting = groups - len(per_seed.only(arguments)[0].groups)
        return _shard_bytes(arguments), waiting * _shard_bytes(per_seed.only(arguments))

    def place(self, args: PyTree) -> PyTree:
        """Returns the shapes of arguments as the target's devices have them."""
        alone = SingleDeviceSharding(self.target)
        of_all = of_seed = alone
        if self.mesh is not None:
            of_all, of_seed = NamedSharding(self.mesh, PartitionSpec()), mesh_lib.by_seed(self.mesh)
        return per_seed.map_per_seed(
            args,
            lambda value: jax.tree.map(lambda x: _shape(x, of_seed), value),
            lambda x: _shape(x, of_all),
        )

    def _stack(self, group: Sequence[PyTree]) -> PyTree:
        def stack(*leaves):
            shape = (len(leaves), *np.shape(leaves[0]))
            return jax.ShapeDtypeStruct(shape, jax.dtypes.result_type(leaves[0]))

        return jax.tree.map(stack, *group)

    def _program(self, function, repeats=False, on_one_core=False):
        if (function, repeats) not in self._compiled:
            program = super()._program(function, repeats)
            self._compiled[function, repeats] = _Program(self, program)
        return self._compiled[function, repeats]


class _Program:
    """Stands in for a jitted function: a call gives shapes, and a new one counts as compiled."""

    def __init__(self, executor, jitted):
        self.executor, self.jitted = executor, jitted
        self.arguments = None
        self._known = {}

    def __call__(self, *args):
        self.arguments = args = self.executor.place(args)
        leaves, structure = jax.tree.flatten(args)
        key = structure, tuple((x.shape, x.dtype, x.weak_type) for x in leaves)
        if key not in self._known:
            self._known[key] = self.jitted.eval_shape(*args)
        return self._known[key]

    def _cache_size(self):
        return len(self._known)

    def lower(self, *args):
        """Lowers the program for the target."""
        traced = self.jitted.trace(*self.executor.place(args))
        return traced.lower(lowering_platforms=(_LOWERED_FOR[self.executor.platform],))


def _shard_bytes(tree):
    """Bytes of a tree's arrays on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def _shape(x, sharding):
    weak = getattr(x, "weak_type", type(x) in (int, float))
    return jax.ShapeDtypeStruct(
        np.shape(x), jax.dtypes.result_type(x), sharding=sharding, weak_type=weak
    )
