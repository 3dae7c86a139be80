"""Always Be Dreaming on scanned digits, 5 tasks of 2 classes: the quick default."""

from configs import common


def get_config():
    config = common.digits(common.experiment("abd", mu=0.1))
    return common.inversion(config, "digits", steps=1000)
