"""ABD and R-DFCIL on CIFAR-100, each on its own ground and on that of the other, three seeds.

    python main.py --config=configs/table_datafree_cifar100.py

A ground is the network, the augmentation, mean and deviation of pixels, the schedule, weight decay
and the number of inversion steps. `abd` and `rdfcil` have their own, `abd_on_rdfcil` and
`rdfcil_on_abd` that of the other method. The class orders are the same for all: those of seeds 0, 1
and 2, which are the first three of both reference codes. On one ground both methods train as many
epochs in a later task: 200 on R-DFCIL's and 250 on ABD's, the last 40 of R-DFCIL on the head alone.
What stays with a method is its losses and stages: a generator for life after each task (ABD), or a
new one at the start of each later task (R-DFCIL). Runs a part: --config.splits="(5,)".
"""

from configs import abd_cifar100, common


def get_config():
    config = common.table("cifar100", ("abd", "rdfcil"), splits=(5, 10, 20))
    config.runs.abd_on_rdfcil = common.rdfcil_ground(abd_cifar100.get_config(), epochs=200)
    rdfcil = common.cifar(common.experiment("rdfcil", **common.RDFCIL), "cifar100")
    rdfcil.epochs = 210
    config.runs.rdfcil_on_abd = common.inversion(rdfcil, "cifar")
    config.learners = tuple(config.runs)
    config.first_split_only = ()
    return config
