"""Weight Aligning with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    experiment = common.experiment("wa", mu=1.0, temperature=2.0)
    config = common.cifar(experiment, "cifar10")
    config.drop_last = False
    return common.exemplars(config, 2_000, "herding", "all")
