"""Both tables of the ABD paper: twelve learners on CIFAR-100 in 5, 10 and 20 tasks, three seeds.

    python main.py --config=configs/table_cifar100.py

Runs what is not complete in the workdir, one after another, and ends with the report. A part:
--config.splits="(5,)" --config.learners="('abd','bic')".
"""

from configs import common


def get_config():
    return common.table("cifar100", common.LEARNERS, splits=(5, 10, 20))
