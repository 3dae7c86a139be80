"""Translates lists of torchvision's transforms, as LibContinual's files have them."""

from typing import Any

from cljax.translation import shown

# Of LibContinual, for CIFAR without transforms in the file.
_MEAN, _STD = (0.5071, 0.4866, 0.4409), (0.2675, 0.2565, 0.2761)
_PREFIX = "data.augmentation."


def preprocessing(train: Any, test: Any, data: str) -> tuple[dict[str, Any], list[str]]:
    """Returns the settings of augmentation and moments, and a note for each other transform.

    Args:
      train, test: lists of {NAME: {argument: value}}, or None for LibContinual's own.
      data: value of config.data.name.

    Raises:
      ValueError: a list is not as above, or the two standardize differently.
    """
    none = {"brightness": 0.0, "contrast": 0.0, "flip": False, "crop_padding": 0}
    settings: dict[str, Any] = {_PREFIX + key: value for key, value in none.items()}
    if train is None:
        settings |= {
            f"{_PREFIX}brightness": 63 / 255,
            f"{_PREFIX}flip": True,
            f"{_PREFIX}crop_padding": 4,
        }
        notes = [] if test is None else ["test_trfms: only train_trfms are translated"]
        if data in ("cifar10", "cifar100"):
            return settings | {"data.mean": _MEAN, "data.std": _STD}, notes
        return settings, [*notes, f"train_trfms: absent; the moments of {data} are cljax's"]
    notes, moments = [], None
    for name, arguments in _transforms("train_trfms", train):
        found = _augmentation(name, arguments)
        if name == "Normalize":
            moments = _moments("train_trfms", arguments)
        elif found is None:
            notes.append(f"train_trfms: {shown(name)}: no counterpart; it is left out")
        else:
            settings |= found
    if test is not None:
        of_test = [
            _moments("test_trfms", a)
            for n, a in _transforms("test_trfms", test)
            if n == "Normalize"
        ]
        if of_test != ([moments] if moments else []):
            raise ValueError("train_trfms and test_trfms: Normalize differs; use the same values")
    if moments is None:
        return settings | {"data.standardise": False}, notes
    return settings | {"data.mean": moments[0], "data.std": moments[1]}, notes


def _transforms(key: str, found: Any) -> list[tuple[str, dict[str, Any]]]:
    """Returns name and arguments of each transform of a list."""
    if not (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        raise ValueError(f"{key}={shown(found)}: must be a list of transforms, NAME: {{}}")
    pairs = [(name, arguments or {}) for one in found for name, arguments in one.items()]
    for name, arguments in pairs:
        if not isinstance(arguments, dict):
            raise ValueError(f"{key}: {shown(name)}: must have arguments as a block")
    return pairs


def _augmentation(name: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the settings of a transform of training images, or None if it has none."""
    if name in ("ToTensor", "Normalize"):
        return {}
    if name == "RandomHorizontalFlip" and arguments.get("p", 0.5) == 0.5:
        return {f"{_PREFIX}flip": True}
    if name == "RandomCrop" and type(arguments.get("padding", 0)) is int:
        return {f"{_PREFIX}crop_padding": arguments.get("padding", 0)}
    strengths = {key: arguments.get(key, 0) for key in ("brightness", "contrast")}
    are_numbers = all(type(value) in (int, float) for value in strengths.values())
    if name == "ColorJitter" and arguments.keys() <= strengths.keys() and are_numbers:
        return {_PREFIX + key: float(value) for key, value in strengths.items()}
    if name == "RandomResizedCrop":
        return {f"{_PREFIX}resized_crop": True}
    return None


def _moments(key: str, arguments: dict[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    values = []
    for name in ("mean", "std"):
        found = arguments.get(name)
        if not (isinstance(found, list) and all(type(v) in (int, float) for v in found)):
            raise ValueError(f"{key}: Normalize.{name}={shown(found)}: must be a list of numbers")
        values.append(tuple(map(float, found)))
    return values[0], values[1]
