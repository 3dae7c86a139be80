"""The twelve learners on scanned digits in 5 tasks of 2 classes, three seeds."""

from configs import common


def get_config():
    return common.table("digits", common.LEARNERS, splits=(5,))
