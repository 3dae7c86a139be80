"""R-DFCIL on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/rdfcil_digits.py

As many epochs a task and steps of each inversion as abd_digits.py has. The learning rate of the
head is ten times the published one, because a tenth of the steps train it; docs/experiments.md has
the validation folds that decided it, and the results of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("rdfcil", **common.RDFCIL))
    config = common.rdfcil_ground(common.inversion(config, "digits"), epochs=48)
    config.milestones = (24, 36)
    config.inversion.steps = 1000
    config.method.update(finetuning_epochs=12, finetuning_lr=0.05)
    return config
