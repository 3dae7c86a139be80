"""LUCIR on CIFAR-100: 50 classes, then 5 phases of 10, with 20 exemplars of each class.

    python main.py --config=configs/lucir_cifar100.py

--config.num_tasks=11 gives 10 phases of 5 classes, 26 gives 25 phases of 2, 3 gives 2 phases of 25.
Published average incremental accuracy of the network's own classifier: 63.4 with 5 phases, 60.2
with 10 (Hou et al., CVPR 2019).
"""

from configs import common


def get_config():
    experiment = common.experiment("lucir", **common.LUCIR)
    config = common.lucir(common.cifar(experiment, "cifar100"))
    config.first_task_size = 50
    config.num_tasks = 6
    config.data.class_order = "numpy:1993"  # "numpy:1993:runs": another one for each seed
    config.data.mean = (0.5071, 0.4866, 0.4409)
    config.data.std = (0.2009, 0.1984, 0.2023)  # means over images of each image's deviation
    config.eval.mirror = "channels"  # what the released code's flip does
    config.epochs = 160
    config.milestones = (80, 120)
    return config
