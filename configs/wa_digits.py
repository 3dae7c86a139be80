"""Weight Aligning with 200 exemplars on scanned digits, 5 tasks of 2 classes.

    python main.py --config=configs/wa_digits.py

A small network and a short schedule, to try the method on a CPU.
"""

from configs import common


def get_config():
    experiment = common.experiment("wa", mu=1.0, temperature=2.0)
    config = common.digits(experiment)
    config.drop_last = False
    return common.exemplars(config, 200, "herding", "all")
