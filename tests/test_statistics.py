"""Intervals, paired tests, power and ranks: against SciPy, published examples and made data."""

import doctest
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiments import ranks, statistics

BOUND = 1e-5
"""A rate seen in simulations may leave its binomial interval in so many cases (of fixed seeds)."""


def assert_rate(hits: int, trials: int, expected: float) -> None:
    """The hits are those of a rate that is the expected one."""
    low, high = stats.binom.interval(1 - BOUND, trials, expected)
    assert low <= hits <= high, f"{hits} of {trials}, expected {expected:.3f}"


@pytest.mark.parametrize("module", [statistics, ranks])
def test_examples_run(module):
    found = doctest.testmod(module)
    assert (found.failed, found.attempted > 4) == (0, True)


# Intervals


def test_intervals_are_students():
    values = [1.0, 2.0, 4.0, 4.5]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    np.testing.assert_allclose(statistics.interval(values), [np.mean(values), low, high])
    np.testing.assert_allclose(
        statistics.geometric_interval(np.exp(values)), np.exp([np.mean(values), low, high])
    )
    assert statistics.interval([1.0, 2.0]) == [1.5]
    assert statistics.mean([1.0, 4.0]) == 2.5
    assert statistics.mean([1.0, 4.0], geometric=True) == pytest.approx(2)


def test_only_seeds_that_both_have_are_paired():
    pairs = statistics.pairs({0: 1.0, 2: 8.0, 1: 3.0}, {1: 2.0, 2: 2.0, 5: 9.0})
    assert pairs == [(8.0, 2.0), (3.0, 2.0)]
    assert statistics.differences(pairs) == [6.0, 1.0]
    logs = statistics.differences(pairs, geometric=True)
    np.testing.assert_allclose(logs, np.log([4, 1.5]))
    assert statistics.paired_differences(pairs) == [3.5]
    assert statistics.paired_ratios(pairs) == [pytest.approx(math.sqrt(6))]


def test_intervals_cover_the_mean_as_often_as_promised():
    values = np.random.default_rng(0).normal(3.0, 2.0, (2000, 5))
    ends = [statistics.interval(row) for row in values]
    assert_rate(sum(low <= 3 <= high for _, low, high in ends), len(ends), 0.95)


def test_the_bootstrap_interval_is_bca_and_repeats():
    values = np.random.default_rng(1).gamma(1.0, size=12)
    rng = np.random.default_rng(0)
    expected = stats.bootstrap((values,), np.mean, rng=rng, n_resamples=9999, method="BCa")
    found = statistics.bootstrap_interval(values)
    assert found == (values.mean(), *expected.confidence_interval)
    assert found == statistics.bootstrap_interval(list(values))
    assert found != statistics.bootstrap_interval(values, seed=1)
    # Skewed values have a skewed interval; less confidence a narrower one.
    assert found.high - found.mean > found.mean - found.low
    narrow = statistics.bootstrap_interval(values, confidence=0.5)
    assert found.low < narrow.low < narrow.high < found.high


def test_the_bootstrap_interval_covers_less_than_promised_as_its_docstring_says():
    values = np.random.default_rng(2).normal(size=(400, 10))
    ends = [statistics.bootstrap_interval(row, resamples=999) for row in values]
    assert_rate(sum(end.low <= 0 <= end.high for end in ends), len(ends), 0.91)


def test_equal_values_have_a_bootstrap_interval_without_width():
    assert statistics.bootstrap_interval([0.1] * 4) == (0.1, 0.1, 0.1)


# Paired tests

PAIRED_TESTS = [statistics.wilcoxon, statistics.sign_flip_test]


def enumerated(differences: np.ndarray, statistic) -> float:
    """The two-sided p-value from all sign patterns."""
    patterns = itertools.product([1, -1], repeat=len(differences))
    distances = np.array([abs(statistic(np.abs(differences) * signs)) for signs in patterns])
    return float(np.mean(distances >= abs(statistic(differences)) - 1e-12))


