"""The twelve learners on CIFAR-10 in 5 tasks of 2 classes, three seeds."""

from configs import common


def get_config():
    return common.table("cifar10", common.LEARNERS, splits=(5,))
