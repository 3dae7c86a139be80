"""R-DFCIL on Tiny-ImageNet, 10 tasks of 20 classes: the setting of its reference code.

    python main.py --config=configs/rdfcil_tiny_imagenet.py --config.seeds="(0,1,2)"

--config.num_tasks=5 and 20 give its other splits. Classes are numbered by the sorted names of their
folders, as in the configs of ABD; the reference code numbers them by the lines of wnids.txt, so the
same class order gives other classes there.
"""

from configs import common


def get_config():
    config = common.tiny_imagenet(common.experiment("rdfcil", **common.RDFCIL))
    config.num_tasks = 10
    config = common.rdfcil_ground(common.inversion(config, "tiny_imagenet"))
    config.optimizer.weight_decay = 2e-4
    return config