def signed_ranks(differences: np.ndarray) -> float:
    return float(np.sum(np.sign(differences) * stats.rankdata(np.abs(differences))))


@pytest.mark.parametrize(
    "differences",
    [[0.3, -0.1, 0.7, 0.2, 0.4], [1.0, 1.0, 2.0, -1.0, 3.0, 3.0], [0.5, 0.5], [-2.0, 1.0, -3.0]],
)
def test_p_values_are_those_of_all_sign_patterns(differences):
    differences = np.array(differences)
    found = statistics.sign_flip_test(differences)
    assert found.statistic == pytest.approx(differences.mean())
    assert found.p_value == pytest.approx(enumerated(differences, np.mean))
    found = statistics.wilcoxon(differences)
    assert found.p_value == pytest.approx(enumerated(differences, signed_ranks))
    flipped = statistics.wilcoxon(-differences)
    assert flipped == found


def test_wilcoxon_is_that_of_scipy():
    for n in (8, 30, 60):
        differences = np.random.default_rng(n).normal(0.2, 1, n)
        expected = stats.wilcoxon(differences)
        assert statistics.wilcoxon(differences) == (expected.statistic, expected.pvalue)


@pytest.mark.parametrize("test", PAIRED_TESTS)
def test_many_differences_are_tested_with_random_signs(test):
    differences = np.round(np.random.default_rng(3).normal(0.5, 1, 40), 1)  # with ties
    found = test(differences)
    assert found == test(differences)
    exact = stats.ttest_1samp(differences, 0).pvalue
    assert found.p_value == pytest.approx(exact, rel=1)
    assert 0 < found.p_value < 0.05


@pytest.mark.parametrize("test", PAIRED_TESTS)
def test_five_differences_show_nothing_at_5_percent_and_six_do(test):
    assert test(np.arange(1.0, 6)).p_value == 2**-4
    assert test(np.arange(1.0, 7)).p_value == 2**-5


@pytest.mark.parametrize("test", PAIRED_TESTS)
def test_no_difference_at_all_is_p_1(test):
    assert test([0.0, 0.0, 0.0]) == (0.0, 1.0)


def test_wilcoxon_leaves_differences_of_0_out():
    assert statistics.wilcoxon([0.0, 1.0, 2.0, 0.0, -4.0]) == statistics.wilcoxon([1.0, 2.0, -4.0])


@pytest.mark.parametrize(
    ("test", "attainable"),
    # Of the 2^8 sign patterns, those with p ≤ 0.05: 12 by their mean, 10 by their ranks.
    [(statistics.sign_flip_test, 12 / 256), (statistics.wilcoxon, 10 / 256)],
)
def test_paired_tests_find_effects_and_no_more_false_ones_than_promised(test, attainable):
    """Heavy tails and another width for every pair: the tests promise 5 % for those too."""
    rng = np.random.default_rng(4)
    differences = rng.standard_t(2, (500, 8)) * rng.gamma(2.0, size=8)
    false = sum(test(row).p_value <= 0.05 for row in differences)
    assert_rate(false, len(differences), attainable)
    normal = rng.normal(1.5, 1, (200, 8))
    assert np.mean([test(row).p_value <= 0.05 for row in normal]) > 0.85


@pytest.mark.parametrize(
    "call",
    [*PAIRED_TESTS, statistics.bootstrap_interval],
)
def test_numbers_that_cannot_be_tested_are_one_error(call):
    for values, message in (
        ([1.0], r"\[1\]: expected \[n\] with n ≥ [23]"),
        ([], r"\[0\]: expected"),
        ([[1.0, 2.0, 3.0]] * 3, r"\[3, 3\]: expected"),
        ([1.0, math.nan, 2.0], r"\[1\] = nan: expected finite"),
        ([1.0, 2.0, -math.inf], r"\[2\] = -inf: expected finite"),
    ):
        with pytest.raises(ValueError, match=message):
            call(values)


