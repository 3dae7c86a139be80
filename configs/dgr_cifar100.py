"""Deep generative replay on CIFAR-100, 5 tasks of 20 classes.

    python main.py --config=configs/dgr_cifar100.py --config.seeds="(0,1,2)"

Published final accuracy (mean and deviation of three seeds): 14.4 ± 0.4 with 5 tasks,
8.1 ± 0.1 with --config.num_tasks=10, 4.1 ± 0.3 with --config.num_tasks=20.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("dgr", mu=1.0, temperature=2.0), "cifar100")
    return common.autoencoder(config, channels=(64, 128, 512), latents=1024)
