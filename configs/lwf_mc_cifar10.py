"""LwF.MC, one sigmoid per class, on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/lwf_mc_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of lwf_mc_cifar100.py.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("lwf_mc"), "cifar10")
