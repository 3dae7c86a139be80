"""LwF that also distills on dreamed images: CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/deep_inversion_lwf_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of deep_inversion_lwf_cifar100.py.
"""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("deep_inversion_lwf", mu=0.1, temperature=2.0), "cifar10"
    )
    return common.inversion(config, "cifar")
