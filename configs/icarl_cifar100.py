"""iCaRL with 2,000 exemplars on CIFAR-100, 10 tasks of 10 classes.

    python main.py --config=configs/icarl_cifar100.py

--config.method.name=libcontinual_icarl gives LibContinual's variant.
"""

from configs import common


def get_config():
    experiment = common.experiment(
        "icarl",
        mu=1.0,  # of the distillation, of libcontinual_icarl alone
        temperature=2.0,  # likewise
    )
    config = common.cifar(experiment, "cifar100")
    config.num_tasks = 10
    config.data.augmentation.update(brightness=0.0, contrast=0.0)
    config.epochs = 70
    config.milestones = (49, 63)
    # The reference code averages the loss over 100 outputs; here it is a sum, so lr is 2 / 100. Its
    # penalty of 1e-5 w^2 has the gradient 2e-5 w, so weight_decay is 100 times 2e-5.
    config.optimizer.update(lr=0.02, decay=0.2, weight_decay=2e-3)
    config.eval.read_outs = ("cnn",)  # the method's own is the nearest mean of exemplars
    return common.exemplars(config, 2_000, "herding", "all")
