"""The twelve methods of the ABD paper on CIFAR-10, 5 tasks of 2 classes, three seeds.

    python main.py --config=configs/table_cifar10.py

Runs what is not complete in the workdir, one after another, and ends with the report.
"""

from configs import common


def get_config():
    return common.table("cifar10", common.LEARNERS, splits=(5,))
