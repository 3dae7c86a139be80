"""Optimizers, parameter groups and schedules of the learning rate."""

from cljax.optimizers.base import Group, Optimizer, Trained, is_trained
from cljax.optimizers.from_optax import OptaxOptimizer
from cljax.optimizers.schedules import CONSTANT, Multistep, OptaxSchedule, Schedule
from cljax.optimizers.sgd import SGD

__all__ = [
    "CONSTANT",
    "SGD",
    "Group",
    "Multistep",
    "OptaxOptimizer",
    "OptaxSchedule",
    "Optimizer",
    "Schedule",
    "Trained",
    "is_trained",
]
