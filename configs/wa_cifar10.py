"""Weight Aligning with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/wa_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of wa_cifar100.py.
"""

from configs import common


def get_config():
    experiment = common.experiment("wa", mu=1.0, temperature=2.0)
    config = common.cifar(experiment, "cifar10")
    config.drop_last = False
    return common.exemplars(config, 2_000, "herding", "all")
