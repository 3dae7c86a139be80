"""Translates LibContinual's optimizer and schedule of the learning rate."""

from typing import Any

from cljax.translation.values import Values

_MOST_DROPS = 1000  # of the learning rate in an epoch list that a step size stands for
_KEYS = ("lr", "momentum", "weight_decay")
# Learning rate and weight decay that LibContinual's methods have whatever the file says.
_FIXED = {"LUCIR": {"lr": 0.1, "weight_decay": 5e-4}, "bic": {"lr": 0.1, "momentum": 0.9}}
_SCHEDULES = {
    "MultiStepLR": ("gamma", "milestones"),
    "StepLR": ("gamma", "step_size"),
    "ExponentialLR": ("gamma",),
}


def optimizer(values: Values, method: str) -> dict[str, Any]:
    """Returns the settings of optimizer, epochs and milestones, by dotted config key.

    Args:
      values: settings of a run.
      method: LibContinual's name of it.

    Raises:
      UserError: the optimizer is not SGD, or a value is wrong.
    """
    name, kwargs = values.block("optimizer")
    if name != "SGD":
        values.fail("optimizer.name", name, "cljax trains with SGD; use it, with its own lr")
    prefix, others = "optimizer.kwargs.", ("nesterov", "dampening")
    values.check_keys(prefix, kwargs, (*_KEYS, *others))
    for key in others:
        if kwargs.get(key):
            values.fail(prefix + key, kwargs[key], "cljax's SGD has none; remove it")
    kwargs = {"momentum": 0, "weight_decay": 0} | kwargs  # as PyTorch
    found = {key: values.number(prefix, kwargs, key, float) for key in _KEYS}
    for key, fixed in _FIXED.get(method, {}).items():
        if found[key] != fixed:
            values.note(prefix + key, found[key], f"used; LibContinual's {method} has {fixed}")
    return {f"optimizer.{key}": value for key, value in found.items()} | _schedule(values)


def _schedule(values: Values) -> dict[str, Any]:
    """Returns epochs, milestones and the factor of the learning rate."""
    name, kwargs = values.block("lr_scheduler")
    epochs = values.number("", values.all, "epoch", least=1)
    first = values.number("", {"init_epoch": epochs} | dict(values.given), "init_epoch", least=1)
    if first != epochs:
        values.note("init_epoch", first, f"the first task has {epochs} epochs, as all tasks")
    prefix, gamma, milestones = "lr_scheduler.kwargs.", 0.1, []
    if name in _SCHEDULES:
        values.check_keys(prefix, kwargs, _SCHEDULES[name])
        gamma = values.number(prefix, {"gamma": gamma} | kwargs, "gamma", float)
    elif name != "Constant":
        what = "the learning rate stays as it is, for cljax has milestones only; set"
        values.note("lr_scheduler.name", name, f"{what} --config.milestones")
    if name == "MultiStepLR":
        given = kwargs.get("milestones")
        if not isinstance(given, list):
            values.fail(f"{prefix}milestones", given, "must be a list of epochs")
        milestones = sorted(values.number(prefix, {"milestones": m}, "milestones") for m in given)
        epochs = _epochs(values, milestones, epochs)
    elif name in _SCHEDULES and gamma != 1:
        kwargs = {"step_size": 1} | kwargs if name == "ExponentialLR" else kwargs
        step = values.number(prefix, kwargs, "step_size", least=1)
        if epochs // step > _MOST_DROPS:
            values.fail("epoch", epochs, f"the rate changes more than {_MOST_DROPS} times")
        milestones = list(range(step, epochs, step))
    decay = gamma if milestones else 0.1
    return {"epochs": epochs, "milestones": tuple(milestones), "optimizer.decay": decay}


def _epochs(values: Values, milestones: list[int], default: int) -> int:
    """Returns the number of epochs; a file without one must not end before its milestones."""
    if "epoch" in values.given or not milestones or milestones[-1] < default:
        return default
    before, last = [0, *milestones][-2:]
    epochs = 2 * last - before
    what = f"LibContinual's default ends before milestone {last}; {epochs} is used, so that the"
    values.note("epoch", default, f"{what} last part is as long as the one before")
    return epochs
