"""Shows and writes what programs for absent chips consist of, alone or compared with before."""

from pathlib import Path

from rich.console import Console

from cljax.benchmark.table import (
    Mesh,
    digits,
    label_texts,
    labels_of,
    make_console,
    make_table,
    match,
    read_record,
)
from cljax.benchmark.target import FORMAT
from cljax.errors import print_plain
from cljax.files import Record

# heading: a row's figure, as text; of rows that compiled
COLUMNS = {
    "compile\ns": lambda row: f"{row['compile_seconds']:.1f}",
    "kernels": lambda row: str(_sum(row["kernels"])),
    "conv.": lambda row: str(row["kernels"]["convolutions"]),
    "reduct.": lambda row: str(row["kernels"]["reductions"]),
    "fusions": lambda row: str(row["kernels"]["fusions"]),
    "copies": lambda row: str(row["kernels"]["copies"]),
    "converts": lambda row: str(row["kernels"]["converts"]),
    "launches": lambda row: "" if row["launches"] is None else _launches(row["launches"]),
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


class _Row(Record):
    """What is read of a row of another record: what `table.match` compares, and the figures."""

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


def read(path: Path) -> dict:
    """Reads a record of a target that `table.write` wrote; UserError if it is something else."""
    advice = f"write one with --target=CHIP --json={path}"
    return read_record(path, FORMAT, _TargetRecord, "a record of --target", advice)


def compare(record: dict, other: dict, console: Console | None = None) -> None:
    """Prints each row's figures then and now."""
    console = console or make_console()
    print_plain(console, f"\nagainst {other['target']} of {other['date']}")
    if record["target"] != other["target"]:
        print_plain(console, "the targets differ", style="bold yellow")
    headings = [f"{name}\n{when}" for name in _COMPARED for when in ("then", "now")]
    table = make_table(["row", "dtype", "seeds"], headings)
    pairs, gone = match(record, other)
    for row, before in pairs:
        cells = [_figure(figure, r) for figure in _COMPARED.values() for r in (before, row)]
        table.add_row(*label_texts(row), *cells)
    console.print(table)
    if gone:
        print_plain(console, f"not compiled now: {gone}")


def _figure(figure, row):
    if row is None:
        return ""
    return "error" if row["error"] else digits(figure(row))


def _launches(counts):
    return str(_sum(counts) or "1/epoch")


def _sum(counts):
    return sum(counts.values())


def _collective_bytes(row):
    return sum(found["bytes"] * found["count"] for found in row["collectives"])
