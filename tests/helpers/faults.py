"""Runs main.py and does it harm at a chosen moment: faults.py HARM MOMENT COUNT FLAGS...

HARM: "kill" (SIGKILL), "interrupt" (SIGINT), or "full:BYTES", after which no file can grow beyond
so many bytes, as on a full disk. MOMENT: "epoch", after an epoch's steps and before anything is
saved; or "EVENT:TEXT", an audit event of Python (such as os.rename) that names a path with TEXT.
COUNT: the how-manieth such moment, from 1.
"""

import os
import resource
import runpy
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def harm(kind: str):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(kind.partition(":")[2]), hard))


def watch(kind: str, moment: str, count: int):
    """Does harm at the moment."""
    left = [count]

    def pass_moment():
        left[0] -= 1
        if left[0] == 0:
            harm(kind)

    if moment == "epoch":
        from cljax import training

        run_epoch = training.run_epoch

        def harmed(*args):
            result = run_epoch(*args)
            pass_moment()
            return result

        training.run_epoch = harmed
        return
    event, _, text = moment.partition(":")

    def hook(name, args):
        if name == event and any(
            text in os.fsdecode(a) for a in args if isinstance(a, (str, bytes))
        ):
            pass_moment()

    sys.addaudithook(hook)


if __name__ == "__main__":
    kind, moment, count = sys.argv[1:4]
    sys.argv = [str(ROOT / "main.py"), *sys.argv[4:]]
    sys.path[0] = str(ROOT)
    watch(kind, moment, int(count))
    runpy.run_path(sys.argv[0], run_name="__main__")
