"""Does the choosing help on digits? Learned choices beside their controls and uniform networks.

    python -m experiments.recipes.digits

Preset `recommended`, seeds 0-9: 110 runs of about a second each, nothing to download. Expected:
experiments/LOG.md.
"""

import sys

from experiments import recipes
from experiments.presets import default_config
from smartmixed_jax import PAPER_POOL


def study() -> recipes.Study:
    base = default_config(task="digits")
    return recipes.study(base, range(10), uniform=PAPER_POOL.names, as_it_was=recipes.AS_IT_WAS)


if __name__ == "__main__":
    recipes.Parser(description=__doc__).parse_args()
    sys.exit(recipes.run_studies([study()]))
