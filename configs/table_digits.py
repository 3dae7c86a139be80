"""The twelve methods of the ABD paper on scanned digits, 5 tasks of 2 classes, three seeds.

    python main.py --config=configs/table_digits.py

Takes 26 minutes on two CPU cores. docs/experiments.md has the results.
"""

from configs import common


def get_config():
    return common.table("digits", common.LEARNERS, splits=(5,))
