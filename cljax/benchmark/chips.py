"""Names the chips that programs are compiled for without being there."""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from jax.experimental import topologies

from cljax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What is known of a chip; the rates are peaks of its data sheet, for estimates only.

    Attributes:
      platform: "gpu" or "tpu".
      memory: bytes.
      bandwidth: of the memory, bytes/s.
      rates: FLOP/s of dense products, by key of `device.PRECISIONS`.
      axes: number of axes of a grid of such chips.
      description: of a GPU, fields of XLA's description that differ from `_GPU`.
    """

    platform: str
    memory: int
    bandwidth: float
    rates: Mapping[str, float]
    axes: int = 1
    description: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def usable_memory(self) -> int:
        """Bytes that JAX gives to programs; of a GPU's memory, 75 % by default."""
        return self.memory * 3 // 4 if self.platform == "gpu" else self.memory


def _gpu(memory, bandwidth, float32, tf32, bfloat16, **description):
    rates = {"float32": float32, "tf32": tf32, "bfloat16": bfloat16}
    return Chip("gpu", memory, bandwidth, rates, description=description)


def _tpu(gigabytes, bandwidth, bfloat16, axes):
    # Precision "highest" takes 6 bfloat16 products for a float32 one.
    rates = {"float32": bfloat16 / 6, "bfloat16": bfloat16}
    return Chip("tpu", int(gigabytes * 2**30), bandwidth, rates, axes)


# Rates and bandwidths: NVIDIA's data sheets of H100 SXM, H200 SXM and A100 80GB SXM, without
# sparsity; Google Cloud's pages on TPU v5e, v5p and v6e. Bytes of GPU memory and the fields of
# `_GPU`: XLA's own target descriptions (xla/backends/gpu/target_config/specs).
_AMPERE = {"shared": 167936, "block": 166912, "cores": 108, "units": 64, "l2": 41943040}
CHIPS = {
    "h100": _gpu(84929347584, 3.35e12, 67e12, 494.7e12, 989.4e12, name="NVIDIA H100 80GB HBM3"),
    "h200": _gpu(151397597184, 4.8e12, 67e12, 494.7e12, 989.4e12, name="NVIDIA H200 141GB HBM3e"),
    "a100": _gpu(
        *(85100068864, 2.039e12, 19.5e12, 156e12, 312e12),
        **{"name": "NVIDIA A100-SXM4-80GB", "major": 8, "clock": 1.41, **_AMPERE},
    ),
    "v5e": _tpu(16, 0.819e12, 197e12, 2),
    "v5p": _tpu(95, 2.765e12, 459e12, 3),
    "v6e": _tpu(32, 1.64e12, 918e12, 2),
}
_HOPPER = {"shared": 233472, "block": 232448, "cores": 132, "units": 128, "l2": 52428800}
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {units} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth:.0f} l2_cache_size: {l2}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {block}
  cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
  registers_per_block_limit: 65536 driver_version: "13.0.0" runtime_version: "13.0.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
device_description_str: "{name}"
"""
# libtpu asks the cloud for its machine otherwise; a GPU that is here is not to be used.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a compiler shares no device
    "CUDA_VISIBLE_DEVICES": "-1",
}
PACKAGES = {"gpu": "jax_cuda13_plugin", "tpu": "libtpu"}  # with the compilers, as imported


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips that programs are compiled for.

    Attributes:
      name: as the user wrote it, such as "h100" or "v5e:2x2".
      chip: what they are.
      devices: as JAX describes them; they can hold no array.
    """

    name: str
    chip: Chip
    devices: list[Any]

    @property
    def file_name(self) -> str:
        """The name as a part of a file's name."""
        return self.name.replace(":", "_")


def find(name: str) -> Target:
    """Finds the target that a user names: a chip, or a grid of them such as "v5e:2x2" or "h100:4".

    Raises:
      UserError: there is no such chip or grid, or its compiler is not installed.
    """
    kind, _, grid = name.partition(":")
    if kind not in CHIPS:
        raise UserError(f"--target={name}: unknown chip; choose {', '.join(CHIPS)}")
    chip = CHIPS[kind]
    grid = grid or "x".join("1" * chip.axes)
    if name.endswith(":") or not re.fullmatch(rf"[1-9]\d*(x[1-9]\d*){{{chip.axes - 1}}}", grid):
        example = "x".join("2" * chip.axes)
        raise UserError(f"--target={name}: wrong grid of chips; write it as in {kind}:{example}")
    _check_package(name, chip.platform)
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        return Target(name, chip, _topology(kind, chip, grid).devices)
    except Exception as error:  # compilers share no error class
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"--target={name}: its compiler refuses it ({reason}); use another grid of chips, or "
            f"the packages of JAX's version: {_INSTALL}"
        ) from error


_INSTALL = "pip install -e '.[targets]'"


def _check_package(name, platform):
    if importlib.util.find_spec(PACKAGES[platform]) is None:
        raise UserError(
            f"--target={name}: its compiler, {PACKAGES[platform]}, is not installed; install it "
            f"in an environment of its own: {_INSTALL}"
        )


def _topology(kind, chip, grid):
    if chip.platform == "gpu":
        fields = {"major": 9, "clock": 1.98, **_HOPPER, **chip.description}
        config = _GPU.format(memory=chip.memory, bandwidth=chip.bandwidth, **fields)
        return topologies.get_topology_desc(
            platform="cuda", target_config=config, topology=f"1x1x{grid}"
        )
    alone = math.prod(map(int, grid.split("x"))) == 1
    more = {"chips_per_host_bounds": [1, 1, 1]} if alone else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{grid}", **more)
