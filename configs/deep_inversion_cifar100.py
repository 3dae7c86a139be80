"""DeepInversion with a generator on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/deep_inversion_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 18.8 ± 0.3 with 5 tasks,
10.9 ± 0.6 with --config.num_tasks=10, 5.7 ± 0.3 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("deep_inversion", mu=1.0, temperature=2.0), "cifar100")
    return common.inversion(config, "cifar")
