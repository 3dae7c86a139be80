"""Runs named configs one after another in one directory."""

import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


def flatten(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and value of all settings; a block without any is a value."""
    for key, value in config.items():
        if isinstance(value, ConfigDict) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


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

    def run(self, together: bool = False) -> dict[str, str]:
        """Runs what is incomplete: skips complete runs, resumes stopped ones, passes failed ones.

        Args:
          together: whether runs may train together, as `experiment.run_first` has it.

        Returns:
          Why runs have failed, by name.

        Raises:
          experiment.Stopped: SIGINT or SIGTERM was received.
        """
        failed, reuse, left = {}, Reuse(), list(self.plan)
        self._complete: dict[str, bool] = {}  # what is left stays as it is
        while left:
            first = left[0]
            title = f"{len(self.plan) - len(left) + 1}/{len(self.plan)}  {printable(first.name)}"
            self.console.rule(Text(title), style="dim")
            if self._is_complete(first):
                line = f"{self.directory / first.name}: already complete, skipped"
                print_plain(self.console, line)
                left = left[1:]
                continue
            tried = [run for run in left if not self._is_complete(run)] if together else left[:1]
            outcomes = self._run(tried, reuse)
            for (name, _), outcome in zip(tried, outcomes, strict=False):
                if isinstance(outcome, str):
                    failed[name] = outcome
                    reuse.forget()  # arrays that an error may hold
                    line = f"{name} failed: {outcome}"
                    print_plain(self.console, line, style="bold red")
            done = {name for name, _ in tried[: len(outcomes)]}
            left = [run for run in left if run.name not in done]
        return failed

    def _run(self, tried: list[Planned], reuse: Reuse) -> list[dict | str]:
        """Runs the first one, or more: returns the results of each, or why it failed."""
        runs = [(config, self.directory / name) for name, config in tried]
        try:
            outcomes = experiment.run_first(runs, self.console, reuse)
        except experiment.Stopped:
            raise
        except Exception as error:
            if not processes.is_alone():
                raise  # the others may wait for this one
            traceback.print_exc()
            return [f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"]
        return [str(one) if isinstance(one, UserError) else one for one in outcomes]

    def _is_complete(self, run: Planned) -> bool:
        if run.config.overwrite:
            return False
        if run.name not in self._complete:
            found = workdir.is_complete(self.directory / run.name, settings_lib.read(run.config))
            self._complete[run.name] = bool(processes.max_over_processes(found))
        return self._complete[run.name]


def raise_failures(failed: dict[str, str], count: int) -> None:
    """Raises a UserError if some of `count` runs have failed; `failed` has the reasons by name."""
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise UserError(
            f"{len(failed)} of {count} runs failed; run the same command to repeat them: {reasons}"
        )
