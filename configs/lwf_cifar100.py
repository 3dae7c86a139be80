"""Learning without Forgetting on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/lwf_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 17.0 ± 0.1 with 5 tasks,
9.2 ± 0.0 with --config.num_tasks=10, 4.7 ± 0.1 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("lwf", mu=1.0, temperature=2.0), "cifar100")
