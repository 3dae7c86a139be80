"""Elastic Weight Consolidation on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/ewc_cifar100.py

--config.method.name=libcontinual_ewc --config.method.lamda=1000 gives LibContinual's variant.
"""

from configs import common


def get_config():
    experiment = common.experiment(
        "ewc",
        lamda=10.0,  # weight of the penalty; much larger ones need a smaller rate
    )
    config = common.cifar(experiment, "cifar100")
    config.drop_last = False
    return config
