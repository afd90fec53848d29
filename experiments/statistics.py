"""Means, paired comparisons, their intervals, tests and power: pure functions on numbers.

Two methods are compared by the differences of their results with the same seed, or on the same data
set. Tests are two-sided. What is not finite, and too few differences, are a ValueError. Ranks of
many methods over many data sets are in ranks.py.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

RESAMPLES = 9999
"""Of a bootstrap, and sign flips where there are more: all 2^n are taken up to n = 13."""
SEED = 0
"""Of what is drawn, so that equal numbers give equal results."""

Numbers = Sequence[float] | np.ndarray


# Means and intervals


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


class Interval(NamedTuple):
    """A mean, and the ends of its interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Numbers, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = SEED
) -> Interval:
    """The mean and its BCa bootstrap interval (Efron 1987), for values of any distribution.

    Of few values it is too narrow: of five normal ones it covers the true mean in 85 % of cases, of
    ten in 91 %, of twenty in 92 %. `interval` does not have this fault, so tables show that one.
    Equal values give an interval of no width.

    Args:
        values: [n], n ≥ 3; differences of pairs, or logarithms of their ratios.
        confidence: in (0, 1).
        resamples: number of bootstrap samples.
        seed: of the resampling.

    Example:
        >>> from experiments.statistics import bootstrap_interval
        >>> bootstrap_interval([2.0, 2.0, 2.0])
        Interval(mean=2.0, low=2.0, high=2.0)
    """
    numbers = _finite(values, 3, "values")
    if np.all(numbers == numbers[0]):
        return Interval(*[float(numbers[0])] * 3)
    low, high = stats.bootstrap(
        (numbers,),
        np.mean,
        confidence_level=confidence,
        n_resamples=resamples,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(np.mean(numbers)), float(low), float(high))


# Pairs


def pairs(one: Mapping[int, float], other: Mapping[int, float]) -> list[tuple[float, float]]:
    """The values of every seed that both have, in the order of the first."""
    return [(one[seed], other[seed]) for seed in one if seed in other]


def differences(pairs: Sequence[tuple[float, float]], *, geometric: bool = False) -> list[float]:
    """first − second of every pair, or log(first / second): what the tests below take."""
    if geometric:
        return [math.log(first / second) for first, second in pairs]
    return [first - second for first, second in pairs]


