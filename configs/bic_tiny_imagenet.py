"""Bias Correction with 2,000 exemplars on Tiny-ImageNet, 20 tasks of 10 classes.

    python main.py --config=configs/bic_tiny_imagenet.py --config.seeds="(0,1,2)"

The settings are those of the ABD reference code's script for Tiny-ImageNet, all of whose commands
are commented out. The code has no results of them, so no published figure is there to compare with.

In task 12 fewer images are held out than a batch has; its bias layer stays unfitted, as there.
"""

from configs import common


def get_config():
    config = common.tiny_imagenet(common.experiment("bic", temperature=2.0, correct_at_test=False))
    return common.exemplars(config, 2_000, "herding_raw", "all")
