"""Describes the hardware and software of a run: devices, cores, versions and precisions."""

import importlib.metadata
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp

from cljax import __version__
from cljax.compute import source

# config.dtype: (dtype of the computation, precision of float32 matrix products)
PRECISIONS = {
    "float32": (jnp.float32, "highest"),
    "tf32": (jnp.float32, "tensorfloat32"),
    "bfloat16": (jnp.bfloat16, "default"),
}


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
    found = {"python": platform.python_version(), "cljax": __version__}
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
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
