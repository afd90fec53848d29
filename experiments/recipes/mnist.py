"""Does the choosing help on MNIST? Learned choices beside their controls and six uniform networks.

    python -m experiments.recipes.mnist [--data-dir FOLDER]

Architecture 3, preset `recommended`, 30 epochs, seeds 0-2: 27 runs of about 30 s each on 2 CPU
cores. The runs of a seed share the split, the initial weights and the batches. Expected: all
methods but uniform sigmoid within 98.2-98.6 % (experiments/LOG.md, 2026-11-23).
"""

import dataclasses
import sys

from experiments import recipes
from experiments.config import Config
from experiments.presets import default_config
from smartmixed_jax import PAPER_POOL

CONTROLS: tuple[dict[str, str], ...] = ({}, {"control": "shuffled"}, {"control": "random"})


def configs(data_dir: str | None) -> list[Config]:
    base = dataclasses.replace(default_config("recommended", "mnist"), data_dir=data_dir)
    variants = [*CONTROLS, *({"method": f"uniform:{name}"} for name in PAPER_POOL.names)]
    return recipes.crossed(base, variants, seeds=(0, 1, 2))


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--data-dir")
    sys.exit(recipes.run_all(configs(parser.parse_args().data_dir)))
