"""Elastic Weight Consolidation on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    experiment = common.experiment("ewc", lamda=10.0)
    config = common.cifar(experiment, "cifar10")
    config.drop_last = False
    return config
