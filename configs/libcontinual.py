"""Reads a YAML file of LibContinual (RL-VIG) as it is, with its includes.

    python main.py --config=configs/libcontinual.py:lucir.yaml

Notes name what has no counterpart; docs/libcontinual_keys.md has all keys.
"""

from pathlib import Path

from cljax.errors import UserError, note
from cljax.translation import libcontinual
from configs import common


def get_config(path: str = ""):
    if not path:
        raise UserError("libcontinual: no file; write --config=libcontinual:FILE.yaml")
    found = libcontinual.read(path)
    defaults = common.LUCIR if found.method == "libcontinual_lucir" else {}
    config = common.cifar(common.experiment(found.method, **defaults | found.own), found.data)
    config.update_from_flattened_dict(found.settings)
    for line in found.notes:
        note("%s: %s", Path(path).name, line)
    return config


def default_workdir(path: str) -> str:
    return f"runs/libcontinual_{Path(path).stem}"
