"""The progress display: what it says, how often, and how long it thinks the run will take."""

import io

import pytest
from rich.console import Console

from cljax.progress import Progress, TimeLeft, describe_time_left


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def show(seconds, terminal=False):
    """The text shown for one update per entry of `seconds`, which is the time before it."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None)
    clock = Clock()
    with Progress({"train": len(seconds)}, console=console, clock=clock) as progress:
        for epoch, wait in enumerate(seconds):
            clock.now += wait
            progress.update(
                task=1,
                num_tasks=5,
                stage="train",
                epoch=epoch,
                num_epochs=len(seconds),
                metrics={"loss": 1.23456, "accuracy": 0.5},
                images_per_second=41234.0,
                kind="train",
                work_done=epoch + 1,
            )
    return console.file.getvalue()


def test_plain_lines_are_the_first_the_last_and_one_in_ten_seconds():
    lines = show([1.0] * 25).splitlines()
    assert [line.split("  ")[1] for line in lines] == [
        "train 1/25",
        "train 11/25",
        "train 21/25",
        "train 25/25",
    ]


def test_a_plain_line_says_where_the_run_is():
    text = show([5.0] + [2.0] * 10)
    assert "\x1b" not in text and "\r" not in text
    metrics = "loss 1.235  accuracy 50.0 %  41,234 images/s"
    first, second, last = text.splitlines()
    assert first == f"task 2/5  train 1/11  time left not known yet  {metrics}"
    assert second == f"task 2/5  train 6/11  0:10 left  {metrics}"
    assert last == f"task 2/5  train 11/11  0:00 left  {metrics}"


def test_the_last_line_is_shown_once():
    assert show([1.0]).count("train 1/1") == 1
    assert show([20.0, 20.0]).count("train 2/2") == 1


def test_nothing_is_shown_without_updates():
    assert show([]) == ""


def test_a_terminal_gets_one_live_line_that_makes_way_for_the_last():
    text = show([1.0] * 3, terminal=True)
    assert "\x1b[2K" in text and "━" in text
    erase = "\x1b[2K"
    assert text.rpartition(erase)[2].startswith("task 2/5  train 3/3  0:00 left  loss")
    assert text.rpartition(erase)[2].endswith("images/s\n")


@pytest.mark.parametrize("terminal", [False, True])
def test_notes_are_shown_as_they_are(terminal):
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=20, color_system=None, emoji=True
    )
    with Progress({"train": 1}, console=console, clock=Clock()) as progress:
        progress.note("a line [red]longer[/red] than :smile: the terminal")
    assert "a line [red]longer[/red] than :smile: the terminal\n" in console.file.getvalue()


def test_a_crash_in_the_run_passes_through():
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(RuntimeError, match="mine"), Progress({}, console=console):
        raise RuntimeError("mine")
    hidden, shown = (console.file.getvalue().rfind(f"\x1b[?25{code}") for code in "lh")
    assert -1 < hidden < shown  # the cursor is visible again


def test_time_left_leaves_out_compilation_and_adds_stages():
    left = TimeLeft({"train": 10, "invert": 4})
    assert left() == (None, False)
    left.advance("train", 1, 60.0)  # compiles
    assert left() == (None, False)
    left.advance("train", 3, 4.0)  # 2 s a unit, 7 units left
    assert left() == (14.0, False)
    left.advance("invert", 1, 60.0)
    assert left() == (14.0, False)
    left.advance("invert", 2, 10.0)  # 10 s a unit, 2 units left
    assert left() == (34.0, True)
    left.advance("train", 10, 0.0)
    left.advance("invert", 4, 0.0)
    assert left() == (0, True)


def test_time_left_of_a_resumed_run():
    left = TimeLeft({"train": 10}, done={"train": 6})
    left.advance("train", 7, 60.0)
    left.advance("train", 8, 3.0)
    assert left() == (6.0, True)


def test_time_left_in_words():
    assert describe_time_left(3753.4, True) == "1:02:33 left"
    assert describe_time_left(59.6, True) == "1:00 left"
    assert describe_time_left(65.0, False) == "at least 1:05 left"
