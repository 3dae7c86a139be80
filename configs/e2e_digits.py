"""End-to-End incremental learning with 200 exemplars on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/e2e_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(
        common.experiment("e2e", mu=1.0, temperature=2.0, new_class_teacher="previous")
    )
    return common.exemplars(config, 200, "nearest", "all")
