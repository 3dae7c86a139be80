"""iCaRL with 200 exemplars on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/icarl_digits.py

docs/experiments.md has results with 4 classes first, then 3 tasks of 2.
"""

from configs import common


def get_config():
    experiment = common.experiment("icarl", mu=1.0, temperature=2.0)
    config = common.digits(experiment)
    config.eval.read_outs = ("cnn",)  # the method's own is the nearest mean of exemplars
    return common.exemplars(config, 200, "herding", "all")
