"""The upper bound, trained from scratch on all images so far: CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/oracle_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of oracle_cifar100.py.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("oracle"), "cifar10")
