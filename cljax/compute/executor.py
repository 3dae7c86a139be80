"""Decides how steps repeat and how seeds share a device; nothing else in the program does.

What is fastest differs per backend, so the rest of the program writes single steps of single
seeds. On CPU convolutions inside a compiled loop leave XLA's fast path (steps take 3 to 5 times as
long), so there the host loops over steps; elsewhere an epoch is one compiled loop. Steps that need
not wait for each other, as those of an evaluation, are faster on CPU if every core has its own
(`Executor.sum_steps`). Seeds follow one another through the same programs unless they are asked to
share one: as a `vmap`ped axis, where weights per seed turn convolutions into grouped ones, about
twice as slow per seed on CPU; or interleaved, where a step is the steps of all seeds, none of which
waits for another. With many devices, seeds run side by side on rows of them; see
`cljax.compute.mesh`.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cljax.compute import device, per_seed, processes
from cljax.compute import mesh as mesh_lib
from cljax.compute.compilation import compiler_options
from cljax.compute.packing import repack, unpack_all
from cljax.compute.per_seed import PerSeed

PyTree = Any
T = TypeVar("T")


class Executor:
    """Runs functions of one seed for all seeds, each function compiled once per phase.

    One rule says what is per seed: a `PerSeed`, wherever it stands in the arguments of `call`,
    `repeat` and `sum_steps`, reaches the function as the value of one seed; everything else is the
    same for all seeds. Results are `PerSeed`.

    Without a mesh a group of a `PerSeed` is a seed, or all seeds if they are `vmap`ped. On a mesh
    every row of devices has a seed of the group, or its share of all seeds.

    Attributes:
      sharing: how seeds share a device: "sequential", groups follow one another through the same
        programs; "interleaved", a program has all groups; "vmap", all seeds are one group.
      compiled_loop: whether repeated steps are one compiled loop (otherwise the host loops).
      mesh: see `cljax.compute.mesh`; None: one device.
      graphs: what of a program for a GPU is CUDA graphs: "off", nothing; "between", the kernels
        between convolutions; "step", a step; "epoch", a compiled loop.
      cores: number of CPU cores that take steps of their own in `sum_steps`; 0: the device takes
        all steps in turn.
      compile_seconds: time spent in calls that traced and compiled a program.
      idle_seconds: time in which the device, having nothing to do, waited for images.
      programs: (compiled function, shapes and dtypes of its arguments) of each.
      when_compiling: called with True when a program begins to be compiled (or loaded from JAX's
        cache on disk), and with False when it is there.
    """

    def __init__(
        self,
        sharing: str = "sequential",
        compiled_loop: bool | None = None,
        mesh: jax.sharding.Mesh | None = None,
        graphs: str = "between",
    ):
        """Takes what is fastest on the device at hand where `compiled_loop` is None."""
        self.sharing = sharing
        on_cpu = device.platform() == "cpu"
        self.compiled_loop = not on_cpu if compiled_loop is None else compiled_loop
        self.mesh = mesh
        self.graphs = graphs
        self.cores = device.num_cores() if on_cpu and not self.compiled_loop and mesh is None else 0
        self.compile_seconds = 0.0
        self.idle_seconds = 0.0
        self.programs: list[tuple[Any, PyTree]] = []
        self.when_compiling: Callable[[bool], None] = lambda begins: None
        self._compiled: dict[tuple[Callable, bool], Any] = {}

    def distribute(self, of_seeds: Sequence[PyTree]) -> PerSeed:
        """Returns a list over seeds as a `PerSeed`."""
        if not self._is_stacked:
            return PerSeed(tuple(of_seeds), stacked=False)
        return PerSeed(tuple(map(self._stack, self._grouped(of_seeds))), stacked=True)

    def read(self, read: Callable, rows: Sequence[np.ndarray]) -> PerSeed[jax.Array]:
        """Reads images on the host and puts them where the seeds' steps need them.

        Args:
          read: int [...] -> uint8 [..., H, W, C]; each process and device asks for its part.
          rows: per seed int [W, B], for W steps.

        Returns:
          uint8 [W, B, H, W, C] of every seed.
        """
        if not self._is_stacked:
            return PerSeed(tuple(jax.device_put(read(of_seed)) for of_seed in rows), stacked=False)
        groups = [np.stack(group) for group in self._grouped(rows)]
        if self.mesh is None:
            return PerSeed(tuple(jax.device_put(read(group)) for group in groups), stacked=True)
        placed = (mesh_lib.place_batches(self.mesh, read, group) for group in groups)
        return PerSeed(tuple(placed), stacked=True)

    def wait_for(self, found: Iterator[T], running: PyTree) -> T | None:
        """Returns the next of what the host prepares, or None; notes how long the device is idle.

        Args:
          found: gives what is prepared.
          running: arrays that the device may still compute.
        """
        idle = all(leaf.is_ready() for leaf in jax.tree.leaves(running))
        start = time.perf_counter()
        result = next(found, None)
        if idle:
            self.idle_seconds += time.perf_counter() - start
        return result

    def collect(self, value: PerSeed) -> list[PyTree]:
        """Returns a `PerSeed` as a list over seeds; from a mesh, on the host of every process."""
        if not value.stacked:
            return list(value.groups)
        groups = value.groups if self.mesh is None else processes.gather(value.groups)
        return [
            jax.tree.map(lambda leaf, i=i: leaf[i], group)
            for group in groups
            for i in range(jax.tree.leaves(group)[0].shape[0])
        ]

    def call(self, function: Callable, *args: PyTree) -> PerSeed:
        """Runs `function(*args)` for every seed."""
        run, results = self._program(function), []
        for given in self._in_turn(args):
            with self._watch(run, given):
                results += run(*given)
        return PerSeed(tuple(results), self._is_stacked)

    def repeat(
        self,
        step: Callable,
        inputs: PyTree,
        carry: PerSeed,
        starts: Sequence[int],
        stops: Sequence[int],
        stopped: Callable[[], bool] = lambda: False,
        on_one_core: bool = False,
    ) -> PerSeed:
        """Runs `carry = step(inputs, i, carry)` for i from start to stop, for every seed.

        Args:
          step: a step of one seed; i is int32 [].
          inputs: what does not change from step to step.
          carry: its buffers are donated. On a GPU a compiled loop carries `carry.pack()` of each
            seed if there is such a method (see `cljax.compute.packing`); the step does not see it.
          starts, stops: per seed; they may differ.
          stopped: asked between steps where the host loops; True ends the loop early.
          on_one_core: of a CPU, as others are busy with steps of their own. The same in all calls
            with this step.

        Returns:
          The last carry.
        """
        done = []
        bounds = list(zip(starts, stops, strict=True))
        bounds = [bounds] if self.sharing == "interleaved" else self._grouped(bounds)
        for (given, state), pairs in zip(self._in_turn((inputs, carry)), bounds, strict=True):
            first, last = np.int32(min(a for a, _ in pairs)), np.int32(max(b for _, b in pairs))
            function = step
            if len(set(pairs)) > 1:
                limits = self.distribute([np.array(pair, np.int32) for pair in pairs])
                function, given = _within(step), (given, limits)
            run = self._program(function, repeats=True, on_one_core=on_one_core)
            if self.compiled_loop:
                with self._watch(run, (given, first, last, state)):
                    state = state.replace(groups=run(given, first, last, state))
            else:
                for i in itertools.takewhile(lambda _: not stopped(), range(first, last)):
                    with self._watch(run, (given, np.int32(i), state)):
                        state = state.replace(groups=run(given, np.int32(i), state))
                    # Waiting lets a request to stop be heard; CPU steps are long enough to hide it.
                    jax.block_until_ready(state)
            done += state.groups
        return carry.replace(groups=tuple(done))

    def sum_steps(
        self, step: Callable, inputs: PyTree, zeros: Sequence[PyTree], count: int
    ) -> list[PyTree]:
        """Returns what `count` steps, as `repeat` takes them, add to zeros, for every seed.

        A step may do nothing but add to the carry. On CPU every core then takes steps of its own,
        through programs made for one core.

        Args:
          step, inputs: as in `repeat`.
          zeros: per seed, NumPy arrays.
          count: number of steps, the same for all seeds.

        Returns:
          Per seed, the sums on the host.
        """
        # JAX defines its settings at run time.
        precision = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]

        def add(start, stop):
            starts, stops = [start] * len(zeros), [stop] * len(zeros)
            carry = self.distribute(jax.device_put(list(zeros)))
            with device.fixed_settings(precision):  # a thread knows nothing of the caller's
                carry = self.repeat(
                    step, inputs, carry, starts, stops, on_one_core=bool(self.cores)
                )
            return jax.device_get(self.collect(carry))

        if not self.cores:
            return add(0, count)
        first = min(count, 1)
        parts = [add(0, first)]  # what threads would compile at the same time is there then
        bounds = np.linspace(first, count, self.cores + 1).astype(int).tolist()
        with concurrent.futures.ThreadPoolExecutor(self.cores) as pool:
            parts += pool.map(add, bounds[:-1], bounds[1:])
        return [jax.tree.map(lambda *terms: sum(terms), *sums) for sums in zip(*parts, strict=True)]

    def num_compilations(self) -> dict[str, int]:
        """Returns how many programs each function became, by the function's name."""
        counts = Counter()
        for (function, _), compiled in self._compiled.items():
            counts[function.__name__] += compiled._cache_size()
        return dict(counts)

    def lower(self, function: Callable) -> jax.stages.Lowered:
        """Returns the newest program of a function that was called or repeated, for analysis.

        It is JAX's own copy: neither this nor its `compile()` costs anything, as long as the
        precision in force is the call's.
        """
        of_function = [c for (f, _), c in self._compiled.items() if f is function]
        compiled, args = [p for p in self.programs if p[0] in of_function][-1]
        return compiled.lower(*args)

    @property
    def _is_stacked(self):
        return self.sharing == "vmap" or self.mesh is not None

    def _in_turn(self, args):
        """The arguments of calls that follow one another: those of a group, or of all groups."""
        return [args] if self.sharing == "interleaved" else per_seed.split(args)

    def _grouped(self, of_seeds):
        size = 1 if self.mesh is None else self.mesh.shape[mesh_lib.SEEDS]
        size = len(of_seeds) if self.sharing == "vmap" else size
        return [of_seeds[i : i + size] for i in range(0, len(of_seeds), size)]

    def _stack(self, group):
        if self.mesh is not None:
            return mesh_lib.stack_seeds(self.mesh, group)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *group)

    def _program(self, function, repeats=False, on_one_core=False):
        """The compiled form of a function of one seed: arguments of groups -> tuple of results."""
        if (function, repeats) not in self._compiled:
            loops = repeats and self.compiled_loop
            traced = self._traced(function, loops)
            options: dict[str, Any] = {
                "compiler_options": compiler_options(
                    on_one_core, self.graphs, self.sharing == "interleaved"
                )
            }
            if self.mesh is not None:
                traced = mesh_lib.map_seeds(self.mesh, traced)
                options["out_shardings"] = mesh_lib.by_seed(self.mesh)
            elif self.sharing == "vmap":
                traced = _vmap_seeds(traced)
            traced.__name__ = function.__name__
            carry = (3 if loops else 2,) if repeats else ()
            self._compiled[function, repeats] = jax.jit(traced, donate_argnums=carry, **options)
        return self._compiled[function, repeats]

    def _traced(self, function, loops):
        """A new function, as JAX counts all that it compiles of one function together."""

        def once(*args):  # JAX calls it to make a program of it, never to run that
            self.when_compiling(True)
            return tuple(function(*per_seed.values(given)) for given in per_seed.split(args))

        def loop(inputs, start, stop, carry):
            self.when_compiling(True)
            groups = [per_seed.values(given) for given in per_seed.split((inputs, carry))]
            packs = device.platform() == "gpu" and hasattr(groups[0][1], "pack")

            def step(i, packed):
                befores = map(unpack_all, packed)
                return tuple(
                    repack(old, before, function(given, i, before))
                    for (given, _), old, before in zip(groups, packed, befores, strict=True)
                )

            first = tuple(state.pack() if packs else state for _, state in groups)
            return unpack_all(jax.lax.fori_loop(start, stop, step, first))

        return loop if loops else once

    @contextlib.contextmanager
    def _watch(self, program, args):
        """Notes what the block, which calls `program` with `args`, compiles."""
        count, start = program._cache_size(), time.perf_counter()
        yield
        if program._cache_size() > count:
            self.compile_seconds += time.perf_counter() - start
            self.programs.append((program, jax.tree.map(_describe, args)))
            self.when_compiling(False)


def _describe(leaf):
    """What of an argument the program depends on; its buffer may be donated by now."""
    if not isinstance(leaf, jax.Array):
        return leaf
    sharding = leaf.sharding if leaf.committed else None
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding, weak_type=leaf.weak_type)


@functools.cache
def _within(step):
    """`step` for seeds that run together and whose bounds differ: outside of them nothing moves."""

    @functools.wraps(step)
    def guarded(inputs, i, carry):
        inputs, (start, stop) = inputs
        inside = (start <= i) & (i < stop)
        # Comparing objects lets JAX still lift what never changes out of the loop.
        return jax.tree.map(
            lambda new, old: old if new is old else jnp.where(inside, new, old),
            step(inputs, i, carry),
            carry,
        )

    return guarded


def _vmap_seeds(function):
    def of_group(*args):
        return jax.vmap(function, in_axes=per_seed.axes(args))(*args)

    return of_group
