"""Does the choosing help to fit functions? Two-phase selection, its controls, uniform networks.

    python -m experiments.recipes.regression

Networks d-64-64-1, preset `recommended` (6,000 steps), three targets, seeds 0-2: 117 runs, about
4 minutes on 2 CPU cores. `reinitialized`: phase 2 starts from new weights and trains for 4,000
steps. Expected: experiments/LOG.md, 2026-11-23.
"""

import sys
from typing import Any

from experiments import recipes
from experiments.config import Config
from experiments.presets import default_config
from smartmixed_jax import REGRESSION_POOL

TARGETS = ("product_sine", "normal_density", "kinks")
CONTROLS: tuple[dict[str, Any], ...] = (
    {},
    {"control": "shuffled"},
    {"control": "random"},
    {"carry_weights": False},
    {"control": "shuffled", "carry_weights": False},
)


def configs(target: str) -> list[Config]:
    base = default_config("recommended", f"function:{target}")
    variants = [*CONTROLS, *({"method": f"uniform:{name}"} for name in REGRESSION_POOL.names)]
    return recipes.crossed(base, variants, seeds=(0, 1, 2))


if __name__ == "__main__":
    sys.exit(recipes.run_all(*map(configs, TARGETS)))
