"""End-to-End incremental learning with 2,000 exemplars on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/e2e_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 47.4 ± 0.8 with 5 tasks,
38.4 ± 1.3 with --config.num_tasks=10, 32.7 ± 1.9 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("e2e", mu=1.0, temperature=2.0, new_class_teacher="previous"),
        "cifar100",
    )
    return common.exemplars(config, 2_000, "nearest", "all")
