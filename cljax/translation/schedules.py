"""Translates LibContinual's optimizer and schedule of the learning rate."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cljax.translation import hint
from cljax.translation.values import Values

_MOST_DROPS = 1000  # of the learning rate in an epoch list that a step size stands for
_KEYS = ("lr", "momentum", "weight_decay")
# Learning rate and weight decay that LibContinual's methods have whatever the file says.
_FIXED = {"LUCIR": {"lr": 0.1, "weight_decay": 5e-4}, "bic": {"lr": 0.1, "momentum": 0.9}}


@dataclasses.dataclass(frozen=True)
class _Optimizer:
    """An optimizer of PyTorch: its name here, its defaults, and arguments that are refused."""

    name: str
    defaults: Mapping[str, Any]
    without: tuple[str, ...] = ()


_ADAM = {"lr": 1e-3, "weight_decay": 0, "betas": (0.9, 0.999), "eps": 1e-8}
_OPTIMIZERS = {
    "SGD": _Optimizer("sgd", {"momentum": 0, "weight_decay": 0, "nesterov": False}, ("dampening",)),
    "Adam": _Optimizer("adam", _ADAM, ("amsgrad",)),
    "AdamW": _Optimizer("adamw", _ADAM | {"weight_decay": 1e-2}, ("amsgrad",)),
}
_SCHEDULES = {
    "MultiStepLR": ("gamma", "milestones"),
    "StepLR": ("gamma", "step_size"),
    "ExponentialLR": ("gamma",),
    "CosineAnnealingLR": ("T_max", "eta_min"),
    "PolynomialLR": ("total_iters", "power"),
    "Constant": (),
}


def optimizer(values: Values, method: str) -> dict[str, Any]:
    """Returns the settings of optimizer, epochs and schedule, by dotted config key.

    Args:
      values: settings of a run.
      method: LibContinual's name of it.

    Raises:
      UserError: the optimizer has no counterpart, or a value is wrong.
    """
    name, found = _read_optimizer(values, "optimizer")
    for key, fixed in _FIXED.get(method, {}).items():
        if key in found and found[key] != fixed:
            values.note(
                f"optimizer.kwargs.{key}", found[key], f"used; LibContinual's {method} has {fixed}"
            )
    settings = {f"optimizer.{key}": value for key, value in found.items()}
    settings["optimizer.name"] = _OPTIMIZERS[name].name
    if "init_optimizer" in values.all:
        first, of_first = _read_optimizer(values, "init_optimizer")
        if first != name:
            values.fail("init_optimizer.name", first, f"all tasks have one optimizer; use {name}")
        settings["optimizer.init_lr"] = of_first.pop("lr")
        for key, value in of_first.items():
            if value != found[key]:
                what = f"the first task has the optimizer's, {found[key]}"
                values.note(f"init_optimizer.kwargs.{key}", value, what)
    return settings | _schedule(values, found["lr"])


def _read_optimizer(values: Values, key: str) -> tuple[str, dict[str, Any]]:
    """Returns PyTorch's name of a block's optimizer, and its settings."""
    name, kwargs = values.block(key)
    if name not in _OPTIMIZERS:
        values.fail(f"{key}.name", name, f"is not translated; {hint(name, _OPTIMIZERS)}")
    known, prefix = _OPTIMIZERS[name], f"{key}.kwargs."
    values.check_keys(prefix, kwargs, ("lr", *known.defaults, *known.without))
    for absent in known.without:
        if kwargs.get(absent):
            values.fail(
                prefix + absent, kwargs[absent], f"cljax's {known.name} has none; remove it"
            )
    given = {**known.defaults, **kwargs}
    found: dict[str, Any] = {
        key: values.number(prefix, given, key, float) for key in _KEYS if key in ("lr", *given)
    }
    if "betas" in given:
        betas = given["betas"]
        if not (isinstance(betas, list | tuple) and len(betas) == 2):
            values.fail(f"{prefix}betas", betas, "must be a list of two numbers")
        given |= dict(zip(("b1", "b2"), betas, strict=True))
        found["arguments"] = {
            key: values.number(prefix, given, key, float) for key in ("b1", "b2", "eps")
        }
    else:
        found["arguments"] = {"nesterov": True} if given["nesterov"] else {}
    return name, found


def _schedule(values: Values, lr: float) -> dict[str, Any]:
    """Returns epochs, and the schedule as milestones and a factor, or as one of Optax."""
    name, kwargs = values.block("lr_scheduler")
    epochs = values.number("", values.all, "epoch", least=1)
    prefix, gamma, milestones, arguments = "lr_scheduler.kwargs.", 0.1, [], {}
    ours = {"CosineAnnealingLR": "cosine", "PolynomialLR": "polynomial"}.get(name, "multistep")
    if name in _SCHEDULES:
        values.check_keys(prefix, kwargs, _SCHEDULES[name])
        gamma = values.number(prefix, {"gamma": gamma} | kwargs, "gamma", float)
    else:
        what = "the learning rate stays as it is; set --config.schedule.name for another one"
        values.note("lr_scheduler.name", name, what)
    if name == "MultiStepLR":
        given = kwargs.get("milestones")
        if not isinstance(given, list):
            values.fail(f"{prefix}milestones", given, "must be a list of epochs")
        milestones = sorted(values.number(prefix, {"milestones": m}, "milestones") for m in given)
        epochs = _epochs(values, milestones, epochs)
    elif name in ("StepLR", "ExponentialLR") and gamma != 1:
        kwargs = {"step_size": 1} | kwargs if name == "ExponentialLR" else kwargs
        step = values.number(prefix, kwargs, "step_size", least=1)
        if epochs // step > _MOST_DROPS:
            values.fail("epoch", epochs, f"the rate changes more than {_MOST_DROPS} times")
        milestones = list(range(step, epochs, step))
    elif name == "CosineAnnealingLR":
        steps = values.number(prefix, kwargs, "T_max", least=1)
        least = values.number(prefix, {"eta_min": 0} | kwargs, "eta_min", float)
        arguments = {"decay_steps": steps, "alpha": least / lr if lr else 0.0}
        if steps < epochs:
            what = (
                f"the learning rate stays at its least after epoch {steps}; PyTorch's rises again"
            )
            values.note(f"{prefix}T_max", steps, what)
    elif name == "PolynomialLR":
        given = {"total_iters": 5, "power": 1.0} | kwargs
        arguments = {
            "transition_steps": values.number(prefix, given, "total_iters", least=1),
            "power": values.number(prefix, given, "power", float),
            "end_value": 0.0,
        }
    first = values.number("", {"init_epoch": epochs} | dict(values.given), "init_epoch", least=1)
    return {
        "epochs": epochs,
        "init_epochs": 0 if first == epochs else first,
        "milestones": tuple(milestones),
        "optimizer.decay": gamma if milestones else 0.1,
        "schedule.name": ours,
        "schedule.arguments": arguments,
    }


def _epochs(values: Values, milestones: list[int], default: int) -> int:
    """Returns the number of epochs; a file without one must not end before its milestones."""
    if "epoch" in values.given or not milestones or milestones[-1] < default:
        return default
    before, last = [0, *milestones][-2:]
    epochs = 2 * last - before
    what = f"LibContinual's default ends before milestone {last}; {epochs} is used, so that the"
    values.note("epoch", default, f"{what} last part is as long as the one before")
    return epochs
