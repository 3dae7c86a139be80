"""Defines what every optimizer is, and its parameter groups."""

import abc
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.state import PyTree, hyperparameters


class Group(NamedTuple):
    """Parameters with a learning rate and weight decay of their own, as PyTorch's groups.

    Attributes:
      trained: tree like the parameters: True for those of the group, False for others, or bool
        arrays with an entry for each entry of a parameter.
      learning_rate: before the schedule, at least 0; None: the optimizer's.
      weight_decay: at least 0; None: the optimizer's.
    """

    trained: PyTree
    learning_rate: float | None = None
    weight_decay: float | None = None


# A tree as `Group.trained` has it, for a single group, or a sequence of groups.
Trained = PyTree


def as_groups(trained: Trained) -> Sequence[Group]:
    """Returns the groups that a method's `get_parameters` describes.

    Raises:
      TypeError: some entries of a list are groups and some are not, or it is empty.
    """
    if not isinstance(trained, list | tuple):
        return (Group(trained),)
    if not trained or not all(isinstance(group, Group) for group in trained):
        raise TypeError("get_parameters must return a tree like params, or a list of Group")
    return trained


def is_trained(groups: Sequence[Group]) -> PyTree:
    """Returns a tree of bools: whether a group has the parameter, or entries of it."""
    trees = (group.trained for group in groups)
    return jax.tree.map(lambda *some: any(moves is not False for moves in some), *trees)


@hyperparameters
class Optimizer(abc.ABC):
    """Base class of optimizers.

    Attributes:
      learning_rate: before the schedule, at least 0.
      momentum: 0 to 1; without effect where the optimizer has none.
      weight_decay: at least 0.
      clip_norm: largest norm of all gradients together, above 0; None: any.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float | None = None

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """Makes the initial optimizer state; its structure does not depend on what is trained."""

    @abc.abstractmethod
    def step(
        self, grads: PyTree, state: PyTree, params: PyTree, group: Group, factor: jax.Array | float
    ) -> tuple[PyTree, PyTree]:
        """Updates the parameters of a group; arguments as those of `update`.

        State of parameters that are in no group may change; the parameters do not.
        """

    def update(
        self,
        grads: PyTree,
        state: PyTree,
        params: PyTree,
        trained: Trained,
        factor: jax.Array | float,
    ) -> tuple[PyTree, PyTree]:
        """Updates parameters in one training step.

        Args:
          grads: tree like `params`.
          state: optimizer state, as `init` returns it.
          params: tree of float arrays.
          trained: what is trained: a tree as in `Group`, or groups that have no entry in common.
          factor: float [], of the learning rates, from the schedule.

        Returns:
          The new parameters and the new optimizer state.
        """
        if self.clip_norm is not None:
            grads, _ = optax.clip_by_global_norm(self.clip_norm).update(grads, optax.EmptyState())
        groups = as_groups(trained)
        if len(groups) == 1:
            return self.step(grads, state, params, groups[0], factor)
        found = params, state
        for group in groups:
            new = self.step(grads, state, params, group, factor)
            masks = optax.tree_map_params(  # a copy of the mask for every copy of the parameters
                self,
                lambda _, mask: mask,
                state,
                group.trained,
                transform_non_params=lambda _: True,
            )
            found = jax.tree.map(choose, (group.trained, masks), new, found)
        return found

    def rates(self, group: Group) -> tuple[jax.Array | float, jax.Array | float]:
        """Returns learning rate, before the schedule, and weight decay of a group."""
        rate, decay = group.learning_rate, group.weight_decay
        return (
            self.learning_rate if rate is None else rate,
            self.weight_decay if decay is None else decay,
        )


def choose(condition: jax.Array | bool, new: jax.Array, old: jax.Array) -> jax.Array:
    """Chooses as `jnp.where`; a bool leaves out what it does not choose."""
    if isinstance(condition, bool):
        return new if condition else old
    return jnp.where(condition, new, old)
