"""Does the choosing help in ResNet-20 on CIFAR-10? Learned and random choices beside ReLU.

    python -m experiments.recipes.cifar10 [--epochs 60] [--data-dir FOLDER]

Every channel chooses. Preset `recommended` for cifar10: gradient descent with momentum, a cosine
from 0.1, augmentation; phase 1 is a third of the epochs. Seeds 0-2, 15 runs. An epoch takes 2 to 3
minutes on one CPU core with the memory settings of experiments/LOG.md, 2026-11-24, which has the
expected numbers too; hence --epochs 10.
"""

import dataclasses
import math
import sys

from experiments import recipes
from experiments.presets import default_config


def study(epochs: int, data_dir: str | None) -> recipes.Study:
    selective = math.ceil(epochs / 3)
    base = dataclasses.replace(
        default_config(task="cifar10"),
        selective_epochs=selective,
        mixed_epochs=epochs - selective,
        data_dir=data_dir,
    )
    return recipes.study(
        base,
        range(3),
        controls=("shuffled", "random"),
        uniform=["relu"],
        as_it_was=recipes.AS_IT_WAS,
    )


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    sys.exit(recipes.run_studies([study(options.epochs, options.data_dir)]))
