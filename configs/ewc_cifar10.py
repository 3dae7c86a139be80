"""Elastic Weight Consolidation on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/ewc_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of ewc_cifar100.py.
"""

from configs import common


def get_config():
    experiment = common.experiment("ewc", lamda=10.0)
    config = common.cifar(experiment, "cifar10")
    config.drop_last = False
    return config
