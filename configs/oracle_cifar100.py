"""The upper bound, trained from scratch on all images so far: CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/oracle_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 69.9 ± 0.2, whatever the tasks; with
--config.num_tasks=1 only this figure is computed.
"""

from configs import common


def get_config():
    return common.cifar(common.experiment("oracle"), "cifar100")
