"""The one place that decides how steps repeat and how seeds share a device.

What is fastest differs per backend, so the rest of the program writes single steps of single
seeds. On CPU a convolution's gradient inside a compiled loop leaves XLA's fast path (33 times
slower, measured), so there the host loops over steps; elsewhere an epoch is one compiled loop.
Seeds follow one another through the same programs unless they are asked to be a `vmap`ped axis:
weights per seed turn convolutions into grouped ones, 5 times slower per seed on CPU.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


class Executor:
    """Runs functions of one seed for all seeds, each function compiled once per phase.

    Per-seed values are lists with an entry per seed at every border of this class; `pack` and
    `unpack` turn them into the executor's own form (stacked along axis 0 when seeds are `vmap`ped)
    and back.

    Attributes:
      vmap_seeds: whether seeds are a `vmap`ped axis (otherwise one follows the other).
      compiled_loop: whether repeated steps are one compiled loop (otherwise the host loops).
      compile_seconds: time spent in calls that traced and compiled a program.
    """

    def __init__(self, vmap_seeds: bool = False, compiled_loop: bool | None = None):
        """`compiled_loop` None takes what is fastest on the device at hand."""
        self.vmap_seeds = vmap_seeds
        on_cpu = jax.default_backend() == "cpu"
        self.compiled_loop = not on_cpu if compiled_loop is None else compiled_loop
        self.compile_seconds = 0.0
        self._compiled = {}

    def pack(self, per_seed: Sequence[PyTree]) -> PyTree:
        """A list over seeds in the executor's form."""
        if not self.vmap_seeds:
            return list(per_seed)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *per_seed)

    def unpack(self, packed: PyTree) -> list[PyTree]:
        """The executor's form as a list over seeds."""
        if not self.vmap_seeds:
            return packed
        count = jax.tree.leaves(packed)[0].shape[0]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], packed) for i in range(count)]

    def zip(self, *packed: PyTree) -> PyTree:
        """Several packed values as one packed tuple."""
        return packed if self.vmap_seeds else list(zip(*packed, strict=True))

    def unzip(self, packed: PyTree) -> tuple[PyTree, ...]:
        """The inverse of `zip`."""
        return packed if self.vmap_seeds else tuple(map(list, zip(*packed, strict=True)))

    def each(self, function: Callable, packed: PyTree) -> PyTree:
        """A function of a value's structure alone, for every seed; nothing is computed."""
        return function(packed) if self.vmap_seeds else [function(one) for one in packed]

    def call(self, function: Callable, shared: PyTree, *packed: PyTree) -> PyTree:
        """`function(shared, *of one seed)` for every seed; packed arguments, packed result."""
        compiled = self._compile(function, function)
        if self.vmap_seeds:
            return compiled(shared, *packed)
        return [compiled(shared, *one) for one in zip(*packed, strict=True)]

    def repeat(
        self,
        step: Callable,
        shared: PyTree,
        constant: PyTree,
        carry: PyTree,
        starts: Sequence[int],
        stops: Sequence[int],
        stopped: Callable[[], bool] = lambda: False,
    ) -> tuple[PyTree, list[int]]:
        """`carry = step(shared, constant, i, carry)` for i from start to stop, for every seed.

        Args:
          step: a step of one seed.
          shared: the same for all seeds.
          constant: packed; what does not change from step to step.
          carry: packed; its buffers are donated, and the list is written to.
          starts, stops: per seed; they may differ.
          stopped: asked between steps where the host loops; True ends the loop early.

        Returns:
          The packed carry, and the number of steps that each seed has reached.
        """
        one = _one_step(step)
        compiled = self._compile(step, _loop(one) if self.compiled_loop else one, donated=2)
        if self.vmap_seeds:
            # Seeds with equal numbers of steps need no guard.
            equal = len(set(zip(starts, stops, strict=True))) == 1
            limits = None if equal else (jnp.array(starts), jnp.array(stops))
            args = shared, constant, carry, limits
            carry, end = self._run(compiled, *args, min(starts), max(stops), stopped)
            return carry, [max(i, min(end, n)) for i, n in zip(starts, stops, strict=True)]
        ends = []
        for seed, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            args = shared, constant[seed], carry[seed], None
            carry[seed], end = self._run(compiled, *args, start, stop, stopped)
            ends.append(end)
        return carry, ends

    def _run(self, compiled, shared, constant, carry, limits, start, stop, stopped):
        if self.compiled_loop:
            return compiled((shared, start, stop), constant, carry, limits), stop
        for i in range(start, stop):
            if stopped():
                return carry, i
            # Waiting lets a request to stop be heard; CPU steps are long enough to hide it.
            carry = jax.block_until_ready(compiled((shared, i), constant, carry, limits))
        return carry, stop

    def _compile(self, key: Callable, function: Callable, donated: int | None = None) -> Callable:
        if key not in self._compiled:
            function = (_vmap_all_but_first if self.vmap_seeds else _wrap)(function)
            donated = () if donated is None else (donated,)
            self._compiled[key] = jax.jit(function, donate_argnums=donated)
        return functools.partial(self._timed, self._compiled[key])

    def _timed(self, compiled, *args):
        programs, start = compiled._cache_size(), time.perf_counter()
        result = compiled(*args)
        if compiled._cache_size() > programs:
            self.compile_seconds += time.perf_counter() - start
        return result

    def num_compilations(self) -> dict[str, int]:
        """How many programs each function became."""
        return {f.__name__: c._cache_size() for f, c in self._compiled.items()}


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


def _wrap(function):
    """A function of its own: all that JAX compiles of one function is counted together."""

    @functools.wraps(function)
    def wrapped(*args):
        return function(*args)

    return wrapped


def _vmap_all_but_first(function):
    @functools.wraps(function)
    def mapped(shared, *args):
        return jax.vmap(lambda *one: function(shared, *one))(*args)

    return mapped
