"""Naive rehearsal, fine-tuning with 200 exemplars, on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/rehearsal_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("base"))
    return common.exemplars(config, 200)
