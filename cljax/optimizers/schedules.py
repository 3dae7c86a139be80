"""Defines schedules: by which factor the learning rate of each epoch differs from the first."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

import jax
import optax

from cljax.optimizers.arguments import Arguments
from cljax.state import hyperparameters

# Optax's schedules by name, with the arguments that make factors of them. What is None is the
# number of epochs, unless it is given.
OPTAX: Mapping[str, tuple[Callable, Mapping[str, Any]]] = MappingProxyType(
    {
        "constant": (optax.constant_schedule, {"value": 1.0}),
        "cosine": (optax.cosine_decay_schedule, {"init_value": 1.0, "decay_steps": None}),
        "cosine_onecycle": (
            optax.cosine_onecycle_schedule,
            {"peak_value": 1.0, "transition_steps": None},
        ),
        "exponential": (optax.exponential_decay, {"init_value": 1.0, "transition_steps": None}),
        "linear": (optax.linear_schedule, {"init_value": 1.0, "transition_steps": None}),
        "linear_onecycle": (
            optax.linear_onecycle_schedule,
            {"peak_value": 1.0, "transition_steps": None},
        ),
        "polynomial": (optax.polynomial_schedule, {"init_value": 1.0, "transition_steps": None}),
        "warmup_constant": (optax.warmup_constant_schedule, {"peak_value": 1.0}),
        "warmup_cosine": (
            optax.warmup_cosine_decay_schedule,
            {"peak_value": 1.0, "decay_steps": None},
        ),
        "warmup_exponential": (
            optax.warmup_exponential_decay_schedule,
            {"peak_value": 1.0, "transition_steps": None},
        ),
    }
)


@hyperparameters
class Schedule(abc.ABC):
    """Base class of schedules. The rate changes between epochs only, as PyTorch's usually do."""

    @abc.abstractmethod
    def factor(self, epoch: jax.Array | int, epochs: int) -> jax.Array | float:
        """Returns the factor of the learning rate.

        Args:
          epoch: from 0, traced or not.
          epochs: of the whole stage.
        """

    def with_milestones(self, milestones: tuple[int, ...]) -> Self:
        """Returns the schedule with other milestones, if it has any."""
        return self


@hyperparameters
class Multistep(Schedule):
    """Multiplies the learning rate by `decay` at each milestone.

    Attributes:
      decay: above 0.
      milestones: epochs (from 0) at which the rate drops.
    """

    decay: float
    milestones: tuple[int, ...]

    def factor(self, epoch, epochs):
        """Returns decay^(number of milestones <= epoch)."""
        return self.decay ** sum(epoch >= m for m in self.milestones)

    def with_milestones(self, milestones):
        """Returns the schedule with other milestones."""
        return dataclasses.replace(self, milestones=milestones)


CONSTANT = Multistep(1.0, ())


@hyperparameters
class OptaxSchedule(Schedule):
    """A schedule of Optax, whose steps are epochs and whose values are factors.

    Attributes:
      name: a key of `OPTAX`.
      arguments: those of the function there.
    """

    name: str
    arguments: Arguments = ()

    def factor(self, epoch, epochs):
        """Returns the value of Optax's function."""
        function, own = OPTAX[self.name]
        own = {name: epochs if value is None else value for name, value in own.items()}
        return function(**own | dict(self.arguments))(epoch)
