"""Configs as flat mappings, to compare them key by key."""

import importlib
from collections.abc import Mapping

from ml_collections import ConfigDict


def shipped(name: str) -> ConfigDict:
    """The config configs/NAME.py."""
    return importlib.import_module(f"configs.{name}").get_config()


def flatten(config, prefix=""):
    """Values by dotted key."""
    flat = {}
    for key, value in config.items():
        is_block = isinstance(value, Mapping | ConfigDict)
        flat |= flatten(value, f"{prefix}{key}.") if is_block else {prefix + key: value}
    return flat


def changed(config, other) -> dict:
    """What `config` has at keys where `other` has something else, or nothing."""
    one, two = flatten(config), flatten(other)
    return {key: one.get(key) for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
