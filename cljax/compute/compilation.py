"""Sets compiler options, and caches compiled programs on disk for the next start."""

import functools
import tempfile
import warnings
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from cljax import files
from cljax.compute import device
from cljax.errors import UserError, print_plain
from cljax.files import writing

MAX_BYTES = 2 * 2**30  # of the default cache; the programs of a run take a few megabytes


# XLA:CPU can hand these two operations to the library YNNPACK, which is faster for them. JAX 0.10
# can also hand over convolutions: YNNPACK's use a single core, and on one core they are faster.
_ON_ALL_CORES = "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
_ON_ONE_CORE = f"{_ON_ALL_CORES},LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION"


# What XLA puts into CUDA graphs by default. The host launches a graph at once, and everything else
# kernel by kernel. Convolutions by cuDNN and loops are not among them.
_IN_GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,CONDITIONAL,DYNAMIC_SLICE_FUSION"
# By default a graph has five kernels or more.
_SHORTEST = {"xla_gpu_graph_min_graph_size": "1"}
_KINDS = "xla_gpu_enable_command_buffer"
GRAPHS = {
    "off": {_KINDS: ""},
    "between": _SHORTEST,
    "step": _SHORTEST | {_KINDS: f"{_IN_GRAPHS},CONVOLUTION"},
    "epoch": _SHORTEST | {_KINDS: f"{_IN_GRAPHS},CONVOLUTION,WHILE"},
}


# By default a graph's kernels follow one another as they are scheduled.
_CONCURRENT = {"xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"}


def compiler_options(
    on_one_core: bool, graphs: str, concurrent: bool = False
) -> dict[str, str] | None:
    """Returns the compiler options of `jax.jit` for the platform that programs are made for.

    Args:
      on_one_core: whether the program runs on one CPU core while other cores run other programs.
      graphs: key of `GRAPHS`, what of a program for a GPU is CUDA graphs.
      concurrent: whether kernels of a graph that do not need each other may run side by side.

    Returns:
      None if there are none for the platform, or if this version of JAX does not know them.
    """
    if device.platform() == "cpu":
        handed_over = _ON_ONE_CORE if on_one_core else _ON_ALL_CORES
        return _known_options(xla_cpu_experimental_ynn_fusion_type=handed_over)
    if device.platform() != "gpu":
        return None
    return _known_options(**GRAPHS[graphs], **(_CONCURRENT if concurrent else {}))


def _known_options(**options):
    if device.platform() != jax.default_backend():
        return options  # nothing is compiled here to find out
    return options if _are_known(tuple(options.items())) else None


@functools.cache
def _are_known(options):
    try:
        jax.jit(lambda: 0, compiler_options=dict(options))()
    except jax.errors.JaxRuntimeError:
        return False  # the options are experimental and may disappear
    return True


def enable_compilation_cache(place: str, console: Console) -> None:
    """Switches on JAX's persistent compilation cache; must be called before any compilation.

    JAX names a program by its operations, the versions, the options and the device. So one
    directory can serve runs of any config. Whoever can write to it can make this program execute
    any code.

    A directory on this machine is therefore used only if nobody else can change it
    (`files.check_private`); else there is a warning and no cache.

    Args:
      place: a directory, also in a bucket (gs://...); "auto": `default_cache_folder`, unless
        JAX_COMPILATION_CACHE_DIR names another; "": no cache.
      console: shows the warning, also if the default directory cannot be written.

    Raises:
      UserError: the directory that `place` names cannot be written.
    """
    folder = _current_folder() if place == "auto" else place
    is_default = place == "auto" and not folder
    if (folder and "://" in folder) or not (folder or is_default):
        _set_folder(folder or None)
        return
    path = files.expand(folder) if folder else None
    try:
        path = files.check_private(path or default_cache_folder())
        if is_default:
            _check_writable(path)
    except UserError as error:
        message = f"warning: {error}; compiled programs are not cached for the next start"
        print_plain(console, message)
        _set_folder(None)
        return
    if is_default:
        _shrink(path)
    elif place != "auto":
        _check_writable(path, "config.compilation_cache: ")
    _set_folder(str(path))


def default_cache_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/cljax/programs`, or `~/.cache/cljax/programs`."""
    return files.user_cache_folder() / "programs"


def _check_writable(folder: Path, where: str = "") -> None:
    try:
        files.private_folder(folder)
        with writing(folder):
            tempfile.TemporaryFile(dir=folder).close()
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _shrink(folder: Path) -> None:
    """Removes the programs that have not been used for the longest time, down to MAX_BYTES.

    JAX can do this itself, but only with another package and a lock on every read.
    """
    try:
        found = [(path, path.stat()) for path in folder.glob("*-cache")]
        found.sort(key=lambda entry: max(entry[1].st_atime, entry[1].st_mtime), reverse=True)
        total = 0
        for path, status in found:
            total += status.st_size
            if total > MAX_BYTES or not status.st_size:  # empty: the disk was full
                path.unlink(missing_ok=True)
    except OSError:
        pass  # another run removes programs at the same time


def _current_folder() -> str | None:
    return jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]  # set by JAX at run time


def _set_folder(folder: str | None) -> None:
    if folder:
        # Even the smallest program takes longer to compile than to read.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        # A program that cannot be read or written is compiled again; no user has to act.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if folder != _current_folder():
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()  # JAX may already have decided whether there is a cache
