"""Always Be Dreaming on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/abd_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of abd_cifar100.py.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("abd", mu=0.1), "cifar10")
    return common.inversion(config, "cifar")