def paired_differences(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """`interval` of the differences first − second."""
    return interval(differences(pairs))


def paired_ratios(pairs: Sequence[tuple[float, float]]) -> list[float]:
    """`geometric_interval` of the ratios first / second."""
    return [math.exp(end) for end in interval(differences(pairs, geometric=True))]


class Significance(NamedTuple):
    """The result of a test.

    Attributes:
        statistic: its test statistic.
        p_value: in (0, 1]: how probable a statistic at least as extreme is, if there is no effect.
    """

    statistic: float
    p_value: float


def wilcoxon(differences: Numbers, *, seed: int = SEED) -> Significance:
    """Wilcoxon's signed-rank test that differences are symmetric around 0 (Wilcoxon 1945).

    Differences of 0 are left out, as Wilcoxon did; if all are 0, p is 1. Equal |differences| share
    their mean rank. Exact up to 50 differences, with ties up to 13; beyond that the normal
    approximation, with ties 9,999 random sign flips. The smallest p of n differences is 2^(1 − n):
    five can never show an effect at 0.05, six can (0.031).

    Args:
        differences: [n], n ≥ 2.
        seed: of the random sign flips.

    Returns:
        The smaller of the two rank sums, and p.
    """
    numbers = _finite(differences, 2, "differences")
    numbers = numbers[numbers != 0]
    if not numbers.size:
        return Significance(0.0, 1.0)
    signed_ranks = np.sign(numbers) * stats.rankdata(np.abs(numbers))
    rank_sum = float(min(signed_ranks[numbers > 0].sum(), -signed_ranks[numbers < 0].sum()))
    has_ties = len(np.unique(np.abs(numbers))) < len(numbers)
    if has_ties:  # a flip of signs leaves the ranks as they are
        return Significance(rank_sum, sign_flip_test(signed_ranks, seed=seed).p_value)
    return Significance(rank_sum, float(stats.wilcoxon(numbers).pvalue))


def sign_flip_test(differences: Numbers, *, seed: int = SEED) -> Significance:
    """The permutation test that differences are symmetric around 0 (Fisher 1935).

    Without an effect every difference could as well have the other sign. p is the share of sign
    patterns whose mean is at least as far from 0: exact up to 13 differences, else from 9,999
    random patterns. If all differences are 0, p is 1. The smallest p of n is 2^(1 − n), as of
    `wilcoxon`.

    Args:
        differences: [n], n ≥ 2.
        seed: of the random patterns.

    Returns:
        The mean, and p.

    Example:
        >>> from experiments.statistics import sign_flip_test
        >>> sign_flip_test([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        Significance(statistic=3.5, p_value=0.03125)
    """
    numbers = _finite(differences, 2, "differences")
    found = stats.permutation_test(
        (numbers,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return Significance(float(found.statistic), float(found.pvalue))


def holm(p_values: Numbers) -> np.ndarray:
    """p-values of a family of m tests, adjusted by Holm's step-down method (Holm 1979).

    Where those ≤ α are called effects, one or more false ones are among them with a probability of
    at most α, whatever the tests have to do with one another.

    Args:
        p_values: [m], each in [0, 1].

    Returns:
        [m] in the same order: the i-th smallest times m + 1 − i, never below one before it, and at
        most 1.

    Example:
        >>> from experiments.statistics import holm
        >>> holm([0.01, 0.04, 0.03, 0.005]).tolist()
        [0.03, 0.06, 0.06, 0.02]
    """
    p_values = _finite(p_values, 0, "p_values")
    if np.any((p_values < 0) | (p_values > 1)):
        raise ValueError(f"p_values: expected numbers from 0 to 1, got {p_values.tolist()}")
    order = np.argsort(p_values, kind="stable")
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


# Power


def paired_power(difference: float, deviation: float, n: int, *, level: float = 0.05) -> float:
    """The probability that n pairs show a true mean difference, by the two-sided paired t test.

    For normal differences, by the noncentral t distribution with n − 1 degrees of freedom and
    noncentrality √n · difference / deviation (Cohen 1988).

    Args:
        difference: true mean of the differences, of either sign; 0 gives `level`.
        deviation: standard deviation of the differences, > 0.
        n: number of pairs, ≥ 2.
        level: of the test, in (0, 1).

    Returns:
        In [level, 1].
    """
    _check_design(deviation, n, level)
    if not math.isfinite(difference):
        raise ValueError(f"difference = {difference}: expected a finite number")
    return _power(math.sqrt(n) * abs(difference) / deviation, n, level)


def smallest_difference(
    deviation: float, n: int, *, power: float = 0.8, level: float = 0.05
) -> float:
    """The smallest true mean difference that n pairs show with a given probability.

    A comparison that found nothing says only that the true difference is probably below this.

    Args:
        deviation: standard deviation of the differences, > 0: `np.std(differences, ddof=1)`.
        n: number of pairs, ≥ 2.
        power: that probability, in (level, 1).
        level: as of `paired_power`.

    Returns:
        In the unit of `deviation`, > 0.

    Example:
        >>> from experiments.statistics import smallest_difference
        >>> round(smallest_difference(0.2, 10), 2)
        0.2
    """
    _check_design(deviation, n, level)
    if not level < power < 1:
        raise ValueError(f"power = {power}: expected a number between level = {level} and 1")
    enough = 1.0
    while _power(enough, n, level) < power:
        enough *= 2
    shift = optimize.brentq(lambda shift: _power(shift, n, level) - power, 0, enough)
    return float(shift * deviation / math.sqrt(n))


def _power(shift: float, n: int, level: float) -> float:
    """P(|T| > the quantile), T noncentral t with n − 1 degrees of freedom."""
    quantile = special.stdtrit(n - 1, 1 - level / 2)
    # SciPy gives NaN for some probabilities below 1e-13.
    low, high = np.nan_to_num(special.nctdtr(n - 1, shift, [-quantile, quantile]))
    return float(low + 1 - high)


# Checks


def _check_design(deviation: float, n: int, level: float) -> None:
    if not (0 < deviation < math.inf):
        raise ValueError(f"deviation = {deviation}: expected a finite number > 0")
    if n < 2:
        raise ValueError(f"n = {n}: expected 2 pairs or more")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: expected a number between 0 and 1")


def _finite(values: Numbers, at_least: int, name: str) -> np.ndarray:
    """float64 [n]; ValueError unless they are finite and enough."""
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or len(numbers) < at_least:
        raise ValueError(f"{name} {list(numbers.shape)}: expected [n] with n ≥ {at_least}")
    if not np.isfinite(numbers).all():
        place = int(np.argmin(np.isfinite(numbers)))
        raise ValueError(f"{name}[{place}] = {numbers[place]}: expected finite numbers")
    return numbers
