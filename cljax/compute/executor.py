"""The one place that decides how steps repeat and how seeds share a device.

What is fastest differs per backend, so the rest of the program writes single steps of single
seeds. On CPU convolutions inside a compiled loop leave XLA's fast path (steps take 3 to 5 times as
long), so there the host loops over steps; elsewhere an epoch is one compiled loop. Steps that need
not wait for each other, as those of an evaluation, are faster on CPU if every core has its own
(`Executor.add_up`). Seeds follow one another through the same programs unless they are asked to be
a `vmap`ped axis: weights per seed turn convolutions into grouped ones, about twice as slow per seed
on CPU. With many devices, seeds run side by side on rows of them; see `cljax.compute.mesh`.
"""

import concurrent.futures
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cljax.compute import mesh as mesh_lib
from cljax.compute import processes
from cljax.compute.compilation import compiler_options
from cljax.compute.device import num_cores

PyTree = Any


class Executor:
    """Runs functions of one seed for all seeds, each function compiled once per phase.

    Per-seed values are lists with an entry per seed at every border of this class; `pack` and
    `unpack` turn them into the executor's own form and back. That is a list of groups: seeds in
    one group run at the same time, groups one after the other through the same programs. Without
    a mesh a group is a seed, or all seeds if they are `vmap`ped; on a mesh every row of devices has
    a seed of it, or its share of all seeds. Values of a group are stacked along axis 0, unless it
    can only be a single seed.

    Attributes:
      vmap_seeds: whether seeds on one device are a `vmap`ped axis (else one follows the other).
      compiled_loop: whether repeated steps are one compiled loop (otherwise the host loops).
      mesh: see `cljax.compute.mesh`; None: one device.
      cores: of a CPU, to take steps of their own in `add_up`; 0: the device takes them in turn.
      compile_seconds: time spent in calls that traced and compiled a program.
      programs: (compiled function, shapes and dtypes of its arguments) of each.
      when_compiling: called with True when a program begins to be compiled (or loaded from JAX's
        cache on disk), and with False when it is there.
    """

    def __init__(
        self,
        vmap_seeds: bool = False,
        compiled_loop: bool | None = None,
        mesh: jax.sharding.Mesh | None = None,
    ):
        """`compiled_loop` None takes what is fastest on the device at hand."""
        self.vmap_seeds = vmap_seeds
        on_cpu = jax.default_backend() == "cpu"
        self.compiled_loop = not on_cpu if compiled_loop is None else compiled_loop
        self.mesh = mesh
        self.cores = num_cores() if on_cpu and not self.compiled_loop and mesh is None else 0
        self.compile_seconds = 0.0
        self._compiled = {}
        self.programs = []
        self.when_compiling = lambda begins: None

    @property
    def _is_stacked(self):
        return self.vmap_seeds or self.mesh is not None

    def _groups(self, per_seed):
        size = 1 if self.mesh is None else self.mesh.shape[mesh_lib.SEEDS]
        size = len(per_seed) if self.vmap_seeds else size
        return [per_seed[i : i + size] for i in range(0, len(per_seed), size)]

    def pack(self, per_seed: Sequence[PyTree]) -> PyTree:
        """A list over seeds in the executor's form."""
        if not self._is_stacked:
            return list(per_seed)
        if self.mesh is None:
            return [jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_seed)]
        return [mesh_lib.stack_seeds(self.mesh, group) for group in self._groups(per_seed)]

    def unpack(self, packed: PyTree) -> list[PyTree]:
        """The executor's form as a list over seeds; of a mesh, on the host of every process."""
        if not self._is_stacked:
            return packed
        if self.mesh is not None:
            packed = processes.gather(packed)
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i], group)
            for group in packed
            for i in range(jax.tree.leaves(group)[0].shape[0])
        ]

    def describe(self, packed: PyTree) -> PyTree:
        """Shapes and dtypes of one seed's value, as `jax.eval_shape` takes and gives them."""
        shape = jax.eval_shape(lambda value: value, packed[0])
        if not self._is_stacked:
            return shape
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), shape)

    def zip(self, *packed: PyTree) -> PyTree:
        """Several packed values as one packed tuple."""
        return list(zip(*packed, strict=True))

    def unzip(self, packed: PyTree) -> tuple[PyTree, ...]:
        """The inverse of `zip`."""
        return tuple(map(list, zip(*packed, strict=True)))

    def each(self, function: Callable, packed: PyTree) -> PyTree:
        """A function of a value's structure alone, for every seed; nothing is computed."""
        return [function(group) for group in packed]

    def call(self, function: Callable, shared: PyTree, *packed: PyTree) -> PyTree:
        """`function(shared, *of one seed)` for every seed; packed arguments, packed result."""
        compiled = self._compile(function, function)
        return [compiled(shared, *group) for group in zip(*packed, strict=True)]

    def repeat(
        self,
        step: Callable,
        shared: PyTree,
        constant: PyTree,
        carry: PyTree,
        starts: Sequence[int],
        stops: Sequence[int],
        stopped: Callable[[], bool] = lambda: False,
        on_one_core: bool = False,
    ) -> tuple[PyTree, list[int]]:
        """`carry = step(shared, constant, i, carry)` for i from start to stop, for every seed.

        Args:
          step: a step of one seed.
          shared: the same for all seeds.
          constant: packed; what does not change from step to step.
          carry: packed; its buffers are donated, and the list is written to.
          starts, stops: per seed; they may differ.
          stopped: asked between steps where the host loops; True ends the loop early.
          on_one_core: of a CPU, as others are busy with steps of their own. The same in all calls
            with this step.

        Returns:
          The packed carry, and the number of steps that each seed has reached.
        """
        one = _one_step(step)
        function = _loop(one) if self.compiled_loop else one
        compiled = self._compile(step, function, donated=2, on_one_core=on_one_core)
        ends = []
        for place, bounds in enumerate(self._groups(list(zip(starts, stops, strict=True)))):
            first, last = min(start for start, _ in bounds), max(stop for _, stop in bounds)
            # Seeds with equal numbers of steps need no guard.
            limits = None if len(set(bounds)) == 1 else self.pack(np.int32(bounds))[0]
            args = shared, constant[place], carry[place], limits
            carry[place], end = self._run(compiled, *args, first, last, stopped)
            ends += [max(start, min(end, stop)) for start, stop in bounds]
        return carry, ends

    def add_up(
        self, step: Callable, shared: PyTree, constant: PyTree, zeros: Sequence[PyTree], count: int
    ) -> list[PyTree]:
        """What `count` steps, as `repeat` takes them, add to a carry of zeros, for every seed.

        A step may do nothing but add to the carry. On CPU every core then takes steps of its own,
        through programs made for one core.

        Args:
          step, shared, constant: as in `repeat`.
          zeros: per seed, NumPy arrays.
          count: of steps, for all seeds.

        Returns:
          Per seed, the sums on the host.
        """
        precision = jax.config.jax_default_matmul_precision

        def add(start, stop):
            starts, stops = [start] * len(zeros), [stop] * len(zeros)
            carry = self.pack(jax.device_put(list(zeros)))
            args = step, shared, constant, carry, starts, stops
            with jax.default_matmul_precision(precision):  # a thread knows nothing of the caller's
                carry, _ = self.repeat(*args, on_one_core=bool(self.cores))
            return jax.device_get(self.unpack(carry))

        if not self.cores:
            return add(0, count)
        first = min(count, 1)
        parts = [add(0, first)]  # what threads would compile at the same time is there then
        bounds = np.linspace(first, count, self.cores + 1).astype(int).tolist()
        with concurrent.futures.ThreadPoolExecutor(self.cores) as pool:
            parts += pool.map(add, bounds[:-1], bounds[1:])
        return [jax.tree.map(lambda *terms: sum(terms), *sums) for sums in zip(*parts, strict=True)]

    def _run(self, compiled, shared, constant, carry, limits, start, stop, stopped):
        if self.compiled_loop:
            return compiled((shared, start, stop), constant, carry, limits), stop
        for i in range(start, stop):
            if stopped():
                return carry, i
            # Waiting lets a request to stop be heard; CPU steps are long enough to hide it.
            carry = jax.block_until_ready(compiled((shared, i), constant, carry, limits))
        return carry, stop

    def _compile(self, key, function, donated=None, on_one_core=False):
        if key not in self._compiled:
            options = {"compiler_options": compiler_options(on_one_core)}
            if self.mesh is not None:
                function = mesh_lib.map_seeds(self.mesh, function)
                options["out_shardings"] = mesh_lib.by_seed(self.mesh)
            elif self.vmap_seeds:
                function = _vmap_all_but_first(function)
            function = self._announced(function)
            donated = () if donated is None else (donated,)
            self._compiled[key] = jax.jit(function, donate_argnums=donated, **options)
        return functools.partial(self._timed, self._compiled[key])

    def _announced(self, function):
        """A function of its own: all that JAX compiles of one function is counted together."""

        @functools.wraps(function)
        def traced(*args):  # JAX calls it to make a program of it, never to run that
            self.when_compiling(True)
            return function(*args)

        return traced

    def _timed(self, compiled, *args):
        count, start = compiled._cache_size(), time.perf_counter()
        result = compiled(*args)
        if compiled._cache_size() > count:
            self.compile_seconds += time.perf_counter() - start
            self.programs.append((compiled, jax.tree.map(_describe, args)))
            self.when_compiling(False)
        return result

    def num_compilations(self) -> dict[str, int]:
        """How many programs each function became."""
        return {f.__name__: c._cache_size() for f, c in self._compiled.items()}

    def lower(self, function: Callable) -> jax.stages.Lowered:
        """The newest program of a function that was called or repeated, for analysis.

        It is JAX's own copy: neither this nor its `compile()` costs anything, as long as the
        precision in force is the call's.
        """
        found = [(c, args) for c, args in self.programs if c is self._compiled[function]]
        compiled, args = found[-1]
        return compiled.lower(*args)


def _describe(leaf):
    """What of an argument the program depends on; its buffer may be donated by now."""
    if not isinstance(leaf, jax.Array):
        return leaf
    sharding = leaf.sharding if leaf.committed else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type)


def _one_step(step):
    def one(shared, constant, carry, limits):
        shared, i = shared
        after = step(shared, constant, i, carry)
        if limits is None:
            return after
        start, stop = limits
        inside = (start <= i) & (i < stop)
        return jax.tree.map(lambda new, old: jnp.where(inside, new, old), after, carry)

    return one


def _loop(one):
    def loop(shared, constant, carry, limits):
        shared, start, stop = shared
        return jax.lax.fori_loop(
            start, stop, lambda i, carry: one((shared, i), constant, carry, limits), carry
        )

    return loop


def _vmap_all_but_first(function):
    @functools.wraps(function)
    def mapped(shared, *args):
        return jax.vmap(lambda *one: function(shared, *one))(*args)

    return mapped
