"""One layer, act(x @ W + b), forward and forward+backward: what the activation adds to a matrix
product. The gradients are those to x, W and b, and to the weights of a drawn selection.
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

# A GPU multiplies float32 matrices in TF32, which rounds the backward pass to 11 bits.
TOLERANCES = {"float32": 1e-3, "bfloat16": 2e-2}


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows for each size, pass and strategy; ratios to uniform ReLU and SELU."""
    large = (1024, 1024) if jax.default_backend() == "cpu" else (8192, 4096)
    results = []
    for batch, features in [(8, 64)] if options.smoke else [(128, 512), large]:
        inputs = [
            draw(batch, features, options.dtype, seed) for seed in range(2 if options.smoke else 4)
        ]
        expect = expectation(inputs[0])
        for name, make in {"forward": forward, "forward+backward": forward_and_backward}.items():
            variants = checked_variants(make, inputs, expect, TOLERANCES[options.dtype])
            # A small layer takes less than a millisecond.
            calls = max(3, 2**20 // (batch * features))
            times = harness.time_interleaved(variants, rounds=options.rounds, calls=calls)
            setting = {"pass": name, "shape": (batch, features), "dtype": options.dtype}
            results += harness.rows(times, ("relu", "selu"), **setting)
    return results


def draw(batch: int, features: int, dtype: str, seed: int) -> tuple[Any, ...]:
    """x [B, N], W [N, N], b [N], a Selection of N neurons, g [B, N].

    x, W and b lie on grids so coarse that x @ W + b is exact in float32, in TF32 and up to its
    last rounding in bfloat16, and never 0: no pre-activation has another sign, and with it another
    slope, than in float64.
    """
    keys = jax.random.split(jax.random.key(seed), 5)
    fan = 2 ** round(np.log2(features) / 2)
    x = jax.random.randint(keys[0], (batch, features), -8, 9) / 4
    kernel = jax.random.randint(keys[1], (features, features), -8, 9) / (4 * fan)
    bias = (2 * jax.random.randint(keys[2], (features,), -8, 8) + 1) / (32 * fan)
    g = jax.random.normal(keys[3], (batch, features))
    x, kernel, bias, g = (array.astype(dtype) for array in (x, kernel, bias, g))
    return x, kernel, bias, draw_selection(features, keys[4]), g


def forward(strategy: Strategy) -> Callable[..., tuple[jax.Array, ...]]:
    """(x, W, b, selection, g) → (y,)."""
    return lambda x, kernel, bias, selection, g: (strategy.apply(x @ kernel + bias, selection),)


def forward_and_backward(strategy: Strategy) -> Callable[..., tuple[jax.Array, ...]]:
    """(x, W, b, selection, g) → (y, dx, dW, db), and d weights [N, K] if selective."""

    def run(x: Any, kernel: Any, bias: Any, selection: Selection, g: Any) -> tuple[jax.Array, ...]:
        def apply(x: Any, kernel: Any, bias: Any, weights: Any) -> jax.Array:
            return strategy.apply(x @ kernel + bias, Selection(weights, selection.choices))

        y, pullback = jax.vjp(apply, x, kernel, bias, selection.weights)
        gradients = pullback(g)
        return y, *(gradients if strategy.selective else gradients[:3])

    return run


def expectation(inputs: tuple[Any, ...]) -> Callable[[Strategy], tuple[np.ndarray, ...]]:
    """strategy → y, dx, dW, db and d weights on the given input, in float64."""
    x, kernel, bias = (np.asarray(array, np.float64) for array in inputs[:3])
    selection, g = inputs[3:]
    reference = evaluate_reference(x @ kernel + bias, g)

    def expect(strategy: Strategy) -> tuple[np.ndarray, ...]:
        y, dz, weights = reference.expect(strategy, selection)
        return y, dz @ kernel.T, x.T @ dz, dz.sum(0), weights

    return expect


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    parser = harness.parser("layer", __doc__)
    parser.add_argument("--dtype", choices=sorted(TOLERANCES), default="float32")
    return harness.run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
