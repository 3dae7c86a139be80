"""Learning without Forgetting with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/lwf_rehearsal_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of lwf_rehearsal_cifar100.py.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("lwf", mu=1.0, temperature=2.0), "cifar10")
    return common.exemplars(config, 2_000)
