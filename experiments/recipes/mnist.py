"""Does the choosing help on MNIST? Learned choices beside their controls and six uniform networks.

    python -m experiments.recipes.mnist [--data-dir FOLDER]

Architecture 3, preset `recommended`, 30 epochs, seeds 0-4: 55 runs of about 40 s each on one CPU
core. The runs of a seed share the split, the initial weights and the batches. Expected:
experiments/LOG.md.
"""

import dataclasses
import sys

from experiments import recipes
from experiments.presets import default_config
from smartmixed_jax import PAPER_POOL


def study(data_dir: str | None) -> recipes.Study:
    base = dataclasses.replace(default_config("recommended", "mnist"), data_dir=data_dir)
    return recipes.study(base, range(5), uniform=PAPER_POOL.names, as_it_was=recipes.AS_IT_WAS)


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--data-dir")
    sys.exit(recipes.run_studies([study(parser.parse_args().data_dir)]))
