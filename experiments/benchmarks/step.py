"""A full training step of a 784-512-256-128-64-10 network, batch 128, Adam, cross-entropy.

Phase 1 draws new functions in every step and trains the logits; phase 2 has random fixed choices.
20 steps are one compiled scan with donated state, so that dispatch does not dominate.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments.benchmarks import harness, networks
from experiments.benchmarks.harness import Row
from smartmixed_jax import PAPER_POOL, estimators


def measure(options: argparse.Namespace) -> list[Row]:
    """Rows of the seconds per step of each network; ratios to uniform ReLU and SELU."""
    widths = networks.SMOKE_WIDTHS if options.smoke else networks.WIDTHS
    batch, steps = (8, 2) if options.smoke else (128, 20)
    general = PAPER_POOL.with_form("general")
    models = {name: networks.build_uniform(widths, name) for name in ("relu", "selu", "gelu")}
    sampled = {"estimator": estimators.sampled_straight_through}
    models |= {
        f"phase 1, sampled, draws {draws}": networks.build_selective(
            widths, PAPER_POOL, draws=draws, **sampled
        )
        for draws in (1, 4 if options.smoke else 16, "example")
    }
    models |= {
        "phase 1": networks.build_selective(widths, PAPER_POOL),
        "phase 1, where chain": networks.build_selective(widths, general),
        "phase 2": networks.build_mixed(widths, PAPER_POOL),
        "phase 2, where chain": networks.build_mixed(widths, general),
    }
    batches = [networks.draw_batches(widths, batch, steps, seed) for seed in range(3)]
    variants = {}
    for name, (model, names) in models.items():
        networks.check(name, model, names, batches[0])
        variants[name] = networks.make_variant(model, batches)
    variants["phase 2, Linen"] = networks.make_linen_variant(widths, PAPER_POOL, batches)
    times = harness.time_interleaved(variants, rounds=options.rounds, calls=1)
    per_step = {name: seconds / steps for name, seconds in times.items()}
    return harness.rows(per_step, ("relu", "selu", "phase 2"), widths=widths, batch=batch)


def main(arguments: Sequence[str]) -> int:
    """Measures; returns the exit status."""
    return harness.run(harness.parser("step", __doc__), measure, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
