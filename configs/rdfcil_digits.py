"""R-DFCIL on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/rdfcil_digits.py

As many epochs a task and steps of each inversion as abd_digits.py has. The head has far fewer steps
than on CIFAR-100 and ten times its learning rate. docs/experiments.md has the results on validation
folds that decided this, and those of three seeds.
"""

from configs import common


def get_config():
    config = common.digits(common.experiment("rdfcil", **common.RDFCIL))
    config = common.rdfcil_ground(common.inversion(config, "digits"), epochs=48)
    config.milestones = (24, 36)
    config.inversion.steps = 1000
    config.method.update(finetuning_epochs=12, finetuning_lr=0.05)
    return config
