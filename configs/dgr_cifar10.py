"""Deep generative replay on CIFAR-10, 5 tasks of 2 classes.

    python main.py --config=configs/dgr_cifar10.py --config.seeds="(0,1,2)"

All settings but the dataset are those of dgr_cifar100.py.
"""

from configs import common


def get_config():
    config = common.cifar(common.experiment("dgr", mu=1.0, temperature=2.0), "cifar10")
    return common.autoencoder(config, channels=(64, 128, 512), latents=1024)
