"""Measures time, work and memory of compiled programs, and the peak rates of the device."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from cljax.compute import device as device_lib

_BACKEND_COMPILE = "/jax/core/compile/backend_compile_duration"


def time_calls(call: Callable, seconds: float, least: int = 3, most: int = 30) -> list[float]:
    """Times `least` to `most` calls, about `seconds` in all; returns the seconds of each.

    Args:
      call: compiled function that returns when the device has finished.
    """
    times = []
    while len(times) < least or (len(times) < most and sum(times) < seconds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def summarise(times: list[float]) -> dict:
    """Returns median, quartiles and number of some durations in seconds."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return {"seconds": middle, "quartiles": [low, high], "repetitions": len(times)}


_programs = 0


def _listen(event: str, seconds: float, **kwargs: object) -> None:
    global _programs
    _programs += event == _BACKEND_COMPILE


jax.monitoring.register_event_duration_secs_listener(_listen)  # pyright: ignore[reportArgumentType]  # JAX names the arguments otherwise


def num_compilations() -> int:
    """Counts the programs that XLA has built in this process since this module was imported."""
    return _programs


def cost(lowered: jax.stages.Lowered) -> dict:
    """Returns what XLA's analyses say of a program; a loop counts as one run of its body.

    Returns:
      flops: operations of the program as written, also those in library calls of a backend.
      bytes: bytes that the compiled program reads and writes, without those inside fusions.
      memory: bytes of arguments, results and temporary arrays; donated ones count once.
    """
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    return {
        "flops": _analysed(lowered, "flops"),
        "bytes": _analysed(compiled, "bytes accessed"),
        "memory": memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    }


def _analysed(program, name):
    found = program.cost_analysis()
    found = found[0] if isinstance(found, list) else found
    return found.get(name) if found else None


def device_peak() -> int | None:
    """Returns the peak bytes allocated on the first device; None if the backend does not tell."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def forget_host_peak() -> None:
    """Resets `host_peak` where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def host_peak() -> int:
    """Returns the peak bytes of host memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def matrix_rate(dtype: str, seconds: float) -> float:
    """Measures the FLOP/s of a large matrix product; `dtype` is a key of `device.PRECISIONS`."""
    kind, precision = device_lib.PRECISIONS[dtype]
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a, b = (jax.random.normal(jax.random.key(i), (size, size), kind) for i in range(2))
    multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=precision))
    multiply(a, b).block_until_ready()
    times = time_calls(lambda: multiply(a, b).block_until_ready(), seconds)
    return 2 * size**3 / statistics.median(times)


def copy_rate(seconds: float) -> float:
    """Measures the bytes read and written per second when 1 is added to a large array in place."""
    size = 2**26 if jax.default_backend() == "cpu" else 2**28
    array = jax.random.normal(jax.random.key(0), (size,))
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call():
        nonlocal array
        array = add(array).block_until_ready()

    call()
    return 2 * array.nbytes / statistics.median(time_calls(call, seconds))
