"""Learning without Forgetting on Tiny-ImageNet, 20 tasks of 10 classes.

    python main.py --config=configs/lwf_tiny_imagenet.py --config.seeds="(0,1,2)"

The settings are those of the ABD reference code's script for Tiny-ImageNet, all of whose commands
are commented out. The code has no results of them, so no published figure is there to compare with.
"""

from configs import common


def get_config():
    return common.tiny_imagenet(common.experiment("lwf", mu=1.0, temperature=2.0))
