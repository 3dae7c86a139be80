"""Plain fine-tuning on CIFAR-100, 5 tasks of 20 classes: the paper's lower bound.

    python main.py --config=configs/base_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 16.4 ± 0.4 with 5 tasks,
8.8 ± 0.1 with --config.num_tasks=10, 4.4 ± 0.3 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("base"), "cifar100")
