"""Whether random numbers have the distribution that they should have.

Every bound is of the sampling error: five standard errors of a moment, or a probability below 1e-5
that right numbers miss it.
"""

import math

import numpy as np


def assert_normal(values, std: float, name: str = "") -> None:
    """Mean, standard deviation, shape and tails are those of normal numbers of mean 0."""
    scores = np.asarray(values, np.float64).ravel() / std
    count = scores.size
    assert abs(scores.mean()) < 5 / np.sqrt(count), f"{name}: mean {scores.mean():.4f} std"
    assert abs((scores**2).mean() - 1) < 5 * np.sqrt(2 / count), f"{name}: std {scores.std():.4f}"
    _assert_cumulative(scores, _normal_cumulative(scores), name)
    # Nothing is cut off, and nothing lies where none of so many numbers should.
    low, high = (_tail(count / chances) for chances in (12, 1e-5))
    largest = abs(scores).max()
    assert low < largest < high, f"{name}: largest {largest:.2f} std of {low:.2f} to {high:.2f}"


def assert_uniform(values, low: float, high: float, name: str = "") -> None:
    """Mean, standard deviation, shape and extremes are those of numbers from `low` to `high`."""
    scores = (np.asarray(values, np.float64).ravel() - low) / (high - low)
    count = scores.size
    assert -1e-6 < scores.min() < 12 / count, f"{name}: smallest {scores.min():.4f} of 0 to 1"
    assert 1 + 1e-6 > scores.max() > 1 - 12 / count, f"{name}: largest {scores.max():.4f}"
    assert abs(scores.mean() - 1 / 2) < 5 / np.sqrt(12 * count), f"{name}: {scores.mean():.4f}"
    squares = (scores - 1 / 2) ** 2
    assert abs(squares.mean() - 1 / 12) < 5 / np.sqrt(180 * count), f"{name}: {squares.mean():.4f}"
    _assert_cumulative(scores, scores, name)


def assert_fair(coins, name: str = "") -> None:
    """True and False come equally often."""
    assert abs(np.mean(coins) - 1 / 2) < 5 / np.sqrt(4 * np.size(coins)), (
        f"{name}: {np.mean(coins)}"
    )


def assert_even(numbers, count: int, name: str = "") -> None:
    """Each of 0..count-1 comes equally often, and no other number."""
    histogram = np.bincount(np.ravel(numbers), minlength=count)
    expected = np.size(numbers) / count
    assert histogram.shape == (count,), name
    assert (abs(histogram - expected) < 5 * np.sqrt(expected)).all(), f"{name}: {histogram}"


def assert_independent(columns) -> None:
    """No two of several arrays of equal size are correlated."""
    columns = [np.asarray(column, np.float64).ravel() for column in columns]
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert abs(correlations).max() < 5 / np.sqrt(columns[0].size), correlations.round(3)


def _assert_cumulative(scores, wanted, name):
    """Kolmogorov and Smirnov's distance; its square root of the count exceeds 2.5 in 1 of 1e5."""
    wanted = np.sort(wanted)
    found = np.arange(len(wanted) + 1) / len(wanted)
    distance = max((found[1:] - wanted).max(), (wanted - found[:-1]).max())
    assert distance < 2.5 / np.sqrt(len(wanted)), f"{name}: distributed otherwise, {distance:.4f}"


def _normal_cumulative(scores):
    return (1 + np.vectorize(math.erf)(scores / np.sqrt(2))) / 2


def _tail(one_in: float) -> float:
    """The score that normal numbers exceed in size once in so many, by bisection."""
    low, high = 0.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erfc(middle / 2**0.5) * one_in > 1 else (low, middle)
    return low
