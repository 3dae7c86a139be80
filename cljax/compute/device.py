"""Describes the hardware and software of a run: devices, cores, versions and precisions."""

import contextlib
import contextvars
import errno
import importlib.metadata
import os
import platform as machine
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from cljax import __version__
from cljax.compute import source
from cljax.errors import UserError

# config.dtype: (dtype of the computation, precision of float32 matrix products)
PRECISIONS = {
    "float32": (jnp.float32, "highest"),
    "tf32": (jnp.float32, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}

# JAX's defaults. Variables such as JAX_ENABLE_X64 would change the numbers of a run, or end it.
_JAX_SETTINGS = {
    "debug_infs": False,
    "debug_nans": False,
    "default_prng_impl": "threefry2x32",
    "disable_jit": False,
    "enable_x64": False,
    "numpy_dtype_promotion": "standard",
    "numpy_rank_promotion": "allow",
    "softmax_custom_jvp": False,
    "threefry_partitionable": True,
    "transfer_guard": "allow",
}

# Of XLA, CUDA and its libraries, and C++.
_NO_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|out[ _]of[ _]memory|failed to allocate|_ALLOC_FAILED|bad_alloc"
    r"|cannot allocate memory",
    re.IGNORECASE,
)


_TF32_SINCE = 8.0  # compute capability of NVIDIA's GPUs

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Returns the platform that programs are made for: "cpu", "gpu" or "tpu"."""
    return _platform.get() or jax.default_backend()


def precision(name: str) -> str:
    """Returns the key of `PRECISIONS` that config.dtype stands for on this device.

    "auto" is TF32 on GPUs that have it, as convolutions in PyTorch, and float32 elsewhere.
    """
    if name != "auto":
        return name
    capability = getattr(jax.devices()[0], "compute_capability", "")  # "9.0"; other makers: a name
    has_tf32 = platform() == "gpu" and re.fullmatch(r"\d+\.\d+", capability)
    return "tf32" if has_tf32 and float(capability) >= _TF32_SINCE else "float32"


@contextlib.contextmanager
def programs_for(name: str) -> Iterator[None]:
    """Makes programs for a platform that may be absent; they can be compiled, but not run.

    Args:
      name: "gpu" or "tpu".
    """
    token = _platform.set(name)
    try:
        yield
    finally:
        _platform.reset(token)


@contextlib.contextmanager
def fixed_settings(matmul_precision: str | None) -> Iterator[None]:
    """Computes with JAX's default settings, whatever the environment or a caller has set.

    Applies to the current thread only. The former settings return after the block.

    Args:
      matmul_precision: precision of matrix products and convolutions, as JAX names it, or None.
    """
    with contextlib.ExitStack() as settings:
        for name, value in _JAX_SETTINGS.items():
            settings.enter_context(getattr(jax, name)(value))
        settings.enter_context(jax.default_matmul_precision(matmul_precision))
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of JAX, NumPy or the system tells that memory is used up."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


@contextlib.contextmanager
def reporting_memory() -> Iterator[None]:
    """Turns an error of used-up memory into a UserError that names the settings that matter."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        which = "the host" if isinstance(error, (MemoryError, OSError)) else "the device"
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise UserError(
            f"{which} is out of memory ({reason}); use a smaller config.batch_size, "
            "config.eval.batch_size or config.model.width, fewer config.seeds or "
            "config.execution.seeds=sequential"
        ) from error


def check() -> None:
    """Checks that JAX has a device; must be called after `processes.initialize`.

    Raises:
      UserError: JAX_PLATFORMS names a platform that is unknown or absent, or a device fails.
    """
    try:
        jax.devices()
    except Exception as error:  # plugins of platforms share no error class
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: JAX finds no such device "
            f"({reason}); unset the variable, or install JAX for the device"
        ) from error


def memory() -> int | None:
    """Returns the bytes of memory of a device; None if it does not tell. A CPU has the host's."""
    found = jax.local_devices()[0]
    if found.platform != "cpu":
        return (found.memory_stats() or {}).get("bytes_limit")
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not a POSIX system
        return None


def peak_memory() -> int | None:
    """Returns the most bytes that this process had on one of its devices; None on a CPU."""
    found = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in found if "peak_bytes_in_use" in stats]
    return max(peaks, default=None)


def device_name() -> str:
    """Returns the devices that JAX uses, such as "cpu: cpu" or "gpu: NVIDIA H100 x 2"."""
    devices = jax.devices()
    many = f" x {len(devices)}" if len(devices) > 1 else ""
    return f"{devices[0].platform}: {devices[0].device_kind}{many}"


def versions() -> dict[str, str]:
    """Returns the versions of Python, cljax and the packages on which results depend.

    The commit of `source.commit` is included if it is known.
    """
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {"python": machine.python_version(), "cljax": __version__}
    if commit := source.commit():
        found["commit"] = commit
    return found | {name: importlib.metadata.version(name) for name in packages}


def num_cores() -> int:
    """Counts the cores that this process may use; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hardware() -> dict[str, str | int]:
    """Describes the machine of a measurement: platform, device, devices, processor, cores."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "cores": num_cores(),
    }


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return machine.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else machine.machine()
