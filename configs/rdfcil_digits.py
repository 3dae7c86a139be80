"""R-DFCIL on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/rdfcil_digits.py

As many epochs a task and steps of each inversion as abd_digits.py has. docs/experiments.md has the
results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("rdfcil", **common.RDFCIL))
    config = common.rdfcil_ground(common.inversion(config, "digits"), epochs=48)
    config.milestones = (24, 36)
    config.inversion.steps = 1000
    config.method.finetuning_epochs = 12
    return config
