"""What neurons chose, over seeds: pure functions on arrays.

Shapes: S seeds, N neurons of a layer (M of the next), K functions of the pool, E epochs. Choices
are ints from 0 to K − 1. Permutation tests permute choices among the neurons of a layer, of every
seed by itself: the shares stay as they are, and so do all weights.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from experiments import statistics

TOLERANCE = 0.02
"""Share of a layer's neurons by which shares may differ that are called the same."""


def share_intervals(choices: np.ndarray, functions: int) -> list[list[float]]:
    """The share of a layer's neurons that chose each function, as `statistics.interval` over seeds.

    Args:
        choices: [S, N].
        functions: K.

    Returns:
        Per function the mean, and of three seeds or more the ends of its interval, cut to [0, 1].
    """
    shares = (choices[..., None] == np.arange(functions)).mean(1)
    return [[min(max(n, 0.0), 1.0) for n in statistics.interval(share)] for share in shares.T]


def settled_epoch(counts: np.ndarray, tolerance: float = TOLERANCE) -> int:
    """The first epoch from which on a layer's shares stay as they are at the end of phase 1.

    metrics.jsonl has how many neurons chose each function, not which: neurons that change places
    are not seen, so that single neurons settle in this epoch or later.

    Args:
        counts: [E, K], of neurons after each epoch of phase 1.
        tolerance: half the sum of |differences| of shares, from 0 to 1, up to which they are called
            the same. So many of the neurons must have changed at least.

    Returns:
        From 1 to E.
    """
    shares = counts / counts.sum(1, keepdims=True)
    distance = np.abs(shares - shares[-1]).sum(1) / 2
    (others,) = np.nonzero(distance > tolerance + 1e-12)
    return int(others[-1]) + 2 if others.size else 1


# Agreement


class Agreement(NamedTuple):
    """How often matched neurons of two seeds chose the same function.

    Attributes:
        share: mean over the pairs of seeds, from 0 to 1.
        chance: what it would be on average if choices were permuted.
        p_value: one-sided: how probable so much agreement is then.
    """

    share: float
    chance: float
    p_value: float


Weights = Sequence[tuple[np.ndarray, np.ndarray]]
"""Kernel [inputs, N] and bias [N] of every layer that has choices, from the first."""


def match_neurons(one: Weights, other: Weights) -> list[np.ndarray]:
    """Pairs the neurons of two networks of one shape by the weights that lead into them.

    Layer by layer: the one-to-one matching with the largest sum of cosines between incoming weights
    and biases (the Hungarian method), where the inputs of a layer are those that were matched
    before. The sign counts: an odd function with all signs turned is not found.

    Returns:
        Per layer int [N]: neuron n of `one` is paired with neuron result[n] of `other`.
    """
    matches: list[np.ndarray] = []
    for (kernel, bias), (other_kernel, other_bias) in zip(one, other, strict=True):
        if matches:
            other_kernel = other_kernel[matches[-1]]
        similarity = _directions(kernel, bias).T @ _directions(other_kernel, other_bias)
        matches.append(linear_sum_assignment(similarity, maximize=True)[1])
    return matches


