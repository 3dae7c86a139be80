"""LUCIR on Tiny-ImageNet: 100 classes, then 5 phases of 20, with 20 exemplars of each class.

    python main.py --config=configs/lucir_tiny_imagenet.py

--config.num_tasks=11 gives 10 phases of 10 classes. The paper has no results on Tiny-ImageNet: no
published figure exists to compare with. Chosen here: half of the classes first and 5 phases, the
network, losses, schedule, memory and class order (seed 1993) of lucir_cifar100.py; the mean and
deviation of pixels of the ABD reference code, and class means without mirrored images.
"""

from configs import common


def get_config():
    config = common.lucir(common.tiny_imagenet(common.experiment("lucir", **common.LUCIR)))
    config.first_task_size = 100
    config.num_tasks = 6
    config.data.class_order = "numpy:1993"
    config.epochs = 160
    config.milestones = (80, 120)
    return config
