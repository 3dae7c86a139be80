"""The progress display: what it says, how often, and how long it thinks the run will take."""

import io
import re

import pytest
from rich.console import Console

from cljax.output.progress import Progress, TimeLeft, describe_time_left, fit


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


METRICS = {"loss": 1.23456, "local": 0.5, "distillation": 0.25, "accuracy": 0.5, "head": 12.3}
INVERT = {"task": 11, "num_tasks": 20, "stage": "invert", "num_epochs": 20, "kind": "invert"}


def frames(width, act):
    """What a terminal shows after each call of `act(progress)`, a list of lines each."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Progress({"invert": 20, "train": 1}, console=console, clock=Clock()) as progress:
        shown = []
        for _ in act(progress):
            text = console.file.getvalue().rpartition("\x1b[2K")[2]
            lines = text.replace("\x1b[?25l", "").split("\n")  # which hides the cursor
            assert max(map(len, lines)) <= width
            shown.append([re.sub("[━╸╺]", "", line).strip() for line in lines])
    return shown


def invert(progress):
    """The calls of a stage whose second epoch is much later."""
    progress.start(task=11, num_tasks=20, part="invert", epoch=0, num_epochs=20)
    yield
    progress.compiling(True)
    yield
    progress.compiling(False)
    yield
    rate = {"images_per_second": 41234.0, "metrics": METRICS}
    for epoch in range(2):
        progress._clock.now += 100.0
        progress.update(**INVERT, **rate, epoch=epoch, work_done=epoch + 1)
    yield
    progress.start(task=11, num_tasks=20, part="evaluate")
    yield


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_terminal_never_shows_the_stage_before(width):
    started, compiling, running, updated, evaluating = frames(width, invert)
    words = ["task 12/20", "invert 1/20"]
    assert started == running == [fit([*words, "running"], width), ""]
    assert compiling == [fit([*words, "compiling"], width), ""]
    assert evaluating == [fit(["task 12/20", "evaluate", "running"], width), ""]
    assert updated[0].startswith(fit(["task 12/20", "invert 2/20"], width))
    assert all("…" not in line for line in updated)


def test_a_narrow_terminal_leaves_out_what_matters_least():
    updated = {width: frames(width, invert)[3] for width in (40, 80, 200)}
    assert updated[40] == ["task 12/20  invert 2/20", "loss 1.235  accuracy 50.0 %"]
    place = "task 12/20  invert 2/20  at least 30:00 left"
    numbers = "loss 1.235  accuracy 50.0 %  41,234 images/s  local 0.5  distillation 0.25"
    assert updated[80] == [place, numbers]
    assert updated[200] == [place, f"{numbers}  head 12.3"]


def test_plain_text_has_one_line_for_the_programs_of_a_part():
    console = Console(file=io.StringIO(), width=40)
    with Progress({"train": 2}, console=console, clock=Clock()) as progress:
        for task in range(2):
            progress.start(task=task, num_tasks=2, part="train", epoch=0, num_epochs=1)
            if task == 0:
                for begins in (True, False) * 3:
                    progress.compiling(begins)
            place = {"task": task, "num_tasks": 2, "epoch": 0, "num_epochs": 1}
            progress.update(
                **place, stage="train", metrics={"loss": task}, kind="train", work_done=task + 1
            )
            progress.start(task=task, num_tasks=2, part="evaluate")
        progress.compiling(True)
    assert console.file.getvalue().splitlines() == [
        "task 1/2  train 1/1  compiling",
        "task 1/2  train 1/1  time left not known yet  loss 0",
        "task 2/2  train 1/1  0:00 left  loss 1",
        "task 2/2  evaluate  compiling",
    ]


def test_a_terminal_gets_live_lines_that_make_way_for_the_last():
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


@pytest.mark.parametrize("terminal", [False, True])
def test_names_send_no_command_to_the_terminal(terminal):
    name = "\x1b]0;title\x07"
    console = Console(file=io.StringIO(), force_terminal=terminal, width=200, color_system=None)
    with Progress({"train": 1}, console=console, clock=Clock()) as progress:
        place = {"task": 0, "num_tasks": 1, "epoch": 0, "num_epochs": 1}
        progress.start(part=name, **place)
        progress.update(**place, stage=name, metrics={name: 1.0}, kind="train", work_done=1)
    shown = console.file.getvalue()
    assert name not in shown and r"\x1b]0;title\x07" in shown


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
