"""Plain fine-tuning on scanned digits, 5 tasks of 2 classes: what ABD has to beat.

    python main.py --config=configs/base_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    return common.digits(common.experiment("base"))
