"""Learning without Forgetting on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    return common.cifar(common.experiment("lwf", mu=1.0, temperature=2.0), "cifar10")
