"""R-DFCIL on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/rdfcil_cifar10.py --config.seeds="(0,1,2)"

The settings are those of rdfcil_cifar100.py, but for the dataset, its mean and its deviation. The
paper has no results on CIFAR-10.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("rdfcil", **common.RDFCIL), "cifar10")
    return common.rdfcil_ground(common.inversion(config, "cifar"))
