"""Always Be Dreaming on scanned digits, 5 tasks of 2 classes: the quick default.

    python main.py --config=configs/abd_digits.py

Takes 64 seconds on two CPU cores, 8 of them compilation. docs/experiments.md has the results of
three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("abd", mu=0.1))
    return common.inversion(config, "digits", steps=1000)
