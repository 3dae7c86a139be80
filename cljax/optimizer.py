"""Defines optimizers with their learning rate schedules."""

import jax
import jax.numpy as jnp
import optax

from cljax.state import PyTree, hyperparameters


@hyperparameters
class SGD:
    """Stochastic gradient descent in PyTorch's form, with milestones.

    `g <- grad + weight_decay p; v <- momentum v + g; p <- p - lr v`. Weight decay acts on every
    parameter. Epoch e (from 0) has learning rate
    `learning_rate * decay^(number of milestones <= e)`.

    Attributes:
      learning_rate: initial learning rate, > 0.
      momentum: factor of the previous v, 0 to 1.
      weight_decay: factor of p, >= 0.
      decay: factor of the learning rate at each milestone.
      milestones: epochs (from 0) at which the learning rate drops.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    decay: float
    milestones: tuple[int, ...]

    def rate(self, epoch: jax.Array | int) -> jax.Array | float:
        """Computes the learning rate of an epoch (from 0), traced or not."""
        return self.learning_rate * self.decay ** sum(epoch >= m for m in self.milestones)

    def init(self, params: PyTree) -> PyTree:
        """Makes the initial optimizer state; its structure does not depend on what is trained."""
        return self._transformation(jax.tree.map(lambda _: True, params)).init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree, trained: PyTree, epoch: jax.Array
    ) -> tuple[PyTree, PyTree]:
        """Updates parameters in one training step.

        Args:
          grads: tree like `params`.
          state: optimizer state, as `init` returns it.
          params: tree of float arrays.
          trained: tree like `params`: True for trained parameters, False for others, or bool arrays
            with an entry for each entry of a parameter.
          epoch: int32 [], from 0.

        Returns:
          The new parameters and the new optimizer state.
        """
        whole = jax.tree.map(lambda moves: moves is not False, trained)
        updates, state = self._transformation(whole).update(grads, state, params)
        rate = self.rate(epoch)

        def move(moves, p, u):
            if isinstance(moves, bool):
                return p - rate * u if moves else p
            return jnp.where(moves, p - rate * u, p)

        return jax.tree.map(move, trained, params, updates), state

    def _transformation(self, decayed):
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay, decayed), optax.trace(self.momentum)
        )
