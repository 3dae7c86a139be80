"""LUCIR on CIFAR-100 with the values of LibContinual's YAML file, where they are not the paper's.

    python main.py --config=configs/lucir_cifar100_libcontinual.py

As in that file: 50 classes, then 5 phases of 10, with 2000 exemplars in all, shared by the seen
classes and selected by herding, and no read-out but the method's own. As LibContinual does where
the file is silent: brightness jitter, and the deviation of all pixels. The file has neither epochs
nor a batch size. Its milestones 80 and 120 belong to the paper's 160 epochs, and LibContinual's
first task to the paper's batches of 128.

The teacher's batch norm is in train mode, as LibContinual leaves it. The config is still not a
copy: the images for imprinting are not augmented, all tasks have one batch size, and herding is the
correct one (--config.exemplars.strategy=libcontinual_herding selects LibContinual's). The published
results belong to configs/lucir_cifar100.py. docs/libcontinual_keys.md has all keys.
"""

from configs import common, lucir_cifar100


def get_config():
    config = lucir_cifar100.get_config()
    config.data.std = (0.2675, 0.2565, 0.2761)
    config.data.augmentation.brightness = 63 / 255
    config.eval.update(read_outs=(), mirror="none")
    config.method.name = "libcontinual_lucir"
    return common.exemplars(config, total=2000, strategy="herding", replay="all")
