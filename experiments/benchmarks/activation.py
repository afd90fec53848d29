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

from experiments.benchmarks import harness, strategies
from experiments.benchmarks.harness import Row
from smartmixed_jax import PAPER_POOL, estimators

TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
PASSES = {
    "forward": strategies.forward,
    "forward+backward": strategies.forward_and_backward,
}


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows for each size, pass and strategy; ratios to uniform ReLU and SELU."""
    sizes = [(2048, 512)] if jax.default_backend() == "cpu" else [(2048, 512), (8192, 4096)]
    if options.smoke:
        sizes = [(16, 64)]
    results = []
    for shape in sizes:
        # Several, or a GPU's L2 would serve the input of one call to the next.
        inputs = [draw(shape, options.dtype, seed) for seed in range(2 if options.smoke else 4)]
        for name, make in PASSES.items():
            times = harness.time_interleaved(
                checked_variants(make, inputs, options.dtype), rounds=options.rounds, calls=5
            )
            setting = {"pass": name, "shape": shape, "dtype": options.dtype}
            results += harness.rows(times, ("relu", "selu"), **setting)
    return results


def draw(shape: tuple[int, int], dtype: str, seed: int) -> tuple[Any, ...]:
    """x [B, N] from N(0, 4), a Selection of N neurons, g [B, N] from N(0, 1)."""
    keys = jax.random.split(jax.random.key(seed), 4)
    logits = jax.random.normal(keys[0], (shape[1], len(PAPER_POOL)))
    selection = estimators.gumbel_straight_through(logits, keys[1], 1.0)
    x, g = 2 * jax.random.normal(keys[2], shape), jax.random.normal(keys[3], shape)
    return x.astype(dtype), selection, g.astype(dtype)


def checked_variants(
    make: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], dtype: str
) -> dict[str, harness.Variant]:
    """Every strategy compiled for one pass; BenchmarkError if one disagrees with float64."""
    x, selection, g = inputs[0]
    reference = strategies.evaluate_reference(x, g)
    variants = {}
    for name, strategy in strategies.strategies(x.shape[1]).items():
        function = jax.jit(make(strategy))
        outputs = function(x, selection, g)
        expected = reference.expect(strategies.selected_names(strategy, selection))
        harness.require_close(name, outputs, expected[: len(outputs)], TOLERANCES[dtype])
        variants[name] = rotating(function, inputs)
    return variants


def rotating(function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> harness.Variant:
    """Call number i on input i modulo their number."""
    return lambda i: function(*inputs[i % len(inputs)])


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    parser = harness.parser("activation", __doc__)
    parser.add_argument("--dtype", choices=sorted(TOLERANCES), default="float32")
    return harness.run(parser, measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
