"""iCaRL with 2,000 exemplars on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/icarl_cifar10.py --config.seeds="(0,1,2)"

Schedule, rates and augmentation are those of the other methods, not of icarl_cifar100.py.
"""

from configs import common


def get_config():
    experiment = common.experiment("icarl", mu=1.0, temperature=2.0)
    config = common.cifar(experiment, "cifar10")
    config.eval.read_outs = ("cnn",)  # the method's own is the nearest mean of exemplars
    return common.exemplars(config, 2_000, "herding", "all")
