"""LUCIR on CIFAR-10: 4 classes, then 3 phases of 2.

    python main.py --config=configs/lucir_cifar10.py --config.seeds="(0,1,2)"

Network, schedule and losses are those of lucir_cifar100.py.
"""

from configs import common


def get_config():
    config = common.lucir(common.cifar(common.experiment("lucir", **common.LUCIR), "cifar10"))
    config.first_task_size = 4
    config.num_tasks = 4
    config.epochs = 160
    config.milestones = (80, 120)
    return config
