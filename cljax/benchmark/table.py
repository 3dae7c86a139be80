"""Shows and writes the results of a benchmark, alone or compared with another benchmark."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cljax import files
from cljax.benchmark.plan import FORMAT
from cljax.errors import UserError, print_plain, printable
from cljax.files import Record, check_record, read_json

_WIDTH = 150  # of the table, where the console is no terminal
# heading: a row's figure, as text
COLUMNS = {
    "ms/step": lambda row: digits(1e3 * row["seconds"]),
    "spread": lambda row: f"{100 * _spread(row):.0f} %",
    "ms/seed": lambda row: digits(1e3 * row["seconds_per_seed"]),
    "images/s": lambda row: digits(row["images_per_second"]),
    "compile\ns": lambda row: f"{row['compile_seconds']:.1f}",
    "pro-\ngrams": lambda row: str(row["compilations"]),
    "GFLOP": lambda row: digits(row["flops"], 1e-9),
    "GB": lambda row: digits(row["bytes"], 1e-9),
    "of\nmatrix": lambda row: _percent(row["matrix_share"]),
    "of\ncopy": lambda row: _percent(row["copy_share"]),
    "waits": lambda row: _percent(row["wait_share"]),
    "device\nMB": lambda row: digits(row["device_memory"], 1e-6),
    "host\nMB": lambda row: digits(row["host_memory"], 1e-6),
}
LEFT_OUT_WHEN_NARROW = (
    "GB",
    "GFLOP",
    "spread",
    "host\nMB",
    "device\nMB",
    "pro-\ngrams",
    "waits",
    "of\ncopy",
    "of\nmatrix",
)
_COMPARED = ("name", "method", "data", "dtype", "seeds", "sharing", "images_per_step")


class Mesh(Record):
    """Numbers of devices along the axes of a mesh."""

    seeds: int
    data: int


class _Row(Record):
    """What is read of a row of another benchmark: each of `_COMPARED`, and its times."""

    name: str
    method: str
    data: str
    dtype: str
    seeds: int
    sharing: str | None
    images_per_step: int | None
    mesh: Mesh | None
    seconds: Annotated[float, Field(gt=0)]
    quartiles: Annotated[list[float], Field(min_length=2, max_length=2)]


class _BenchmarkRecord(Record):
    """What is read of another benchmark."""

    date: str
    hardware: dict[str, str | int]
    rows: list[_Row]


def show(record: dict, console: Console | None = None) -> None:
    """Prints the record of a benchmark."""
    console = console or make_console()
    hardware, rates = record["hardware"], record["rates"]
    devices = f"{hardware['devices']} x {hardware['device']}, {hardware['platform']}"
    host = f"{hardware['cores']} cores {hardware['processor']}"
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    print_plain(console, f"{devices}; {host}; {versions}")
    can = [f"{d} {r / 1e9:,.0f} GFLOP/s" for d, r in rates.items() if d != "copy"]
    copy = f"copy: {rates['copy'] / 1e9:.1f} GB/s"
    print_plain(console, f"matrix product: {', '.join(can)}; {copy}")
    for n in range(len(LEFT_OUT_WHEN_NARROW) + 1):
        columns = {k: v for k, v in COLUMNS.items() if k not in LEFT_OUT_WHEN_NARROW[:n]}
        table = make_table(["row", "dtype", "seeds"], columns)
        for row in record["rows"]:
            table.add_row(*label_texts(row), *(cell(row) for cell in columns.values()))
        unlimited = console.options.update(width=10_000)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    console.print(table)
    for row in record["rows"]:
        if split := row.get("split"):
            parts = ", ".join(f"{name} {value:.1f}" for name, value in split.items())
            print_plain(console, f"{row['name']}: seconds: {parts}")
    if sources := {r["device_memory_source"] for r in record["rows"] if r["device_memory"]}:
        what = {"program": "of the compiled program", "allocator": "peak of the process so far"}
        print_plain(console, f"device MB: {', '.join(what[s] for s in sorted(sources))}")
    print_plain(console, f"measured in {record['seconds']:.0f} s")


def write(path: Path, record: dict) -> None:
    """Writes the record of a benchmark or of a target; UserError if that fails."""
    files.write_json_atomically(path, record)


def read(path: Path) -> dict:
    """Reads a record that `write` wrote; UserError if the file is something else."""
    advice = f"write one with --json={path}"
    return read_record(path, FORMAT, _BenchmarkRecord, "a benchmark of this version", advice)


def read_record(path: Path, form: str, kind: type[Record], what: str, advice: str) -> dict:
    """Reads a record that `write` wrote.

    Args:
      path: the file.
      form: its entry "format".
      kind: what is read of it.
      what: what it should be, for the message.
      advice: how to get one, for the message.

    Raises:
      UserError: the file is something else.
    """
    record = read_json(path)
    try:
        if record.get("format") != form:
            raise ValueError(f"its format is not {form!r}")
        check_record(kind, record)
    except ValueError as error:
        raise UserError(f"{path}: not {what} ({error}); {advice}") from error
    return record


def compare(record: dict, other: dict, console: Console | None = None) -> None:
    """Prints how much faster or slower each row is than the same row of another record."""
    console = console or make_console()
    print_plain(console, f"\nagainst the benchmark of {other['date']}")
    if record["hardware"] != other["hardware"]:
        print_plain(console, "the machines differ", style="bold yellow")
    table = make_table(["row", "dtype", "seeds"], ["ms/step then", "ms/step now", "then/now", ""])
    pairs, gone = match(record, other)
    for row, before in pairs:
        if before is None:
            table.add_row(*label_texts(row), "", digits(1e3 * row["seconds"]), "", "new")
            continue
        times = (digits(1e3 * r["seconds"]) for r in (before, row))
        ratio = f"{before['seconds'] / row['seconds']:.2f}"
        table.add_row(*label_texts(row), *times, ratio, verdict(row, before))
    console.print(table)
    if gone:
        print_plain(console, f"not measured now: {gone}")


def match(record: dict, other: dict) -> tuple[list[tuple[dict, dict | None]], str]:
    """Finds each row of a record in another one.

    Returns:
      (row, the same row of `other` or None) of each, and the labels of rows that only `other` has.
    """
    earlier = {_key(row): row for row in other["rows"]}
    pairs = [(row, earlier.pop(_key(row), None)) for row in record["rows"]]
    return pairs, ", ".join(" ".join(labels_of(row)) for row in earlier.values())


def verdict(row: dict, before: dict) -> str:
    """Says which of two rows is faster; neither if the middle halves of their times overlap."""
    (low, high), (low_before, high_before) = row["quartiles"], before["quartiles"]
    if low <= high_before and low_before <= high:
        return "same within the spread"
    return "now is faster" if row["seconds"] < before["seconds"] else "now is slower"


def make_console() -> Console:
    """Returns the console of standard output, wide where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)


