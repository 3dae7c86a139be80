"""LUCIR on scanned digits: 4 classes, then 3 phases of 2.

    python main.py --config=configs/lucir_digits.py

docs/experiments.md has the results of three seeds.
"""

from configs import common


def get_config():
    config = common.lucir(common.digits(common.experiment("lucir", **common.LUCIR)))
    config.first_task_size = 4
    config.num_tasks = 4
    config.epochs = 40
    config.milestones = (20, 30)
    return config