# Holm


def test_holm_adjusts_as_in_the_textbook():
    np.testing.assert_allclose(statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([]).tolist() == []
    assert statistics.holm([0.6, 0.7, 0.0]).tolist() == [1.0, 1.0, 0.0]


def test_holm_rejects_what_the_steps_reject():
    """Holm's steps: compare the i-th smallest with α / (m + 1 − i), stop at the first above."""
    rng = np.random.default_rng(5)
    for _ in range(50):
        p_values = rng.beta(0.3, 2.0, 7)
        rejected = np.zeros(7, bool)
        for step, place in enumerate(np.argsort(p_values)):
            if p_values[place] > 0.05 / (7 - step):
                break
            rejected[place] = True
        np.testing.assert_array_equal(statistics.holm(p_values) <= 0.05, rejected)


def test_holm_keeps_the_family_to_its_level():
    families = np.random.default_rng(6).uniform(size=(4000, 5))
    false = sum(statistics.holm(family).min() <= 0.05 for family in families)
    assert_rate(false, len(families), 1 - (1 - 0.05 / 5) ** 5)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{wrong}"):
        statistics.holm([0.5, wrong])


# Power


@pytest.mark.parametrize(("n", "difference"), [(3, 2.0), (5, 1.0), (10, -0.9), (30, 0.3)])
def test_power_is_that_of_simulated_pairs(n, difference):
    seen = np.random.default_rng(n).normal(difference, 1.5, (5000, n))
    p_values = stats.ttest_1samp(seen, 0, axis=1).pvalue
    expected = statistics.paired_power(difference, 1.5, n)
    assert_rate(int(np.sum(p_values <= 0.05)), 5000, expected)


def test_the_smallest_difference_has_the_power_asked_for():
    for n, power, level in itertools.product((2, 3, 5, 20, 200), (0.5, 0.8, 0.99), (0.05, 0.01)):
        found = statistics.smallest_difference(0.3, n, power=power, level=level)
        assert statistics.paired_power(found, 0.3, n, level=level) == pytest.approx(power)
    by_n = [statistics.smallest_difference(0.3, n) for n in (3, 5, 10, 30)]
    assert by_n == sorted(by_n, reverse=True)
    # (1.96 + 0.84) σ / √n for many pairs.
    many = statistics.smallest_difference(1.0, 10_000)
    assert many == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 100, rel=1e-3)


def test_power_at_the_ends():
    assert statistics.paired_power(0.0, 1.0, 5) == pytest.approx(0.05)
    for n, difference in itertools.product((2, 3, 10, 100), (1e2, 1e4, 1e8)):
        assert statistics.paired_power(difference, 1.0, n) == pytest.approx(1, abs=0.02)


def test_designs_without_power_are_refused():
    for arguments, message in (
        ((1.0, 0.0, 5), "deviation = 0.0"),
        ((1.0, math.nan, 5), "deviation = nan"),
        ((1.0, 1.0, 1), "n = 1: expected 2"),
        ((math.inf, 1.0, 5), "difference = inf"),
    ):
        with pytest.raises(ValueError, match=message):
            statistics.paired_power(*arguments)
    with pytest.raises(ValueError, match=r"power = 0\.05"):
        statistics.smallest_difference(1.0, 5, power=0.05)
    with pytest.raises(ValueError, match="level = 1"):
        statistics.smallest_difference(1.0, 5, level=1)


# Ranks over data sets

DEMSAR = np.array(
    [
        (4, 3, 2, 1),
        (1, 2, 3, 4),
        (4, 1, 2, 3),
        (4, 1, 3, 2),
        (4, 2, 3, 1),
        (1, 2.5, 4, 2.5),
        (3, 2, 4, 1),
        (2.5, 2.5, 4, 1),
        (4, 3, 2, 1),
        (2.5, 2.5, 2.5, 2.5),
        (4, 2.5, 1, 2.5),
        (3, 2, 4, 1),
        (4, 1, 2, 3),
        (3, 1, 4, 2),
    ]
)
"""Demšar 2006, table 6: ranks of C4.5, +m, +cf and +m+cf on 14 data sets."""