def _directions(kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Incoming weights and bias of every neuron, of length 1: [inputs + 1, N]."""
    columns = np.concatenate([kernel, bias[None]])
    return columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-30)


def agreement(
    choices: np.ndarray,
    matches: Mapping[tuple[int, int], np.ndarray],
    *,
    resamples: int = 999,
    seed: int = 0,
) -> Agreement:
    """Agreement of the choices of matched neurons, against choices permuted within each seed.

    Args:
        choices: [S, N] of one layer.
        matches: [N] of this layer by pair of seeds, as places in `choices`, from `match_neurons`.
        resamples: permutations; the smallest p is 1 / (resamples + 1).
        seed: of the permutations.
    """
    ones, others = np.array(list(matches)).T
    places = np.stack(list(matches.values()))  # [pairs, N]

    def share(choices: np.ndarray) -> float:
        return float(np.mean(choices[ones] == np.take_along_axis(choices[others], places, 1)))

    functions = np.arange(choices.max() + 1)
    shares = (choices[..., None] == functions).mean(1)  # [S, K]
    chance = float(np.mean(np.sum(shares[ones] * shares[others], -1)))
    found, rng = share(choices), np.random.default_rng(seed)
    permuted = np.array([share(rng.permuted(choices, axis=1)) for _ in range(resamples)])
    as_extreme = np.sum(permuted >= found - 1e-12)
    return Agreement(found, chance, float((as_extreme + 1) / (resamples + 1)))


def matches_of_pairs(networks: Sequence[Weights]) -> list[dict[tuple[int, int], np.ndarray]]:
    """`match_neurons` of every pair of networks: per layer, by pair."""
    pairs = list(itertools.combinations(range(len(networks)), 2))
    found = [match_neurons(networks[a], networks[b]) for a, b in pairs]
    return [dict(zip(pairs, of_layer, strict=True)) for of_layer in zip(*found, strict=True)]


# Weights between functions


class Wiring(NamedTuple):
    """How large the weights are between neurons of one function and those of the next layer's.

    Attributes:
        ratio: [K, K] from a to b: mean |weight| over the mean |weight| of the layer, the mean over
            the seeds that have both; NaN where none has.
        p_value: [K, K], two-sided, of a ratio of 1; NaN there too.
    """

    ratio: np.ndarray
    p_value: np.ndarray


def wiring(
    kernels: np.ndarray,
    choices: np.ndarray,
    next_choices: np.ndarray,
    functions: int,
    *,
    resamples: int = 999,
    seed: int = 0,
) -> Wiring:
    """Mean |weight| between functions, against choices permuted within both layers.

    The ratio of permuted choices is 1 on average, exactly.

    Args:
        kernels: [S, N, M], of the layer between.
        choices, next_choices: [S, N], [S, M].
        functions: K.
        resamples: permutations; the smallest p is 1 / (resamples + 1). For m tests in a family that
            `statistics.holm` adjusts, 100 m are enough.
        seed: of the permutations.
    """
    sizes = np.abs(np.asarray(kernels, np.float32))
    sizes = sizes / sizes.mean((1, 2), keepdims=True)
    (found,) = _ratios(sizes, choices[None], next_choices[None], functions)
    rng, as_extreme = np.random.default_rng(seed), np.ones_like(found)
    for first in range(0, resamples, AT_ONCE):
        count = min(AT_ONCE, resamples - first)
        start, end = (
            rng.permuted(np.broadcast_to(each, (count, *each.shape)), axis=2)
            for each in (choices, next_choices)
        )
        ratios = _ratios(sizes, start, end, functions)
        as_extreme += np.sum(np.abs(ratios - 1) >= np.abs(found - 1) - 1e-6, 0)
    p_value = np.where(np.isnan(found), np.nan, as_extreme / (resamples + 1))
    return Wiring(found.astype(np.float64), p_value)


AT_ONCE = 64
"""Permutations in one product of matrices, which is then several times as fast."""


def _ratios(
    sizes: np.ndarray, choices: np.ndarray, next_choices: np.ndarray, functions: int
) -> np.ndarray:
    """Ratios of P permutations, [P, K, K]; sizes [S, N, M], choices [P, S, N] and [P, S, M]."""
    totals = np.zeros((len(choices), functions, functions), np.float32)
    seeds = np.zeros_like(totals)
    for seed, size in enumerate(sizes):
        start, end = (
            (each[:, seed, :, None] == np.arange(functions)).astype(np.float32)
            for each in (choices, next_choices)
        )  # [P, N, K] and [P, M, K]
        to_end = np.tensordot(size, end, (1, 1)).swapaxes(0, 1)  # [P, N, K]
        sums = start.swapaxes(1, 2) @ to_end
        weights = start.sum(1)[:, :, None] * end.sum(1)[:, None]
        totals += sums / np.maximum(weights, 1)
        seeds += weights > 0
    return np.where(seeds > 0, totals / np.maximum(seeds, 1), np.nan)
