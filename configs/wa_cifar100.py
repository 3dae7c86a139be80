"""Weight Aligning with 2,000 exemplars on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/wa_cifar100.py

--config.method.trains_head=False --config.method.teacher_mode=train is LibContinual's.
"""

from configs import common


def get_config():
    experiment = common.experiment(
        "wa",
        mu=1.0,  # times the share of old classes: weight of the distillation
        temperature=2.0,
        teacher_mode="eval",  # or "train"
        trains_head=True,
    )
    config = common.cifar(experiment, "cifar100")
    config.drop_last = False
    return common.exemplars(config, 2_000, "herding", "all")
