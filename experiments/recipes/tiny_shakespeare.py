"""Does the choosing help in a character Transformer? Learned choices, controls, uniform networks.

    python -m experiments.recipes.tiny_shakespeare [--pool paper modern] [--data-dir FOLDER]

nanoGPT's small setting for a CPU (4 layers, 4 heads, 128 wide, context 64, 2,000 steps of 12); the
hidden units of every MLP choose among the paper's six functions, or the ten of the modern pool.
In the modern pool every neuron starts from relu², the best of its uniform networks. Seeds 0-4; a
run takes 1 to 3 minutes on one CPU core. Of the uniform networks those whose validation loss is
near the best after 1,000 steps; the others are 0.1 nats and more behind.
Expected: experiments/LOG.md.
"""

import dataclasses
import sys

from experiments import recipes
from experiments.presets import default_config

UNIFORM = {
    "paper": ("relu", "leaky_relu"),
    "modern": ("squared_relu",),
}


def study(pool: str, data_dir: str | None) -> recipes.Study:
    start = "squared_relu" if pool == "modern" else "auto"
    base = dataclasses.replace(
        default_config(task="tiny_shakespeare"), pool=pool, start=start, data_dir=data_dir
    )
    return recipes.study(base, range(5), controls=("shuffled", "random"), uniform=UNIFORM[pool])


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--pool", nargs="+", choices=UNIFORM, default=list(UNIFORM))
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    sys.exit(recipes.run_studies([study(pool, options.data_dir) for pool in options.pool]))
