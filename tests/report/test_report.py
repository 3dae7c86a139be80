"""The report on runs: what is shown, and what is written."""

import base64
import csv
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from cljax.errors import UserError
from cljax.report import __main__ as main
from cljax.report import published, runs, tables
from tests.helpers.fake_runs import write_run

THREE = (0, 1, 2)


def printed(workdirs, out, width=200):
    console = Console(file=io.StringIO(), width=width)
    tables.write_report(workdirs, out, console)
    return console.file.getvalue()


@pytest.fixture
def table(tmp_path):
    """A directory of five runs, two of which are whole."""
    folder = tmp_path / "runs"
    write_run(folder / "abd", "abd_cifar100", seeds=THREE)
    write_run(folder / "base", "base_cifar100", seeds=THREE, epochs=25)
    write_run(folder / "lwf", "lwf_cifar100", done=3)
    write_run(folder / "mc", "lwf_mc_cifar100", done=-1, seeds=THREE, num_tasks=10)
    write_run(folder / "digits", "abd_digits", seeds=(0, 1))
    return folder


def test_the_terminal_shows_figures_side_by_side_and_the_marks(table):
    text = printed([table], table)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    # Final: (70 + 75 + 80 + 85 + 90) / 5 = 80 plus the seed's number.
    assert "ABD 0 3 81.0 ± 0.8 43.9 ± 0.9 86.0 ± 0.8 12.5 ± 0.0 0:21:40 cpu" in lines
    assert "LwF 0 1 - 17.0 ± 0.1 3 of 5 tasks - - 0:21:40 cpu" in lines  # not finished
    assert "3 of 5 tasks: 85.0 % so far, on the classes of these tasks" in text
    assert "Base, cifar100, 5 tasks" in text
    assert "shortened: epochs 25 instead of 250" in text
    assert f"Written: {table}/report.md, {table}/report.csv, {table}/report.html" in text


@pytest.mark.parametrize("width", [70, 80, 100, 140])
def test_the_terminal_table_fits_and_cuts_no_number(table, width):
    text = printed([table], table, width)
    lines = text.partition("Runs with a caveat")[0].splitlines()
    assert max(map(len, lines)) <= width
    (row,) = (line for line in lines if line.startswith("ABD") and "43.9" in line)
    assert "81.0 ± 0.8" in row and "43.9 ± 0.9" in row
    assert any("shortened" in line for line in lines)


def test_a_long_name_takes_no_room_from_marks_and_numbers(tmp_path):
    folder = tmp_path / "a_directory_of_runs_with_a_rather_long_name"
    for name in ("a_first_run_of_this_learner", "another_run_of_this_learner"):
        write_run(folder / name, "abd_cifar100", epochs=25)
    rows = printed([folder], tmp_path, 80).partition("Runs with a caveat")[0].splitlines()
    assert max(map(len, rows)) <= 80
    assert "…" not in "".join(rows)
    assert sum("80.0" in row and "43.9 ± 0.9" in row and "shortened" in row for row in rows) == 2


