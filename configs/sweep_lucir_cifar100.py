"""A grid for LUCIR on CIFAR-100: distillation weight and margin, on two tasks.

    python main.py --config=configs/sweep_lucir_cifar100.py

Nine points with the same programs, in runs/sweep_lucir_cifar100_grid/lamda=...,margin=...; the best
one is chosen on validation images of the first two tasks, as in FACIL (Masana et al., 2022).
"""

from configs import common, lucir_cifar100


def get_config():
    values = {"method.lamda": (2.0, 5.0, 10.0), "method.margin": (0.25, 0.5, 0.75)}
    return common.sweep(lucir_cifar100.get_config(), values)
