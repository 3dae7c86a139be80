"""LwF.MC, one sigmoid per class, on scanned digits, 5 tasks of 2 classes."""

from configs import common


def get_config():
    return common.digits(common.experiment("lwf_mc"))
