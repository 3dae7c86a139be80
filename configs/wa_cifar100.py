"""Weight Aligning with 2,000 exemplars on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/wa_cifar100.py

--config.method.name=libcontinual_wa gives LibContinual's variant.
"""

from configs import common


def get_config():
    experiment = common.experiment(
        "wa",
        mu=1.0,  # times the share of old classes: weight of the distillation
        temperature=2.0,
    )
    config = common.cifar(experiment, "cifar100")
    config.drop_last = False
    return common.exemplars(config, 2_000, "herding", "all")
