"""Naive rehearsal, fine-tuning with 2,000 exemplars, on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/rehearsal_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 34.0 ± 0.2 with 5 tasks,
24.0 ± 1.0 with --config.num_tasks=10, 14.9 ± 0.7 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("base"), "cifar100")
    return common.exemplars(config, 2_000)
