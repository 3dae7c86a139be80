"""Bias Correction with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes."""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("bic", temperature=2.0, correct_at_test=False), "cifar10"
    )
    return common.exemplars(config, 2_000, "herding_raw", "all")
