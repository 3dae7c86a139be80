"""LwF that also distills on dreamed images: CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/deep_inversion_lwf_cifar100.py --config.seeds="(0,1,2)"

The scripts of the reference code run it, but the paper's tables do not contain it.
"""

from configs import common


def get_config():
    config = common.cifar(
        common.experiment("deep_inversion_lwf", mu=0.1, temperature=2.0), "cifar100"
    )
    return common.inversion(config, "cifar")
