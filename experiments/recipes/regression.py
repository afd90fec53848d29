"""Does the choosing help to fit functions? Two-phase selection, its controls, uniform networks.

    python -m experiments.recipes.regression [--targets product_sine ...]

Networks d-64-64-1, preset `recommended` (6,000 steps), twelve targets, seeds 0-4: 840 runs, about
40 minutes on one CPU core. Beside the controls: phase 1 as it was up to 2026-11-25, and a uniform
network that had the noise of phase 1 (functions drawn at random, none learned). Expected:
experiments/LOG.md.
"""

import sys
from typing import Any

from experiments import recipes
from experiments.data.targets import FIRST
from experiments.presets import default_config
from smartmixed_jax import REGRESSION_POOL

AS_IT_WAS = recipes.AS_IT_WAS | {
    "learning_rate": 3e-3,
    "logit_learning_rate": 1e-2,
    "clip": 1.0,
    "selective_epochs": 20,
    "mixed_epochs": 40,
}
NOISE: dict[str, Any] = {"start": "gauss", "start_probability": 0.13, "logit_learning_rate": 0.0}
"""Draws that are nearly uniform, 1/8 each; at the switch every neuron is gauss."""


def study(target: str) -> recipes.Study:
    base = default_config("recommended", f"function:{target}")
    return recipes.study(
        base, range(5), uniform=REGRESSION_POOL.names, as_it_was=AS_IT_WAS, noise=NOISE
    )


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=FIRST, default=list(FIRST))
    sys.exit(recipes.run_studies([study(target) for target in parser.parse_args().targets]))
