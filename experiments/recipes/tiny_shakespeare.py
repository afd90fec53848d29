"""Does the choosing help in a character Transformer? Its controls, and GELU and ReLU everywhere.

    python -m experiments.recipes.tiny_shakespeare [--data-dir FOLDER]

nanoGPT's small setting for a CPU (4 layers, 4 heads, 128 wide, context 64, 2,000 steps of 12); the
hidden units of every MLP choose among the 15 functions of the extended pool. Seeds 0-2, 15 runs of
2 to 4 minutes each on one CPU core. Expected: experiments/LOG.md, 2026-11-24.
"""

import dataclasses
import sys
from typing import Any

from experiments import recipes
from experiments.config import Config
from experiments.presets import default_config

VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"control": "shuffled"},
    {"control": "random"},
    {"method": "uniform:gelu"},
    {"method": "uniform:relu"},
)


def configs(data_dir: str | None) -> list[Config]:
    base = dataclasses.replace(
        default_config(task="tiny_shakespeare"), pool="extended", data_dir=data_dir
    )
    return recipes.crossed(base, VARIANTS, seeds=(0, 1, 2))


if __name__ == "__main__":
    parser = recipes.Parser(description=__doc__)
    parser.add_argument("--data-dir")
    sys.exit(recipes.run_all(configs(parser.parse_args().data_dir)))
