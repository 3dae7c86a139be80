"""LwF.MC, one sigmoid per class, on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    return common.cifar(common.experiment("lwf_mc"), "cifar10")
