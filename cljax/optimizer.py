"""Update rules with their schedules."""

import jax
import jax.numpy as jnp
import optax

from cljax.state import PyTree, hyperparameters


@hyperparameters
class SGD:
    """Stochastic gradient descent in PyTorch's form, with a step schedule.

    `g <- grad + weight_decay p; v <- momentum v + g; p <- p - lr v`; weight decay acts on every
    parameter. Epoch e (from 0) has the rate `learning_rate * decay^(number of milestones <= e)`.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    decay: float
    milestones: tuple[int, ...]

    def rate(self, epoch: jax.Array | int) -> jax.Array | float:
        """The learning rate of `epoch`, traced or not."""
        return self.learning_rate * self.decay ** sum(epoch >= m for m in self.milestones)

    def init(self, params: PyTree) -> PyTree:
        """A fresh state; of one structure, whichever parameters are trained."""
        return self._transformation(jax.tree.map(lambda _: True, params)).init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree, trained: PyTree, epoch: jax.Array
    ) -> tuple[PyTree, PyTree]:
        """One step: the new parameters and the new state.

        Args:
          trained: a tree like `params`; False for parameters that stay, True for those that move,
            or bool arrays that say so entry by entry.
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
