"""Shows and writes what programs for absent chips consist of, alone or compared with before."""

from pathlib import Path

from rich.console import Console

from cljax import files
from cljax.benchmark.table import Mesh, digits, label_texts, labels_of, make_console, make_table
from cljax.benchmark.target import FORMAT
from cljax.errors import UserError, print_plain
from cljax.files import Record, check_record, read_json

# heading: a row's figure, as text; of rows that compiled
COLUMNS = {
    "compile\ns": lambda row: f"{row['compile_seconds']:.1f}",
    "kernels": lambda row: str(_sum(row["kernels"])),
    "conv.": lambda row: str(row["kernels"]["convolutions"]),
    "reduct.": lambda row: str(row["kernels"]["reductions"]),
    "fusions": lambda row: str(row["kernels"]["fusions"]),
    "copies": lambda row: str(row["kernels"]["copies"]),
    "converts": lambda row: str(row["kernels"]["converts"]),
    "launches": lambda row: "" if row["launches"] is None else str(_sum(row["launches"])),
    "GFLOP": lambda row: digits(row["flops"], 1e-9),
    "GB": lambda row: digits(row["bytes"], 1e-9),
    "collect.\nMB": lambda row: digits(_collective_bytes(row) or None, 1e-6),
    "memory\nMB": lambda row: digits(row["memory"]["total"], 1e-6),
    "fits": lambda row: "yes" if row["fits"] else "no",
    "estimate\nms": lambda row: digits(row["estimate_seconds"], 1e3),
}
_COMPARED = {
    "kernels": lambda row: _sum(row["kernels"]),
    "launches": lambda row: None if row["launches"] is None else _sum(row["launches"]),
    "memory MB": lambda row: row["memory"]["total"] / 1e6,
    "estimate ms": lambda row: row["estimate_seconds"] * 1e3,
}
_KEY = ("name", "method", "data", "dtype", "seeds", "sharing", "images_per_step")


class _Row(Record):
    """What is read of a row of another record: each of `_KEY`, and the figures compared."""

    name: str
    method: str
    data: str
    dtype: str
    seeds: int
    sharing: str
    images_per_step: float
    mesh: Mesh | None
    error: str | None
    kernels: dict[str, int] | None
    launches: dict[str, int] | None
    memory: dict[str, int] | None
    estimate_seconds: float | None


class _TargetRecord(Record):
    """What is read of another record."""

    date: str
    target: str
    rows: list[_Row]


def show(record: dict, console: Console | None = None) -> None:
    """Prints the record of a target."""
    console = console or make_console()
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    print_plain(console, f"compiled for {record['target']}, which is not here; {versions}")
    table = make_table(["row", "dtype", "seeds"], COLUMNS)
    for row in record["rows"]:
        figures = () if row["error"] else (cell(row) for cell in COLUMNS.values())
        table.add_row(*label_texts(row), *figures)
    console.print(table)
    for row in record["rows"]:
        if row["error"]:
            print_plain(console, f"{' '.join(labels_of(row))}: does not compile: {row['error']}")
    usable = digits(record["usable_memory"], 1e-6)
    print_plain(console, f"memory: of one device, of which {usable} MB are usable")
    print_plain(console, "estimate: modelled (docs/performance.md); no device has run anything")
    print_plain(console, f"compiled in {record['seconds']:.0f} s")


def write(path: Path, record: dict) -> None:
    """Writes the record of a target; UserError if that fails."""
    files.write_json_atomically(path, record)


def read(path: Path) -> dict:
    """Reads a record that `write` wrote; UserError if the file is something else."""
    record = read_json(path)
    try:
        if record.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        check_record(_TargetRecord, record)
    except ValueError as error:
        raise UserError(
            f"{path}: not a record of --target ({error}); write one with --target=CHIP "
            f"--json={path}"
        ) from error
    return record


def compare(record: dict, other: dict, console: Console | None = None) -> None:
    """Prints each row's figures then and now."""
    console = console or make_console()
    print_plain(console, f"\nagainst {other['target']} of {other['date']}")
    if record["target"] != other["target"]:
        print_plain(console, "the targets differ", style="bold yellow")
    headings = [f"{name}\n{when}" for name in _COMPARED for when in ("then", "now")]
    table = make_table(["row", "dtype", "seeds"], headings)
    earlier = {_key(row): row for row in other["rows"]}
    for row in record["rows"]:
        pair = earlier.pop(_key(row), None), row
        cells = [_figure(figure, r) for figure in _COMPARED.values() for r in pair]
        table.add_row(*label_texts(row), *cells)
    console.print(table)
    if earlier:
        names = ", ".join(" ".join(labels_of(row)) for row in earlier.values())
        print_plain(console, f"not compiled now: {names}")


def _figure(figure, row):
    if row is None:
        return ""
    return "error" if row["error"] else digits(figure(row))


def _key(row):
    mesh = tuple((row["mesh"] or {}).values())
    return (*(row[name] for name in _KEY), mesh)


def _sum(counts):
    return sum(counts.values())


def _collective_bytes(row):
    return sum(found["bytes"] * found["count"] for found in row["collectives"])
