"""Means, paired comparisons and their intervals: pure functions on numbers."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special


def interval(values: Sequence[float]) -> list[float]:
    """The mean, and of three values or more the ends of its 95 % interval (Student's t)."""
    mean = float(np.mean(values))
    if len(values) < 3:
        return [mean]
    quantile = special.stdtrit(len(values) - 1, 0.975)
    half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
    return [mean, mean - half, mean + half]


def geometric_interval(values: Sequence[float]) -> list[float]:
    """`interval` of positive values on the log scale."""
    return [math.exp(end) for end in interval([math.log(value) for value in values])]


def mean(values: Sequence[float], *, geometric: bool = False) -> float:
    """The arithmetic or the geometric mean."""
    return float(np.exp(np.mean(np.log(values))) if geometric else np.mean(values))


def pairs(one: Mapping[int, float], other: Mapping[int, float]) -> list[tuple[float, float]]:
    """The values of every seed that both have, in the order of the first."""
    return [(one[seed], other[seed]) for seed in one if seed in other]


def paired_differences(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """`interval` of the differences first − second."""
    return interval([first - second for first, second in pairs])


def paired_ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """`geometric_interval` of the ratios first / second."""
    return geometric_interval([first / second for first, second in pairs])
