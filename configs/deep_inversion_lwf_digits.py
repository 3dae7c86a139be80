"""LwF that also distills on dreamed images: scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/deep_inversion_lwf_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("deep_inversion_lwf", mu=0.1, temperature=2.0))
    return common.inversion(config, "digits", steps=1000)
