"""R-DFCIL on CIFAR-100, 10 tasks of 10 classes: the setting of its reference code.

    python main.py --config=configs/rdfcil_cifar100.py --config.seeds="(0,1,2)"

--config.num_tasks=5 and 20 give its other splits, --config.first_task_size=50 with num_tasks=6, 11
or 26 those with half of the classes first. The reference code trains 200 epochs a task: 160 of
them are config.epochs, 40 are config.method.finetuning_epochs, which do nothing in the first task.
The class orders of seeds 0, 1 and 2 are its three.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("rdfcil", **common.RDFCIL), "cifar100")
    config.num_tasks = 10
    return common.rdfcil_ground(common.inversion(config, "cifar"))
