"""End-to-End incremental learning with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/e2e_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of e2e_cifar100.py.
"""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("e2e", mu=1.0, temperature=2.0, new_class_teacher="previous"),
        "cifar10",
    )
    return common.exemplars(config, 2_000, "nearest", "all")
