"""The upper bound, trained from scratch on all images so far: Tiny-ImageNet, 20 tasks of 10.

    python main.py --config=configs/oracle_tiny_imagenet.py --config.seeds="(0,1,2)"

The settings are those of the ABD reference code's script for Tiny-ImageNet, all of whose commands
are commented out. The code has no results of them, so no published figure is there to compare with.
With --config.num_tasks=1 only the last task's bound is computed.
"""

from configs import common


def get_config():
    return common.tiny_imagenet(common.experiment("oracle"))
