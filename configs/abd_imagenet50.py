"""Always Be Dreaming on ImageNet-50, 5 tasks of 10 of ImageNet's 1000 classes.

    python main.py --config=configs/abd_imagenet50.py --config.data.dir=IMAGENET

The settings are those of the ABD reference code's script for ImageNet. Accuracies are top-5. No
results of it are published, and the authors' class ids depended on the order in which their disk
listed folders.
"""

from configs import common


def get_config():
    config = common.imagenet50(common.experiment("abd", mu=0.1))
    return common.inversion(config, "imagenet", steps=50_000)