def make_table(labels: Sequence[str], headings: Iterable[str]) -> Table:
    """Makes a table with columns of labels, and of figures to the right."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for label in labels:
        table.add_column(label, no_wrap=True, vertical="bottom")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True, vertical="bottom")
    return table


def labels_of(row: dict) -> tuple[str, str, str]:
    """Returns a row's name, its dtype, and its seeds with how they share the devices."""
    seeds = str(row["seeds"]) if row["seeds"] == 1 else f"{row['seeds']} {row['sharing']}"
    if mesh := row["mesh"]:
        seeds += f" on {mesh['seeds']}x{mesh['data']}"
    return row["name"], row["dtype"], seeds


def label_texts(row: dict) -> Iterable[Text]:
    """Returns `labels_of` as cells of a table."""
    return (Text(printable(label)) for label in labels_of(row))


def _key(row):
    mesh = tuple((row["mesh"] or {}).values())
    return (*(row[name] for name in _COMPARED), mesh)


def _spread(row):
    low, high = row["quartiles"]
    return (high - low) / row["seconds"]


def digits(value: float | None, unit: float = 1.0) -> str:
    """Writes three significant digits, or all before the point."""
    if value is None:
        return ""
    value *= unit
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share):
    return "" if share is None else f"{100 * share:.1f} %"
