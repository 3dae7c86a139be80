"""Learning without Forgetting on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/lwf_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    return common.digits(common.experiment("lwf", mu=1.0, temperature=2.0))
