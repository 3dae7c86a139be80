"""Takes any optimizer of Optax by its name."""

import inspect

import jax
import optax

from cljax.optimizers.arguments import Arguments
from cljax.optimizers.base import Optimizer, choose
from cljax.state import hyperparameters

# Those that need more than gradients, or gradients of all images at once; SGD is ours.
_LEFT_OUT = ("lbfgs", "noisy_sgd", "optimistic_adam", "rprop", "sgd")
NAMES = tuple(
    name
    for name, function in sorted(vars(optax).items())
    if inspect.isfunction(function)
    and next(iter(inspect.signature(function).parameters), None) == "learning_rate"
    and not name.startswith(("_", "scale_by_"))
    and name not in _LEFT_OUT
)


@hyperparameters
class OptaxOptimizer(Optimizer):
    """An optimizer of Optax.

    Weight decay is as that optimizer has it (in adamw, apart from the gradient). Those without one
    get `grad + weight_decay p`, as PyTorch's do.

    Attributes:
      name: of the function in `optax`, one of `NAMES`.
      arguments: its further arguments.
    """

    name: str = "adam"
    arguments: Arguments = ()

    def init(self, params):
        """Makes the initial state."""
        return self._transformation(self.learning_rate, self.weight_decay).init(params)

    def step(self, grads, state, params, group, factor):
        """Updates the parameters of a group."""
        rate, decay = self.rates(group)
        updates, state = self._transformation(rate * factor, decay).update(grads, state, params)
        params = jax.tree.map(
            lambda moves, p, update: choose(moves, p + update, p), group.trained, params, updates
        )
        return params, state

    def _transformation(self, rate, decay):
        function = getattr(optax, self.name)
        names = inspect.signature(function).parameters
        given = {"weight_decay": decay, "momentum": self.momentum}
        own = {name: value for name, value in given.items() if name in names}
        made = function(rate, **own, **dict(self.arguments))
        if "weight_decay" in own:
            return made
        return optax.chain(optax.add_decayed_weights(decay), made)
