"""Bias Correction with 2,000 exemplars on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/bic_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 53.7 ± 0.4 with 5 tasks,
45.9 ± 1.8 with --config.num_tasks=10, 37.5 ± 3.2 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("bic", temperature=2.0, correct_at_test=False), "cifar100"
    )
    return common.exemplars(config, 2_000, "herding_raw", "all")
