"""Temporaries of forward+backward, as the compiler reports them, in units of one [B, N] float32.

`alone` is act(x) with the results y and dx; `layer` is act(x @ W + b) with y, dx, dW and db,
where what the activation saves for its backward pass must be held. A selective layer draws its
choices and returns the gradient to its logits too. Arguments and results do not count. Nothing is
timed: --rounds changes nothing.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks import activation, harness, layer
from experiments.benchmarks.harness import Row
from experiments.benchmarks.strategies import Strategy, strategies
from smartmixed_jax import Selection, estimators

VARIANTS = (
    "relu",
    "selu",
    "fixed",
    "fixed, where chain",
    "selective",
    "selective, where chain",
    "selective, one-hot einsum",
)


def measure(options: argparse.Namespace) -> list[Row]:
    """A row for each context and strategy, a column for each batch size."""
    features = 16 if options.smoke else 512
    batches = [8] if options.smoke else [128, 1024, 8192]
    results = []
    for context, program in {"alone": activation, "layer": layer}.items():
        for name in VARIANTS:
            strategy = strategies(features)[name]
            row: Row = {"context": context, "neurons": features, "variant": name}
            for batch in batches:
                inputs = program.draw(batch, features, "float32", 0)
                compiled = compile_drawing(program.forward_and_backward, strategy, inputs)
                if batch == batches[0]:
                    check(f"{name} ({context})", compiled, program.expectation, strategy, inputs)
                temporaries = compiled.memory_analysis().temp_size_in_bytes
                row[f"B={batch}"] = temporaries / (4 * batch * features)
            results.append(row)
    return results


def compile_drawing(
    make: Callable[[Strategy], Callable[..., Any]], strategy: Strategy, inputs: tuple[Any, ...]
) -> Any:
    """(…, selection, g) → (…, d weights), compiled as (…, logits, key, g) → (…, d logits)."""
    run = make(strategy)

    def drawn(logits: jax.Array, key: jax.Array, *arrays: Any) -> tuple[jax.Array, ...]:
        *others, g = arrays
        selection, pullback = draw(logits, key)
        outputs = run(*others, selection, g)
        return (*outputs[:-1], *pullback(outputs[-1])) if strategy.selective else outputs

    *others, selection, g = inputs
    return jax.jit(drawn).lower(*logits_and_key(selection), *others, g).compile()


def logits_and_key(selection: Selection) -> tuple[jax.Array, jax.Array]:
    """Random logits for the neurons of a selection, and a key."""
    return jax.random.normal(jax.random.key(1), selection.weights.shape), jax.random.key(2)


def draw(logits: jax.Array, key: jax.Array) -> tuple[Selection, Callable[..., Any]]:
    """A Selection, and what takes a gradient to its weights to the logits."""

    def select(logits: jax.Array) -> tuple[jax.Array, Any]:
        selection = estimators.gumbel_straight_through(logits, key, 1.0)
        return selection.weights, selection.choices

    weights, pullback, choices = jax.vjp(select, logits, has_aux=True)
    return Selection(weights, choices), pullback


def check(
    name: str,
    compiled: Any,
    expectation: Callable[..., Any],
    strategy: Strategy,
    inputs: tuple[Any, ...],
) -> None:
    """BenchmarkError if the compiled function disagrees with float64."""
    *others, selection, g = inputs
    logits, key = logits_and_key(selection)
    drawn, pullback = draw(logits, key)
    *expected, weights = expectation((*others, drawn, g))(strategy)
    if strategy.selective:
        expected += pullback(weights.astype(np.float32))
    harness.require_close(name, compiled(logits, key, *others, g), expected, 1e-3)


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("memory", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
