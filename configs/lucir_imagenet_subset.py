"""LUCIR on ImageNet-Subset: 50 of 100 classes, then 5 phases of 10, with 20 exemplars a class.

    python main.py --config=configs/lucir_imagenet_subset.py --config.data.dir=IMAGENET

--config.num_tasks=11 gives 10 phases of 5 classes. The 100 classes are those that the authors drew
with seed 1993, and their order is that of seed 1993 again (Hou et al., CVPR 2019).
"""

from configs import common


def get_config():
    return common.lucir_imagenet("imagenet_subset", first_task_size=50)
