"""Measures the program on the device at hand: `python -m cljax.benchmark`."""

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cljax.output import terminal

if TYPE_CHECKING:
    from absl.flags import FlagHolder

DESCRIPTION = """Measures steps, evaluation, herding and a small run: time, compilation and memory.

usage: cljax-benchmark [--config=CONFIG] [--config.KEY=VALUE ...] [--FLAG=VALUE ...]
       (or python -m cljax.benchmark ...)

With --target=CHIP nothing runs: the rows' programs are compiled for chips that are not here."""
DEFAULT = "abd_cifar100"
# Of these configs the rows that are measured when none is asked for.
ROWS = {
    "abd_cifar100": (
        *("plain_step", "abd_step", "inversion_step", "evaluation"),
        *("streamed_step", "input"),
    ),
    "lucir_cifar100": ("lucir_step", "herding"),
}
RUN, RUN_CONFIG, RUN_SCALE = "run", "abd_digits", 0.1


def define_flags() -> "list[FlagHolder]":
    """Not done by an import, as the importing program may have flags of these names."""
    from absl import flags

    from cljax import cli

    return [
        cli.define_config("Whose rows are measured; default: ABD's, LUCIR's and a run on digits."),
        flags.DEFINE_string("json", None, "The file that the figures are written to."),
        flags.DEFINE_string("against", None, "A file written by --json, to compare with."),
        flags.DEFINE_string("profile", None, "A folder for traces of a few steps of each row."),
        flags.DEFINE_string(
            "target",
            None,
            "Chips to compile for, without having them: h100, h200, a100, v5e, v5p, v6e; a grid of "
            "them is v5e:2x2 or h100:4.",
        ),
        flags.DEFINE_string("dump", None, "With --target, a folder for each row's optimized HLO."),
        flags.DEFINE_list("only", [], "The rows wanted, such as plain_step,abd_step."),
        flags.DEFINE_list(
            "seeds",
            None,
            "How many seeds to train; default: 1, on GPU and TPU 1,2,4,8, with --target 1,3.",
        ),
        flags.DEFINE_list(
            "dtypes",
            None,
            "Default: float32, on GPU float32,tf32,bfloat16, for a TPU target float32,bfloat16.",
        ),
        flags.DEFINE_float("seconds", 3.0, "About how long the repetitions of a row take."),
    ]


def run(argv: list[str], is_default: bool) -> None:
    """Measures, shows, writes and compares the rows that the flags select."""
    from absl import flags, logging

    from cljax import cli

    if len(argv) > 1:
        cli.fail(f"unexpected arguments {' '.join(argv[1:])}; use --config.KEY=VALUE for settings")
    # Imported here: `--help` needs neither JAX nor data.
    import jax

    from cljax.benchmark import plan, table
    from cljax.compute import device
    from cljax.errors import UserError

    logging.set_verbosity(logging.FATAL)
    # So that compile seconds are those of a first start.
    jax.config.update("jax_enable_compilation_cache", False)
    values = flags.FLAGS
    try:
        if values.target is not None:
            _count(values, is_default)
            return
        if values.dump:
            raise UserError("--dump: only with --target=CHIP; use --profile to see what runs")
        device.check()
        other = table.read(Path(values.against)) if values.against else None
        options = plan.make_options(
            values.seconds, values.seeds, values.dtypes or _own_dtype(values), values.profile
        )
        parts = [plan.ConfigRows(*part) for part in _choose(values, is_default)]
        record = plan.measure_all(parts, set(values.only), options)
        table.show(record)
        if values.json:
            table.write(Path(values.json), record)
        if other:
            table.compare(record, other)
    except UserError as error:
        cli.fail(error)


def _count(values, is_default):
    """Compiles, shows, writes and compares the rows for `--target`."""
    import jax

    from cljax.benchmark import chips, plan, table, target, target_table
    from cljax.compute import device
    from cljax.errors import UserError

    if values.profile:
        raise UserError("--profile: nothing runs with --target; use --dump=DIR to see programs")
    jax.config.update("jax_platforms", "cpu")  # arrays are here, whatever else the machine has
    place = chips.find(values.target)
    other = target_table.read(Path(values.against)) if values.against else None
    with device.programs_for(place.chip.platform):
        dtypes = values.dtypes or _own_dtype(values) or target.DTYPES[place.chip.platform]
        options = plan.make_options(1.0, values.seeds or target.SEEDS, dtypes)
        parts = [plan.ConfigRows(*part) for part in _choose(values, is_default)]
        parts = [part for part in parts if not part.is_run]
        dump = Path(values.dump) if values.dump else None
        record = target.count_all(parts, set(values.only), options, place, dump)
    target_table.show(record)
    if values.json:
        table.write(Path(values.json), record)
    if other:
        target_table.compare(record, other)


def _own_dtype(values):
    """Returns the dtype of --config.dtype, if it is given."""
    from ml_collections import config_flags

    dtype = config_flags.get_override_values(values["config"]).get("dtype")
    return [dtype] if dtype else None


def _choose(values, is_default):
    """Returns tuples (config, its rows, whether it is run from start to end)."""
    from ml_collections import config_flags

    from cljax import cli
    from cljax.settings import config_files

    if "runs" in values.config:
        cli.fail("--config: this is a table; use the config of one method")
    if not is_default:
        return [(values.config,)]
    overrides = config_flags.get_override_values(values["config"])
    chosen = []
    for name, wanted in ROWS.items():
        config = config_files.load(name)
        known = {key: v for key, v in overrides.items() if key in cli.list_keys(config)}
        config.update_from_flattened_dict(known)
        chosen.append((config, wanted))
    config = config_files.load(RUN_CONFIG)
    config.schedule_scale = RUN_SCALE
    return [*chosen, (config, (RUN,), True)]


def main() -> None:
    """The command."""
    with terminal.ready():
        from cljax import cli  # here, because SIGINT may come during any import

        cli.read_flagfiles()
        measure = functools.partial(run, is_default=cli.config_path(sys.argv) is None)
        cli.run(measure, DESCRIPTION, define_flags, DEFAULT)


if __name__ == "__main__":
    main()
