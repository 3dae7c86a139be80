"""The tables that a run ends with."""

import io

from rich.console import Console

from cljax.output.summary import print_summary
from tests.helpers.fake_runs import results


def summary(results, workdir, width=100):
    console = Console(file=io.StringIO(), width=width)
    print_summary(results, workdir, console)
    return console.file.getvalue()


def test_summary_has_the_numbers_and_the_files(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "plots").mkdir()
    for picture in ("loss.png", "dreams.png"):
        (tmp_path / "plots" / picture).touch()
    text = summary(results(3, 2), tmp_path)
    assert "lwf on digits: 3 of 3 tasks, seeds 0, 1" in text
    assert "85.50 ± 0.50" in text  # final: (80 + 85 + 90) / 3, plus seed
    assert "7.50 ± 0.00" in text  # forgetting: (10 + 5) / 2
    assert "after 3 80.5 85.5 90.5" in text
    assert f"  {tmp_path}/plots/: dreams.png, loss.png\n  {tmp_path}/results.json\n" in text
    assert "train 1,234.5 s, total 1,300.0 s" in text


def test_summary_says_when_the_accuracy_is_top_5(tmp_path):
    assert "Top-5 accuracy after each task" in summary(results(1, 1) | {"top_k": 5}, tmp_path)
    assert "op-" not in summary(results(1, 1), tmp_path).partition("Files:")[0]


def test_summary_of_an_unfinished_run_and_of_none(tmp_path):
    text = summary(results(3, 1, done=1), tmp_path)
    assert "1 of 3 tasks, unfinished" in text and "± " not in text
    empty = results(2, 1) | {"tasks_done": 0, "complete": False}
    assert "Accuracy" not in summary(empty, tmp_path)


def test_the_accuracy_matrix_fits_the_width(tmp_path):
    many = results(20, 1)
    for width, first_row in [(160, "after 2 85.0 90.0"), (80, "after 2 85 90"), (50, "too wide")]:
        text = summary(many, tmp_path, width).partition("Time:")[0]
        assert first_row in " ".join(text.split())
        assert max(map(len, text.splitlines())) <= width
