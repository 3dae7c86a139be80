"""A command does its work whatever its terminal is, and ends in one line at Ctrl-C."""

import os
import subprocess
import sys

import pytest

from tests.helpers import folders, tiny_runs

STOPPED = "Stopped without saving; what was saved before is kept."
# Fills more than a buffer, writes a file, and ends with a status of its own.
PROGRAM = """
import os, sys
from cljax.output import terminal
with terminal.ready():
    for _ in range(9999):
        print("80.0 \\u00b1 4.1", file=sys.{stream})
    with open("done", "w", encoding="utf-8") as file:
        file.write(str(file.fileno()))
    sys.exit(7)
"""
# How a shell starts a command, which is "$@"; {} is 1 or 2.
TERMINALS = {
    "usual": '"$@"',
    "ascii": 'PYTHONIOENCODING=ascii:strict "$@"',
    "full": '"$@" {}>/dev/full',
    "closed": '"$@" {}>&-',
    "all closed": '"$@" <&- >&- 2>&-',
    "left": '{{ "$@" {}>&3; echo $? >status; }} 3>&1 1>/dev/null | true; exit "$(cat status)"',
}


def start(terminal, *args, number=1, cwd):
    """Runs a Python program in a terminal: (exit status, standard output, standard error)."""
    script = TERMINALS[terminal].format(number)
    process = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(tiny_runs.ROOT)},
        timeout=100,
    )
    return process.returncode, process.stdout, process.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("terminal", TERMINALS)
def test_output_that_cannot_be_written_is_lost(tmp_path, terminal, stream):
    number = 1 if stream == "stdout" else 2
    program = PROGRAM.format(stream=stream)
    status, *shown = start(terminal, "-c", program, number=number, cwd=tmp_path)
    assert status == 7
    assert int((tmp_path / "done").read_text()) > 2  # not in place of a standard file
    if terminal == "ascii":
        assert shown[number - 1].splitlines() == [r"80.0 \xb1 4.1"] * 9999
    assert "Error" not in "".join(shown)


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (("main.py", "--help"), 0),
        (("main.py", "--config.no_key=1"), 1),
        (("-m", "cljax.report", "--help"), 0),
        (("-m", "cljax.report", "none"), 1),
        (("-m", "cljax.benchmark", "--help"), 0),
    ],
)
def test_every_command_ends_with_its_own_status(program, status):
    for number in (1, 2):
        assert start("full", *program, number=number, cwd=tiny_runs.ROOT)[0] == status


@pytest.mark.slow
def test_names_outside_ascii_in_the_locale_c(compiled, tmp_path):
    """The locale C without Python's UTF-8 mode, and nobody reads what the run prints."""
    folders.make(tmp_path / "fötos")
    for split in ("train", "test"):
        (tmp_path / "fötos" / split / "ant").rename(tmp_path / "fötos" / split / "äffchen")
    settings = {"data__name": "folder", "data__path": tmp_path / "fötos", "data__image_size": 8}
    settings |= {"num_tasks": 1, "max_tasks": 1, "batch_size": 2, "epochs": 1}
    flags = tiny_runs.arguments(tmp_path / "wörk", **settings)
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = tiny_runs.start(*flags, cache=compiled, variables=variables)
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=100) == 0
    assert tiny_runs.results(tmp_path / "wörk")["complete"]
    text = {
        name: (tmp_path / "wörk" / name).read_text(encoding="utf-8")
        for name in ("config.json", "log.txt")
    }
    assert f'"path": "{tmp_path}/fötos"' in text["config.json"]
    assert f"images in {tmp_path}/fötos" in text["log.txt"]


@pytest.mark.parametrize("moment", ["absl", "numpy.matrixlib", "jax.numpy", "scipy"])
def test_ctrl_c_during_an_import(tmp_path, moment):
    flags = tiny_runs.arguments(tmp_path / "run")
    fault = ("interrupt", f"import:{moment}", "1")
    status, _, err = tiny_runs.command(*flags, fault=fault)
    assert (status, err.splitlines()) == (130, [STOPPED])


MOMENTS = {
    "at work": "os.kill(os.getpid(), signal.SIGINT)",
    "where Python ignores errors": "Ignored()",
    "during a restart": """
    if "SENT" not in os.environ:
        os.environ["SENT"] = "1"
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)
        terminal.restart()
""",
}
INTERRUPTED = """
import os, signal, time
from cljax.output import terminal
class Ignored:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
with terminal.ready():
    {}
    time.sleep(30)
"""


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_elsewhere(tmp_path, moment):
    program = INTERRUPTED.format(MOMENTS[moment])
    status, out, err = start("usual", "-c", program, cwd=tmp_path)
    assert (status, out, err.splitlines()) == (130, "", [STOPPED])
