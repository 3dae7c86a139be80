"""Defines optimizers with their learning rate schedules."""

import jax
import jax.numpy as jnp
import optax

from cljax.compute import device
from cljax.compute.packing import pack, unpack_all
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
        return optax.EmptyState(), optax.trace(self.momentum).init(params)

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
        decayed = jax.tree.map(lambda moves: moves is not False, trained)
        empty, trace = state
        if device.platform() == "gpu":  # all that follows is one kernel for each packed array
            trained, decayed = _pack_mask(trained, params), _pack_mask(decayed, params)
            grads, params = pack(grads), pack(params)
            trace = trace._replace(trace=pack(trace.trace))
        rate = self.rate(epoch)

        def decay(decays, grad, p):
            return _choose(decays, grad + self.weight_decay * p, grad)

        def move(moves, p, velocity):
            return _choose(moves, p - rate * velocity, p)

        grads = jax.tree.map(decay, decayed, grads, params)
        velocities, trace = optax.trace(self.momentum).update(grads, trace)
        params = jax.tree.map(move, trained, params, velocities)
        return unpack_all((params, (empty, trace)))


def _pack_mask(mask, params):
    """Packs a tree of bools or bool arrays as `pack` does the parameters."""
    if all(some is True for some in jax.tree.leaves(mask)):
        return jax.tree.map(lambda _: True, pack(params))

    def ones(some, p):  # of the dtype of p, on which places depend
        return jnp.broadcast_to(some, p.shape).astype(p.dtype)

    return jax.tree.map(lambda packed: packed == 1, pack(jax.tree.map(ones, mask, params)))


def _choose(condition, new, old):
    """Chooses as `jnp.where`; a bool leaves out what it does not choose."""
    if isinstance(condition, bool):
        return new if condition else old
    return jnp.where(condition, new, old)
