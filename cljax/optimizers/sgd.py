"""Defines stochastic gradient descent in PyTorch's form."""

import jax
import jax.numpy as jnp
import optax

from cljax.compute import device
from cljax.compute.packing import pack, unpack_all
from cljax.optimizers.base import Optimizer, choose
from cljax.state import PyTree, hyperparameters


@hyperparameters
class SGD(Optimizer):
    """Stochastic gradient descent in PyTorch's form.

    `g <- grad + weight_decay p; v <- momentum v + g; p <- p - lr v`. Weight decay acts on every
    trained parameter.

    Attributes:
      nesterov: whether p moves by `g + momentum v` instead of v.
    """

    nesterov: bool = False

    def init(self, params):
        """Makes velocities of 0."""
        return optax.EmptyState(), optax.trace(self.momentum).init(params)

    def step(self, grads, state, params, group, factor):
        """Updates the parameters of a group; weight decay acts on whole parameters."""
        learning_rate, weight_decay = self.rates(group)
        trained = group.trained
        decayed = jax.tree.map(lambda moves: moves is not False, trained)
        empty, trace = state
        if device.platform() == "gpu":  # all that follows is one kernel for each packed array
            trained, decayed = _pack_mask(trained, params), _pack_mask(decayed, params)
            grads, params = pack(grads), pack(params)
            trace = trace._replace(trace=pack(trace.trace))
        rate = learning_rate * factor

        def decay(decays, grad, p):
            return choose(decays, grad + weight_decay * p, grad)

        def move(moves, p, velocity):
            return choose(moves, p - rate * velocity, p)

        grads = jax.tree.map(decay, decayed, grads, params)
        velocities, trace = optax.trace(self.momentum, self.nesterov).update(grads, trace)
        params = jax.tree.map(move, trained, params, velocities)
        return unpack_all((params, (empty, trace)))


def _pack_mask(mask: PyTree, params: PyTree) -> PyTree:
    """Packs a tree of bools or bool arrays as `pack` does the parameters."""
    if all(some is True for some in jax.tree.leaves(mask)):
        return jax.tree.map(lambda _: True, pack(params))

    def ones(some, p):  # of the dtype of p, on which places depend
        return jnp.broadcast_to(some, p.shape).astype(p.dtype)

    return jax.tree.map(lambda packed: packed == 1, pack(jax.tree.map(ones, mask, params)))
