"""Always Be Dreaming on CIFAR-100, 5 tasks of 20 classes: the paper's experiment.

    python main.py --config=configs/abd_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 43.9 ± 0.9 with 5 tasks,
33.7 ± 1.2 with --config.num_tasks=10, 20.0 ± 1.4 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("abd", mu=0.1), "cifar100")
    return common.inversion(config, "cifar")
