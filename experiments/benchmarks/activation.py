"""The activation alone, forward and forward+backward: fixed and selective layers against
uniform ones and against other ways to compute the same.

A selective layer gets its Selection drawn; its backward pass includes the gradient to the weights
of the selection. On a GPU 2048×512 mostly measures the dispatch; the second size does not.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import harness
from experiments.benchmarks.harness import Row
from experiments.benchmarks.strategies import (
    Strategy,
    checked_variants,
    draw_selection,
    evaluate_reference,
)
from smartmixed_jax import Selection

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows for each size, pass and strategy; ratios to uniform ReLU and SELU."""
    sizes = [(2048, 512)] if jax.default_backend() == "cpu" else [(2048, 512), (8192, 4096)]
    results = []
    for shape in [(16, 64)] if options.smoke else sizes:
        # Several, or a GPU's L2 would serve the input of one call to the next.
        inputs = [draw(*shape, options.dtype, seed) for seed in range(2 if options.smoke else 4)]
        expect = expectation(inputs[0])
        for name, make in {"forward": forward, "forward+backward": forward_and_backward}.items():
            variants = checked_variants(make, inputs, expect, TOLERANCES[options.dtype])
            times = harness.time_interleaved(variants, rounds=options.rounds, calls=5)
            setting = {"pass": name, "shape": shape, "dtype": options.dtype}
            results += harness.rows(times, ("relu", "selu"), **setting)
    return results


def draw(batch: int, features: int, dtype: str, seed: int) -> tuple[Any, ...]:
    """x [B, N] from N(0, 4), a Selection of N neurons, g = dL/dy [B, N] from N(0, 1)."""
    keys = jax.random.split(jax.random.key(seed), 3)
    x = 2 * jax.random.normal(keys[0], (batch, features))
    g = jax.random.normal(keys[1], (batch, features))
    return x.astype(dtype), draw_selection(features, keys[2]), g.astype(dtype)


def forward(strategy: Strategy) -> Callable[..., tuple[jax.Array, ...]]:
    """(x, selection, g) → (y,)."""
    return lambda x, selection, g: (strategy.apply(x, selection),)


def forward_and_backward(strategy: Strategy) -> Callable[..., tuple[jax.Array, ...]]:
    """(x, selection, g) → (y, dx), and d weights [N, K] if selective."""

    def run(x: jax.Array, selection: Selection, g: jax.Array) -> tuple[jax.Array, ...]:
        def apply(x: jax.Array, weights: jax.Array) -> jax.Array:
            return strategy.apply(x, Selection(weights, selection.choices))

        y, pullback = jax.vjp(apply, x, selection.weights)
        gradients = pullback(g)
        return y, *(gradients if strategy.selective else gradients[:1])

    return run


def expectation(inputs: tuple[Any, ...]) -> Callable[[Strategy], tuple[np.ndarray, ...]]:
    """strategy → y, dx and d weights on the given input, in float64."""
    x, selection, g = inputs
    reference = evaluate_reference(x, g)
    return lambda strategy: reference.expect(strategy, selection)


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    parser = harness.parser("activation", __doc__)
    parser.add_argument("--dtype", choices=sorted(TOLERANCES), default="float32")
    return harness.run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
