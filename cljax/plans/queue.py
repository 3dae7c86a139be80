"""Runs named configs one after another in one directory."""

import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict
from rich.console import Console
from rich.text import Text

from cljax import experiment
from cljax import settings as settings_lib
from cljax.compute import processes
from cljax.errors import UserError, print_plain, printable
from cljax.output import workdir
from cljax.reuse import Reuse


class Planned(NamedTuple):
    """A run of a plan: the name of its workdir, and its config."""

    name: str
    config: ConfigDict


class Queue:
    """The runs of a plan.

    Attributes:
      plan: the runs in their order.
      directory: where their workdirs are.
      console: shows them.
    """

    def __init__(self, plan: Iterable[Planned], directory: Path, console: Console):
        """Checks settings and workdirs of all runs.

        Raises:
          UserError: a setting is wrong, or a workdir is not fit for its run.
        """
        self.plan, self.directory, self.console = list(plan), directory, console
        with processes.raise_together():
            for name, config in self.plan:
                experiment.check(config, directory / name)

    @property
    def workdirs(self) -> list[Path]:
        """The workdirs of all runs."""
        return [self.directory / name for name, _ in self.plan]

    def run(self) -> dict[str, str]:
        """Runs what is incomplete: skips complete runs, resumes stopped ones, passes failed ones.

        Returns:
          Why runs have failed, by name.

        Raises:
          experiment.Stopped: SIGINT or SIGTERM was received.
        """
        failed, reuse = {}, Reuse()
        for number, (name, config) in enumerate(self.plan, start=1):
            title = f"{number}/{len(self.plan)}  {printable(name)}"
            self.console.rule(Text(title), style="dim")
            if not config.overwrite and _is_complete(config, self.directory / name):
                line = f"{self.directory / name}: already complete, skipped"
                print_plain(self.console, line)
                continue
            try:
                experiment.run(config, self.directory / name, self.console, reuse)
            except experiment.Stopped:
                raise
            except UserError as error:
                failed[name] = str(error)
            except Exception as error:
                if not processes.is_alone():
                    raise  # the others may wait for this one
                traceback.print_exc()
                failed[name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if name in failed:
                reuse = Reuse()  # whose arrays an error may hold
                line = f"{name} failed: {failed[name]}"
                print_plain(self.console, line, style="bold red")
        return failed


def raise_failures(failed: dict[str, str], count: int) -> None:
    """Raises a UserError if some of `count` runs have failed; `failed` has the reasons by name."""
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {count} runs failed; run the same command to repeat them: {reasons}"
        )


def _is_complete(config: ConfigDict, directory: Path) -> bool:
    complete = workdir.is_complete(directory, settings_lib.read(config))
    return bool(processes.max_over_processes(complete))
