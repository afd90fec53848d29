"""Does the choosing help in ResNet-20 on CIFAR-10? Learned and random choices beside ReLU.

    python -m experiments.recipes.cifar10 [--epochs 60] [--data-dir FOLDER]

Every channel chooses. Preset `recommended` for cifar10: gradient descent with momentum, a cosine
from 0.1, augmentation; phase 1 is a third of the epochs. Seeds 0-2, 9 runs. An epoch takes 2 to 3
minutes on one CPU core with the memory settings of experiments/LOG.md, 2026-11-24, which has the
expected numbers too; hence --epochs 10.
"""

import dataclasses
import math
import sys
from typing import Any

from experiments import recipes
from experiments.config import Config
from experiments.names import run_name
from experiments.presets import default_config

VARIANTS: tuple[dict[str, Any], ...] = ({}, {"control": "random"}, {"method": "uniform:relu"})


def configs(epochs: int, data_dir: str | None) -> list[Config]:
    selective = math.ceil(epochs / 3)
    base = dataclasses.replace(
        default_config(task="cifar10"),
        selective_epochs=selective,
        mixed_epochs=epochs - selective,
        data_dir=data_dir,
    )
    return [
        dataclasses.replace(config, run_dir=f"runs/cifar10-{epochs}-epochs/{run_name(config)}")
        for config in recipes.crossed(base, VARIANTS, seeds=(0, 1, 2))
    ]


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    sys.exit(recipes.run_all(configs(options.epochs, options.data_dir)))
