"""Bias Correction with 200 exemplars on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/bic_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    experiment = common.experiment("bic", temperature=2.0, correct_at_test=False)
    config = common.exemplars(common.digits(experiment), 200, "herding_raw", "all")
    config.batch_size = 16  # no more than the held-out images of any task
    return config
