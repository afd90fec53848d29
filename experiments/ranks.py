"""Methods ranked on many data sets or architectures: Friedman's test and the paper's measures.

Shapes: D data sets (or architectures), M methods. Scores are [D, M]: a row is a data set, a number
in it the result of a method there, averaged over seeds. Scores that are not finite, D < 2 and M < 2
are a ValueError.

J. Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006).
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special, stats


def ranks(scores: np.ndarray, *, lower_is_better: bool = False) -> np.ndarray:
    """Ranks of the methods on every data set: 1 is the best, ties share the mean of their places.

    Args:
        scores: [D, M].
        lower_is_better: for errors and losses.

    Returns:
        float64 [D, M], from 1 to M; every row sums to M (M + 1) / 2.

    Example:
        >>> import numpy as np
        >>> from experiments.ranks import ranks
        >>> ranks(np.array([[0.9, 0.8, 0.9], [0.5, 0.6, 0.7]])).tolist()
        [[1.5, 3.0, 1.5], [3.0, 2.0, 1.0]]
    """
    scores = _checked(scores)
    return stats.rankdata(scores if lower_is_better else -scores, axis=1)


class Friedman(NamedTuple):
    """The result of `friedman`.

    Attributes:
        average_ranks: [M], over the data sets.
        chi_square: Friedman's statistic, corrected for ties; M − 1 degrees of freedom.
        p_value: of it.
        f: Iman and Davenport's statistic; M − 1 and (D − 1) (M − 1) degrees of freedom.
        f_p_value: of it.
    """

    average_ranks: np.ndarray
    chi_square: float
    p_value: float
    f: float
    f_p_value: float


def friedman(scores: np.ndarray, *, lower_is_better: bool = False) -> Friedman:
    """Friedman's test that all methods are equal, by their ranks (1937; Demšar 2006, 3.2.2).

    The χ² approximation finds too little on few data sets (below about 10 with 5 methods or more);
    `f`, by Iman and Davenport (1980), is better there. If all methods tie on all data sets, the
    statistics are 0 and p is 1; if all data sets rank the methods alike, `f` is infinite.

    Args:
        scores: [D, M], D ≥ 2, M ≥ 3. For two methods use `statistics.wilcoxon`.
        lower_is_better: for errors and losses.
    """
    ranked = ranks(scores, lower_is_better=lower_is_better)
    data_sets, methods = ranked.shape
    if methods < 3:
        raise ValueError(f"scores {list(ranked.shape)}: expected 3 methods or more")
    average = ranked.mean(0)
    if np.all(ranked == ranked[0, 0]):
        return Friedman(average, 0.0, 1.0, 0.0, 1.0)
    chi_square, p_value = map(float, stats.friedmanchisquare(*ranked.T))
    between, within = methods - 1, (data_sets - 1) * (methods - 1)
    left = data_sets * between - chi_square
    # Where all agree, `left` is 0 but for rounding.
    f = (data_sets - 1) * chi_square / left if left > 1e-9 * data_sets * between else math.inf
    f_p_value = float(special.fdtrc(between, within, f)) if f < math.inf else 0.0
    return Friedman(average, chi_square, p_value, f, f_p_value)


def critical_difference(methods: int, data_sets: int, *, level: float = 0.05) -> float:
    """How far two average ranks must lie apart to tell their methods apart, of all pairs at once.

    Nemenyi's test (1963): q √(M (M + 1) / 6 D), q the quantile of the studentized range with
    infinitely many degrees of freedom, over √2 (Demšar 2006, 3.2.2). To be used where `friedman`
    finds a difference.

    Args:
        methods: M ≥ 2.
        data_sets: D ≥ 2.
        level: probability of telling any two methods apart that are equal, in (0, 1).

    Returns:
        In ranks, > 0; it may exceed M − 1, and then no methods can be told apart.
    """
    if methods < 2 or data_sets < 2:
        raise ValueError(f"{methods} methods, {data_sets} data sets: expected 2 or more of both")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: expected a number between 0 and 1")
    q = stats.studentized_range.ppf(1 - level, methods, np.inf) / math.sqrt(2)
    return float(q * math.sqrt(methods * (methods + 1) / (6 * data_sets)))


def groups_not_told_apart(average_ranks: np.ndarray, difference: float) -> list[list[int]]:
    """The largest groups of methods whose average ranks differ by less than a critical difference.

    Args:
        average_ranks: [M].
        difference: `critical_difference`.

    Returns:
        Groups of two methods or more, as indices from the best to the worst; no group lies within
        another. Methods that share no group are told apart.
    """
    order = np.argsort(average_ranks, kind="stable")
    sorted_ranks = np.asarray(average_ranks)[order]
    # Without the factor, rounding could join methods whose ranks differ by just the difference.
    near = difference * (1 - 1e-9)
    groups, reached = [], 0
    for first, rank in enumerate(sorted_ranks):
        end = int(np.searchsorted(sorted_ranks, rank + near, side="left"))
        if end > max(reached, first + 1):
            groups.append(order[first:end].tolist())
            reached = end
    return groups


class RankMeasures(NamedTuple):
    """The measures of the paper's tables.

    Attributes:
        first_ranks: [M]: on how many data sets a method is the best.
        distribution: [M, M]: on how many data sets method m has rank r + 1; rows and columns sum
            to D.
        mean_reciprocal_rank: [M], from 1/M to 1: the mean of 1 / rank.
    """

    first_ranks: np.ndarray
    distribution: np.ndarray
    mean_reciprocal_rank: np.ndarray


def rank_measures(scores: np.ndarray, *, lower_is_better: bool = False) -> RankMeasures:
    """First ranks, rank distribution and mean reciprocal rank, as the SmartMixed paper has them.

    The paper does not say what a tie is. Here tied methods share their places evenly: two that tie
    for the first place have half a first and half a second rank each. That is the mean over all
    ways to break the ties, so that first ranks sum to D and no method gains by a tie.

    Args:
        scores: [D, M].
        lower_is_better: for errors and losses.

    Example:
        >>> import numpy as np
        >>> from experiments.ranks import rank_measures
        >>> rank_measures(np.array([[0.9, 0.8, 0.9], [0.5, 0.6, 0.7]])).first_ranks.tolist()
        [0.5, 0.0, 1.5]
    """
    scores = _checked(scores)
    scores = scores if lower_is_better else -scores
    methods = scores.shape[1]
    best, worst = (stats.rankdata(scores, kind, axis=1)[..., None] for kind in ("min", "max"))
    places = np.arange(1, methods + 1)
    shared = ((best <= places) & (places <= worst)) / (worst - best + 1)  # [D, M, places]
    distribution = shared.sum(0)
    reciprocal = (shared / places).sum(-1).mean(0)
    return RankMeasures(distribution[:, 0], distribution, reciprocal)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(f"scores {list(scores.shape)}: expected [D, M] with D ≥ 2 and M ≥ 2")
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(
            f"scores[{row}, {column}] = {scores[row, column]}: expected finite numbers; rank a "
            "method that failed by a score that is worse than all others"
        )
    return scores
