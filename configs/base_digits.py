"""Plain fine-tuning on scanned digits, 5 tasks of 2 classes: what ABD has to beat."""

from configs import common


def get_config():
    return common.digits(common.experiment("base"))