def test_friedman_on_the_example_of_demsar():
    np.testing.assert_array_equal(ranks.ranks(DEMSAR, lower_is_better=True), DEMSAR)
    np.testing.assert_array_equal(ranks.ranks(-DEMSAR), DEMSAR)
    found = ranks.friedman(DEMSAR, lower_is_better=True)
    np.testing.assert_allclose(found.average_ranks, [3.143, 2.0, 2.893, 1.964], atol=5e-4)
    # He does not correct for ties: t tied ranks take t³ − t from each data set's M³ − M.
    ties = sum(n**3 - n for row in DEMSAR for n in np.unique(row, return_counts=True)[1])
    without = found.chi_square * (1 - ties / (14 * (4**3 - 4)))
    assert without == pytest.approx(9.28, abs=0.005)
    assert 13 * without / (14 * 3 - without) == pytest.approx(3.69, abs=0.005)
    assert found.f == pytest.approx(13 * found.chi_square / (14 * 3 - found.chi_square))
    assert ranks.critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)


def test_friedman_is_that_of_scipy_and_f_that_of_an_analysis_of_variance():
    scores = np.round(np.random.default_rng(7).normal(size=(9, 5)), 1)
    found = ranks.friedman(scores)
    expected = stats.friedmanchisquare(*scores.T)
    assert (found.chi_square, found.p_value) == pytest.approx(tuple(expected))
    # Two-way, of the ranks: Iman and Davenport's F.
    ranked = ranks.ranks(scores)
    between = 9 * np.sum((ranked.mean(0) - 3) ** 2) / 4
    within = np.sum((ranked - ranked.mean(0)) ** 2) / (8 * 4)
    assert found.f == pytest.approx(between / within)
    assert found.f_p_value == pytest.approx(stats.f.sf(found.f, 4, 32))


def test_friedman_finds_an_effect_and_no_more_false_ones_than_promised():
    rng = np.random.default_rng(8)
    tables = rng.normal(size=(500, 10, 4)) + rng.normal(0, 5, (500, 10, 1))
    found = [ranks.friedman(scores) for scores in tables]
    assert_rate(sum(each.f_p_value <= 0.05 for each in found), len(found), 0.05)
    assert sum(each.p_value <= 0.05 for each in found) <= 0.06 * len(found)
    better = tables[:100] + np.array([0.0, 0.0, 0.0, 2.0])
    assert np.mean([ranks.friedman(scores).f_p_value <= 0.05 for scores in better]) > 0.9
    assert all(np.mean([ranks.friedman(scores).average_ranks for scores in better], 0)[:3] > 2.5)


def test_friedman_of_ties_and_of_full_agreement():
    ties = ranks.friedman(np.full((5, 3), 0.7))
    assert ties[1:] == (0.0, 1.0, 0.0, 1.0)
    agreed = ranks.friedman(np.tile([0.1, 0.3, 0.2], (6, 1)))
    assert agreed.average_ranks.tolist() == [3, 1, 2]
    assert agreed.chi_square == pytest.approx(12)
    assert (agreed.f, agreed.f_p_value) == (math.inf, 0.0)


def test_the_critical_difference_has_the_tabled_quantiles():
    """Demšar 2006, table 5(a)."""
    tabled = {
        0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164),
        0.10: (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920),
    }
    for level, quantiles in tabled.items():
        for methods, quantile in enumerate(quantiles, 2):
            found = ranks.critical_difference(methods, 20, level=level)
            expected = quantile * math.sqrt(methods * (methods + 1) / 120)
            assert found == pytest.approx(expected, rel=5e-4)


