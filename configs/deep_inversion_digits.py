"""DeepInversion with a generator on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/deep_inversion_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("deep_inversion", mu=1.0, temperature=2.0))
    return common.inversion(config, "digits", steps=1000)
