"""A grid for ABD on digits: distillation weight and learning rate, on two tasks.

    python main.py --config=configs/sweep_abd_digits.py

Six points with the same programs, each in runs/sweep_abd_digits_grid/mu=...,lr=...; the best one is
chosen on validation images of the first two tasks, as in FACIL (Masana et al., 2022).
"""

from configs import abd_digits, common


def get_config():
    values = {"method.mu": (0.01, 0.1, 1.0), "optimizer.lr": (0.05, 0.1)}
    return common.sweep(abd_digits.get_config(), values)
