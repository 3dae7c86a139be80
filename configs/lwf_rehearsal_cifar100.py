"""Learning without Forgetting with 2,000 exemplars on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/lwf_rehearsal_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 39.4 ± 0.3 with 5 tasks,
27.4 ± 0.8 with --config.num_tasks=10, 16.6 ± 0.4 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("lwf", mu=1.0, temperature=2.0), "cifar100")
    return common.exemplars(config, 2_000)