def test_equal_methods_are_told_apart_as_rarely_as_promised():
    rng = np.random.default_rng(9)
    drawn = rng.permuted(np.tile(np.arange(1.0, 7), (4000, 20, 1)), axis=2).mean(1)
    apart = np.ptp(drawn, axis=1) >= ranks.critical_difference(6, 20)
    assert_rate(int(apart.sum()), 4000, 0.05)


def test_groups_are_the_largest_that_are_not_told_apart():
    average = np.array([3.1, 1.0, 2.0, 4.5])
    assert ranks.groups_not_told_apart(average, 1.2) == [[1, 2], [2, 0]]
    assert ranks.groups_not_told_apart(average, 2.2) == [[1, 2, 0], [0, 3]]
    assert ranks.groups_not_told_apart(average, 2.6) == [[1, 2, 0], [2, 0, 3]]
    assert ranks.groups_not_told_apart(average, 0.5) == []
    assert ranks.groups_not_told_apart(average, 9.0) == [[1, 2, 0, 3]]
    # At the critical difference itself methods are told apart; ties never are.
    assert ranks.groups_not_told_apart(np.array([1.0, 2.0]), 1.0) == []
    assert ranks.groups_not_told_apart(np.array([1.5, 1.5, 3.0]), 0.1) == [[0, 1]]


def test_the_measures_of_the_paper():
    errors = np.array([[1, 2, 3], [2, 1, 3], [1, 3, 2], [1, 2, 3.0]])
    found = ranks.rank_measures(errors, lower_is_better=True)
    assert found.first_ranks.tolist() == [3, 1, 0]
    assert found.distribution.tolist() == [[3, 1, 0], [1, 2, 1], [0, 1, 3]]
    expected = [(3 + 1 / 2) / 4, (1 + 2 / 2 + 1 / 3) / 4, (1 / 2 + 3 / 3) / 4]
    np.testing.assert_allclose(found.mean_reciprocal_rank, expected)


def test_ties_share_places_as_the_mean_over_all_ways_to_break_them():
    scores = np.random.default_rng(10).integers(0, 3, (6, 5)).astype(float)
    found = ranks.rank_measures(scores)
    rng, broken = np.random.default_rng(11), []
    for _ in range(2000):
        broken.append(ranks.rank_measures(scores + 0.1 * rng.random(scores.shape)))
    for name in ranks.RankMeasures._fields:
        means = np.mean([getattr(each, name) for each in broken], 0)
        np.testing.assert_allclose(getattr(found, name), means, atol=0.15)
    np.testing.assert_allclose(found.distribution.sum(0), 6)
    np.testing.assert_allclose(found.distribution.sum(1), 6)
    assert found.first_ranks.sum() == pytest.approx(6)
    mean_ranks = found.distribution @ np.arange(1, 6) / 6
    np.testing.assert_allclose(mean_ranks, ranks.ranks(scores).mean(0))


@pytest.mark.parametrize("call", [ranks.ranks, ranks.friedman, ranks.rank_measures])
def test_scores_that_cannot_be_ranked_are_one_error(call):
    for scores, message in (
        (np.ones(3), r"\[3\]: expected \[D, M\]"),
        (np.ones((1, 3)), r"\[1, 3\]: expected"),
        (np.ones((3, 1)), r"\[3, 1\]: expected"),
        (np.array([[1, 2, 3], [1, math.nan, 3]]), r"scores\[1, 1\] = nan"),
    ):
        with pytest.raises(ValueError, match=message):
            call(scores)
    with pytest.raises(ValueError, match="expected 3 methods"):
        ranks.friedman(np.ones((4, 2)))


def test_a_difference_of_nothing_is_refused():
    with pytest.raises(ValueError, match="1 methods, 5 data sets"):
        ranks.critical_difference(1, 5)
    with pytest.raises(ValueError, match="level = 0"):
        ranks.critical_difference(3, 5, level=0)
