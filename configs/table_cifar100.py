"""Both tables of the ABD paper: twelve methods on CIFAR-100 in 5, 10 and 20 tasks, three seeds.

    python main.py --config=configs/table_cifar100.py

Runs what is not complete in the workdir, one run after another, and ends with the report, which
shows the published result beside each row. Runs a part:
--config.splits="(5,)" --config.learners="('abd','bic')".
"""

from configs import common


def get_config():
    return common.table("cifar100", common.LEARNERS, splits=(5, 10, 20))
