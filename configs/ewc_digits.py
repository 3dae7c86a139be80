"""Elastic Weight Consolidation on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/ewc_digits.py

A small network and a short schedule, to try the method on a CPU.
"""

from configs import common


def get_config():
    experiment = common.experiment("ewc", lamda=10.0)
    config = common.digits(experiment)
    config.drop_last = False
    return config
