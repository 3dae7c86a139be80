"""LwF.MC, one sigmoid per class, on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/lwf_mc_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 32.5 ± 1.0 with 5 tasks,
17.1 ± 0.1 with --config.num_tasks=10, 7.7 ± 0.5 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("lwf_mc"), "cifar100")
