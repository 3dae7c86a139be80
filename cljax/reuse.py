"""Keeps what a run takes over from the run before it in the same process: data and programs."""

from typing import Any

import jax

from cljax import build
from cljax import problem as problem_lib
from cljax.compute.executor import Executor
from cljax.problem import Problem
from cljax.settings import Settings


class Reuse:
    """Holds the dataset on the device and the compiled programs of the newest run.

    A run whose dataset is the same takes over its arrays. A run whose method has other traced
    values alone, such as loss weights and rates (see `cljax.state.hyperparameters`), takes over its
    programs and compiles nothing. Whatever is not taken over is dropped first.

    Attributes:
      num_executors: how many sets of programs there have been.
    """

    def __init__(self):
        self.num_executors = 0
        self._problem: Problem | None = None
        self._executor: Executor | None = None
        self._data_key = self._program_key = None

    def problem(self, settings: Settings) -> Problem:
        """Makes the problem of a run, as `problem.make_problem` does.

        Raises:
          UserError: the data or a setting are wrong.
        """
        key = settings.data.model_dump(exclude={"augmentation"}), build.make_mesh(settings)
        before = self._problem if key == self._data_key else None
        self._problem = None
        self._problem = problem_lib.make_problem(settings, before=before)
        self._data_key = key
        return self._problem

    @staticmethod
    def program_key(settings: Settings, problem: Problem) -> tuple[Any, ...]:
        """Returns what is equal for runs whose programs are the same."""
        computes = settings.execution, settings.dtype, build.make_mesh(settings)
        return *computes, jax.tree.structure(problem.method)

    def forget(self) -> None:
        """Drops everything, such as arrays that an error may hold."""
        self._problem = self._executor = self._data_key = self._program_key = None

    def executor(self, settings: Settings, problem: Problem) -> Executor:
        """Returns the executor of a run."""
        key = self.program_key(settings, problem)
        if key != self._program_key:
            if self._executor is not None:
                self._executor = None
                jax.clear_caches()
            self._executor = build.make_executor(settings)
            self.num_executors += 1
            self._program_key = key
        assert self._executor is not None
        return self._executor
