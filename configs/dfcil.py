"""Reads the command line of the ABD reference code (Smith et al., ICCV 2021) as it is.

    python main.py --config=configs/dfcil.py:"--dataset CIFAR100 --train_aug ..."
    python main.py --config=configs/dfcil.py:abd.sh

The argument is the options, the whole command, or a shell script with one such command. Notes name
what has no counterpart; docs/original_options.md has all options.
"""

from cljax.errors import note
from cljax.translation import dfcil
from configs import common

_GROUNDS = {"tiny_imagenet": common.tiny_imagenet, "imagenet50": common.imagenet50}


def get_config(options: str = ""):
    found = dfcil.read(options)
    config = common.experiment(found.method, **found.own)
    if found.data in _GROUNDS:
        _GROUNDS[found.data](config)
    else:
        ground = common.imagenet if found.data == "imagenet1000" else common.cifar
        ground(config, found.data)
    if generator := found.settings.get("inversion.generator"):
        common.inversion(config, generator)
    if found.method == "dgr":
        common.autoencoder(config, channels=(64, 128, 512), latents=1024)
    config.update_from_flattened_dict(found.settings)
    for line in found.notes:
        note("%s", line)
    return config


def default_workdir(options: str) -> str | None:
    return dfcil.log_dir(options)
