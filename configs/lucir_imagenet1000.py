"""LUCIR on ImageNet: 500 classes, then 5 phases of 100, with 20 exemplars of each class.

    python main.py --config=configs/lucir_imagenet1000.py --config.data.dir=IMAGENET

--config.num_tasks=11 gives 10 phases of 50 classes. As in the authors' code for all classes,
the head is fine-tuned on balanced exemplars after each phase (Hou et al., CVPR 2019).
"""

from configs import common


def get_config():
    return common.lucir_imagenet("imagenet1000", first_task_size=500, balanced_finetuning=True)
