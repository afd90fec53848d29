"""One program per published result; its docstring says what it reproduces and how long it takes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import plots, report
from experiments.config import Config
from experiments.run import run
from experiments.run_folder import folder_of


def crossed(
    base: Config, variants: Sequence[Mapping[str, Any]], seeds: Sequence[int]
) -> list[Config]:
    """Every variant (fields that it changes) with every seed."""
    return [
        dataclasses.replace(base, seed=seed, **variant) for variant in variants for seed in seeds
    ]


def run_all(configs: Sequence[Config]) -> None:
    """Runs the configs of one task, prints their comparison and draws it beside the runs."""
    folders = [run(config) for config in configs]
    print(f"\n{report.compare(folders)}\n")
    comparison = folder_of(configs[0]).parent / "comparison.png"
    for path in plots.draw_comparison(folders, comparison):
        print(path)
