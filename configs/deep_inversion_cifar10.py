"""DeepInversion with a generator on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    config = common.cifar(common.experiment("deep_inversion", mu=1.0, temperature=2.0), "cifar10")
    return common.inversion(config, "cifar")
