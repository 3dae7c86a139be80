"""The upper bound, trained from scratch on all images so far: digits, 5 tasks of 2 classes.

    python main.py --config=configs/oracle_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    return common.digits(common.experiment("oracle"))