def read_markdown(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    rows = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set(map(len, rows)) == {len(rows[0])}
    assert all(re.fullmatch("---:?", cell) for cell in rows[1])
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_markdown_has_a_row_for_each_run(table):
    printed([table], table)
    rows = read_markdown(table / "report.md")
    base, lwf, abd, mc, digits = rows
    assert abd["final accuracy (%)"] == "81.0 ± 0.8" and abd["published (%)"] == "43.9 ± 0.9"
    assert abd["marks"] == "" and base["marks"] == "**shortened**"
    accuracies = ("final accuracy (%)", "average incremental accuracy (%)", "forgetting (points)")
    assert [lwf[name] for name in accuracies] == ["-"] * 3  # not finished
    assert lwf["marks"] == "**3 of 5 tasks**, **1 seed**"
    assert mc["final accuracy (%)"] == mc["time"] == "-" and mc["published (%)"] == "17.1 ± 0.1"
    assert digits["published (%)"] == "-" and digits["time"] == "0:21:40"
    assert "shortened: epochs 25 instead of 250" in (table / "report.md").read_text()


def test_cost_and_storage_have_columns(tmp_path):
    content = write_run(tmp_path / "run", "abd_cifar100", seeds=(0, 1))
    cost = {"seconds": {"train": 2.0}, "images": {"train": 500}, "peak_device_bytes": None}
    content["cost"] = [cost | {"peak_host_bytes": bytes} for bytes in (5 * 10**9, None)]
    content["carried_bytes"] = [[{"total": 9}, {"total": total}] for total in (10**6, 2 * 10**6)]
    (tmp_path / "run" / "results.json").write_text(json.dumps(content))
    text = printed([tmp_path], tmp_path, 200)
    assert "images/s" in text and "carried" in text
    (row,) = read_markdown(tmp_path / "report.md")
    assert (row["images/s"], row["carried (MB)"]) == ("250", "1.50")
    assert (row["device memory (GB)"], row["host memory (GB)"]) == ("-", "5.00")
    with (tmp_path / "report.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["images_per_second"], line["carried_bytes"]) == ("250.0", "1500000.0")


@pytest.mark.parametrize(
    ("config", "results", "mark"),
    [
        ({"seeds": [0, 1]}, {}, "1 of 2 seeds"),  # stopped before it wrote results of both
        ({"max_tasks": 0}, {}, "2 of 5 tasks"),
        ({}, {"complete": False, "tasks_total": 5, "task_sizes": [2] * 5}, "2 of 5 tasks"),
    ],
)
def test_an_unfinished_run_has_no_final_accuracy(tmp_path, config, results, mark):
    """Neither one that was stopped, nor one that has been given more seeds or tasks."""
    workdir = tmp_path / "run"
    content = write_run(workdir, "abd_digits", max_tasks=2)
    printed([workdir], tmp_path)
    (row,) = read_markdown(tmp_path / "report.md")
    assert row["final accuracy (%)"] != "-" and "of" not in row["marks"]
    settings = json.loads((workdir / "config.json").read_text()) | config
    settings |= {"max_tasks": 0} if "tasks_total" in results else {}
    (workdir / "config.json").write_text(json.dumps(settings))
    (workdir / "results.json").write_text(json.dumps(content | results))
    printed([workdir], tmp_path)
    (row,) = read_markdown(tmp_path / "report.md")
    assert row["final accuracy (%)"] == row["forgetting (points)"] == "-"
    assert row["marks"].startswith(f"**{mark}**")


def test_csv_holds_every_number_in_full(table):
    content = write_run(table / "whole", "lwf_cifar100", seeds=THREE, num_tasks=20)
    printed([table], table)
    with (table / "report.csv").open(newline="") as file:
        rows = {Path(row["workdir"]).name: row for row in csv.DictReader(file)}
    assert len(rows) == 6
    row = rows["whole"]
    for key in runs.HEADLINES:
        assert float(row[f"{key}_mean"]) == content[key]["mean"]
        assert float(row[f"{key}_std"]) == content[key]["std"]
    assert (row["published_final_accuracy_mean"], row["seconds"]) == ("4.7", "1300.0")
    assert (row["num_seeds"], row["seeds"], row["tasks_total"]) == ("3", "0 1 2", "20")
    assert (row["device"], row["versions"]) == ("cpu", "python=3.11.7 jax=0.10.2")
    unfinished = "3 of 5 tasks: 85.0 % so far, on the classes of these tasks | 1 seed"
    assert row["marks"] == "" and rows["lwf"]["marks"] == unfinished
    assert {rows["lwf"][f"{key}_mean"] for key in runs.HEADLINES} == {""}
    assert rows["mc"]["final_accuracy_mean"] == rows["mc"]["seconds"] == ""


class Page(HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, path):
        super().__init__()
        self.references, self.words, self.tags = [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_needs_nothing_from_anywhere(table):
    printed([table], table)
    content = (table / "report.html").read_text()
    page = Page(table / "report.html")
    (picture,) = page.references
    assert picture.startswith("data:image/png;base64,")
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in content and "@import" not in content and "http" not in content
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        assert image.format == "PNG" and image.height > 1000  # two panels
    assert {"shortened", "3 of 5 tasks", "1 seed", "no task finished"} <= set(page.words)
    assert {"ABD", "81.0 ± 0.8", "43.9 ± 0.9", "cifar100, 10 tasks"} <= set(page.words)


def test_the_marks_stand_beside_the_published_figure(table):
    printed([table], table)
    heads = re.findall("<th[^>]*>([^<]*)</th>", (table / "report.html").read_text())
    place = heads.index("published (%)")
    assert heads[place - 1 : place + 2] == ["final accuracy (%)", "published (%)", "marks"]
    # What is long and compares nothing is in the footer.
    assert heads.index("device") > heads.index("workdir") > heads.index("time")


@pytest.mark.parametrize(
    ("evil", "shown", "markdown"),
    [
        ("<b>$x|[red]", "<b>$x|[red]", r"\<b\>\$x\|\[red\]"),
        ("$0_$10", "$0_$10", r"\$0\_\$10"),
        ("_a_", "_a_", r"\_a\_"),
        ("a\x1b[31m", r"a\x1b[31m", r"a\\x1b\[31m"),
        ("caf\udce9", r"caf\udce9", r"caf\\udce9"),
    ],
)
def test_names_are_text_in_every_file(tmp_path, evil, shown, markdown):
    for name in (evil, "tame"):
        write_run(tmp_path / name, "lwf_digits")
    text = printed([tmp_path], tmp_path)
    assert f"LwF ({shown})" in text and "\x1b" not in text
    page = Page(tmp_path / "report.html")
    assert f"LwF ({shown})" in page.words and "b" not in page.tags
    found = {row["learner"] for row in read_markdown(tmp_path / "report.md")}
    assert f"LwF ({markdown})" in found


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_the_csv_is_a_formula(tmp_path, name):
    write_run(tmp_path / "run", "lwf_digits", method__name=name)
    printed([tmp_path / "run"], tmp_path)
    content = (tmp_path / "report.csv").read_text()
    (row,) = csv.DictReader(io.StringIO(content))
    assert row["method"].endswith(name.strip()) and row["method"][0] in ("'", "\\")
    numbers = {"backward_transfer_mean"}  # negative, and still a number
    assert all(
        not cell.startswith(tuple("=+-@\t\r")) for k, cell in row.items() if k not in numbers
    )
    assert float(row["backward_transfer_mean"]) < 0


def test_without_a_finished_task_there_is_no_picture(tmp_path):
    write_run(tmp_path / "run", "lwf_digits", done=-1)
    printed([tmp_path / "run"], tmp_path)
    assert Page(tmp_path / "report.html").references == []


def test_the_same_runs_make_the_same_files(table, tmp_path):
    for out in ("one", "two"):
        printed([table], tmp_path / out)
    for name in ("report.md", "report.csv", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_files_go_beside_runs_or_into_their_directory(table, tmp_path):
    assert tables.default_folder(table) == table
    assert tables.default_folder(table / "abd") == table
    printed([table / "abd", table / "lwf"], None)
    assert (table / "report.html").exists() and not (table / "abd" / "report.html").exists()


def test_nothing_is_written_when_a_run_is_damaged(table):
    (table / "lwf" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"lwf/results\.json: not valid JSON"):
        tables.write_report([table], table / "out")
    assert not (table / "out").exists()


def test_a_folder_that_cannot_be_made_is_a_user_error(table):
    with pytest.raises(UserError, match=r"cannot write .*report\.md"):
        printed([table], table / "abd" / "config.json")


def command(*args):
    code = [sys.executable, "-m", "cljax.report", *map(str, args)]
    return subprocess.run(code, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def test_the_command_writes_the_report(table):
    done = command(table, "--out", table / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (table / "out").iterdir()) == [
        "report.csv",
        "report.html",
        "report.md",
    ]
    assert published.SOURCE in done.stdout


def test_a_mistake_on_the_command_line_is_one_line(tmp_path):
    done = command(tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: cannot read {tmp_path}/nothing: No such file or directory\n"


def test_reports_load_neither_jax_nor_pyplot():
    code = (
        "import sys; import cljax.report; "
        "from cljax.output import logs, progress, summary; "
        "print(*{'jax', 'matplotlib.pyplot', 'tensorboardX'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize(
    "script, name",
    [("/venv/bin/cljax-report", "cljax-report"), ("report/__main__.py", "python -m cljax.report")],
)
def test_the_usage_names_the_command_that_was_called(monkeypatch, capsys, script, name):
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit):
        main.parse(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {name} [-h]")
