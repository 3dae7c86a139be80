"""Builds optimizer and schedule as the settings name them."""

import optax

from cljax.errors import UserError
from cljax.optimizers import from_optax, schedules
from cljax.optimizers.arguments import check
from cljax.optimizers.base import Optimizer
from cljax.optimizers.from_optax import OptaxOptimizer
from cljax.optimizers.schedules import Multistep, OptaxSchedule, Schedule
from cljax.optimizers.sgd import SGD
from cljax.settings import Settings

_IN_EPOCHS = ("_steps", "_begin")  # ends of the names of arguments that count epochs


def make_optimizer(settings: Settings, lr_scale: float = 1.0) -> Optimizer:
    """Builds the optimizer of config.optimizer, whose learning rate is multiplied by `lr_scale`.

    Raises:
      UserError: there is no such optimizer, or its arguments are wrong.
    """
    given = settings.optimizer
    is_own = given.name == "sgd"
    if not is_own and given.name not in from_optax.NAMES:
        raise UserError(
            f"config.optimizer.name={given.name}: unknown optimizer; choose sgd, "
            f"{', '.join(from_optax.NAMES)}"
        )
    function = SGD if is_own else getattr(optax, given.name)
    own = ("learning_rate", "momentum", "weight_decay", "clip_norm")
    arguments = check(given.arguments, function, given.name, "optimizer.arguments", own)
    common = {
        "learning_rate": lr_scale * given.lr,
        "momentum": given.momentum,
        "weight_decay": given.weight_decay,
        "clip_norm": given.clip_norm or None,
    }
    if is_own:
        return SGD(**common, **{name: bool(value) for name, value in arguments})
    return OptaxOptimizer(**common, name=given.name, arguments=arguments)


def make_schedule(settings: Settings) -> Schedule:
    """Builds the schedule of config.schedule; its steps are epochs, scaled as these.

    Raises:
      UserError: there is no such schedule, or its arguments are wrong.
    """
    name, given, key = settings.schedule.name, settings.schedule.arguments, "schedule.arguments"
    if name == "multistep":
        if given:
            raise UserError(
                f"config.{key}: multistep has none; set config.milestones and "
                "config.optimizer.decay"
            )
        return Multistep(settings.optimizer.decay, tuple(map(settings.scaled, settings.milestones)))
    if name not in schedules.OPTAX:
        raise UserError(
            f"config.schedule.name={name}: unknown schedule; choose multistep, "
            f"{', '.join(schedules.OPTAX)}"
        )
    function, own = schedules.OPTAX[name]
    fixed = [argument for argument, value in own.items() if value is not None]
    arguments = dict(given)
    for argument, value in given.items():
        if argument.endswith(_IN_EPOCHS) and type(value) is int:
            arguments[argument] = settings.scaled(value)
    schedule = OptaxSchedule(name, check(arguments, function, name, key, fixed, own))
    for epochs in {settings.epochs, settings.init_epochs or settings.epochs}:
        try:
            schedule.factor(0, settings.scaled(epochs))
        except ValueError as error:
            raise UserError(f"config.{key}: {name}, {epochs} epochs: {error}") from error
    return schedule
