"""How the settings of `recommended` were chosen: phase 1's variants, on validation data only.

    python -m experiments.recipes.search functions_noise [--seeds 0 1 2] [--data-dir FOLDER]

A stage trains variants of the preset with every seed, on each of its tasks, and prints their
validation losses beside the first variant: paired by task and seed, means with 95 % intervals
(Student's t). Test data are not looked at. experiments/LOG.md says what each stage was for, what
came out, and what was decided.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import recipes, statistics
from experiments.command_line import exit_status
from experiments.config import Config
from experiments.data.image_function import NAMES
from experiments.data.targets import FIRST
from experiments.names import run_name
from experiments.presets import AVERAGED, default_config
from experiments.recipes import images, pde, suite
from experiments.report import format_table
from experiments.run_folder import RunError, read_finished
from experiments.training.compilation import keep_compilations
from experiments.training.parallel import train_all
from smartmixed_jax import MODERN_POOL

BEFORE = recipes.AS_IT_WAS
SAMPLED = BEFORE | {
    "estimator": "sampled_straight_through",
    "temperature": 1.0,
    "final_temperature": 1.0,
    "draws": 16,
}
ANNEALED = SAMPLED | {"final_noise": 0.0}
NO_NOISE = BEFORE | {"estimator": "straight_through"}
FROM_RELU = {"start": "relu", "start_probability": 0.9}
FROM_SIN = AVERAGED | {"start": "sin"}
QUIET = NO_NOISE | FROM_RELU | {"final_temperature": 2.0}
SLOWLY = {"learning_rate": 3e-3, "logit_learning_rate": 1e-2, "clip": 1.0}
FAST = ANNEALED | {"learning_rate": 2e-2, "clip": 1.0}
TWO = {"temperature": 2.0, "final_temperature": 2.0}
SIXTH = {"selective_epochs": 10, "mixed_epochs": 50}
SHORT = FAST | TWO | {"clip": 0.5}
THIRD = {"selective_epochs": 20, "mixed_epochs": 40}


class Stage(NamedTuple):
    """Variants by name, each as changes of `recommended`, on some tasks."""

    tasks: tuple[str, ...]
    variants: dict[str, dict[str, Any]]
    common: dict[str, Any] = {}  # noqa: RUF012
    ratios: bool = False
    """Compare losses by their ratio, not their difference."""


def uniform(*names: str, **changes: Any) -> dict[str, dict[str, Any]]:
    return {f"uniform {name}": {"method": f"uniform:{name}", **changes} for name in names}


EIGHT = {"pool": "smooth"}
TABLES = tuple(f"table:{name}.csv" for name in ("concrete", "energy", "yacht"))
FUNCTIONS = tuple(f"function:{name}" for name in FIRST)

RATES = (5e-2, 2e-2, 1e-2, 5e-3, 2e-3)
CAMERA = ("image:camera",)
IMAGES = tuple(f"image:{name}" for name in NAMES)
SHORT_IMAGE = {"selective_epochs": 1, "mixed_epochs": 5}
SHORT_TEXT = {"selective_epochs": 4, "mixed_epochs": 6, "pool": "modern"}
STAGES = {
    "functions_noise": Stage(
        FUNCTIONS,
        {
            "as it was": BEFORE,
            "sampled, a draw per batch": SAMPLED | {"draws": 1},
            "sampled, 16 draws": SAMPLED,
            "sampled, a draw per example": SAMPLED | {"draws": 0},
            "sampled, 16 draws, noise 1 to 0": ANNEALED,
            "no noise": NO_NOISE | {"temperature": 1.0, "final_temperature": 1.0},
        },
        common=SLOWLY | THIRD,
        ratios=True,
    ),
    "functions_rates": Stage(
        FUNCTIONS,
        {
            "16 draws, noise 1 to 0": ANNEALED,
            "a draw per example, noise 1 to 0": ANNEALED | {"draws": 0},
            "logits unclipped": ANNEALED | {"clip_together": False},
            "logit rate 3e-2": ANNEALED | {"logit_learning_rate": 3e-2},
            "logit rate 3e-3": ANNEALED | {"logit_learning_rate": 3e-3},
            "half of it phase 1": ANNEALED | {"selective_epochs": 30, "mixed_epochs": 30},
            "a sixth of it phase 1": ANNEALED | {"selective_epochs": 10, "mixed_epochs": 50},
            "smooth pool": ANNEALED | {"pool": "smooth"},
        },
        common=SLOWLY | THIRD,
        ratios=True,
    ),
    "functions_speed": Stage(
        FUNCTIONS,
        {
            "rate 1e-2": FAST | {"learning_rate": 1e-2},
            "rate 2e-2": FAST,
            "rate 3e-2": FAST | {"learning_rate": 3e-2},
            "rate 2e-2, logits unclipped": FAST | {"clip_together": False},
            "rate 2e-2, logit rate 0.1": FAST | {"logit_learning_rate": 0.1},
            **uniform("gauss", learning_rate=2e-2, clip=1.0),
        },
        common=THIRD,
        ratios=True,
    ),
    "functions_start": Stage(
        FUNCTIONS,
        {
            "rate 2e-2": FAST,
            "from gauss 0.5": FAST | {"start": "gauss", "start_probability": 0.5},
            "from gauss 0.9": FAST | {"start": "gauss"},
            "from gauss 0.9, no noise": NO_NOISE
            | {"start": "gauss", "learning_rate": 2e-2, "final_temperature": 1.0},
            "a draw per example": FAST | {"draws": 0},
            "a sixth of it phase 1": FAST | SIXTH,
            "temperature 2": FAST | TWO,
        },
        common=THIRD,
        ratios=True,
    ),
    "functions_temperature": Stage(
        FUNCTIONS,
        {
            "temperature 1": FAST,
            "temperature 2": FAST | TWO,
            "temperature 4": FAST | {"temperature": 4.0, "final_temperature": 4.0},
            "a draw per example": FAST | TWO | {"draws": 0},
            "rate 3e-2": FAST | TWO | {"learning_rate": 3e-2},
            "clip 0.2": FAST | TWO | {"clip": 0.2},
            "a sixth of it phase 1": FAST | TWO | SIXTH,
            "a sixth, variance matched": FAST | TWO | SIXTH | {"variance_matched": True},
            "a sixth, torch": FAST | TWO | SIXTH | {"initialization": "torch"},
            "a sixth, clip 0.2": FAST | TWO | SIXTH | {"clip": 0.2},
            "a sixth, clip 0.5": FAST | TWO | SIXTH | {"clip": 0.5},
            "a sixth, rate 3e-2": FAST | TWO | SIXTH | {"learning_rate": 3e-2},
            "a sixth, one cosine": FAST | TWO | SIXTH | {"schedule": "cosine"},
        },
        common=THIRD,
        ratios=True,
    ),
    "functions_length": Stage(
        FUNCTIONS,
        {
            "a sixth of it phase 1": SHORT | SIXTH,
            "a twelfth": SHORT | {"selective_epochs": 5, "mixed_epochs": 55},
            "a twentieth": SHORT | {"selective_epochs": 3, "mixed_epochs": 57},
            "a twelfth, logit rate 6e-2": SHORT
            | {"selective_epochs": 5, "mixed_epochs": 55, "logit_learning_rate": 6e-2},
            "a third": SHORT | THIRD,
            "half": SHORT | {"selective_epochs": 30, "mixed_epochs": 30},
        },
        ratios=True,
    ),
    "functions_clip": Stage(
        FUNCTIONS,
        {
            "clip 0.5": {"clip": 0.5},
            "clip 0.1": {"clip": 0.1},
            "clip 0.03": {"clip": 0.03},
            "clip 0.01": {"clip": 0.01},
            "clip 0.03, rate 4e-2": {"clip": 0.03, "learning_rate": 4e-2},
            "clip 0.03, from sin 0.3": {"clip": 0.03, "start": "sin", "start_probability": 0.3},
            "clip 0.5, from sin 0.5": {"clip": 0.5, "start": "sin", "start_probability": 0.5},
            **uniform("relu", "tanh", "silu", "sin", "gauss", "gelu", clip=0.03),
        },
        ratios=True,
    ),
    "rivals": Stage(
        FUNCTIONS[::3],
        {
            f"{name} {rate:g}": {**suite.rival(name), "learning_rate": rate}
            for name in suite.RIVALS
            for rate in RATES
        },
        ratios=True,
    ),
    "equations": Stage(
        ("pde:burgers", "pde:helmholtz"),
        {
            "as it is": {},
            "rate 5e-3": {"learning_rate": 5e-3},
            "rate 2e-2": {"learning_rate": 2e-2},
            "from tanh, no noise": QUIET | {"start": "tanh"},
            "phase 1 of 2 epochs": {"selective_epochs": 2, "mixed_epochs": 58},
            "phase 1 of 20 epochs": THIRD,
            "without identity": {"pool": "sin,tanh,gelu,silu,softplus,gauss,square"},
            "sin, tanh, gauss, gelu": {"pool": "sin,tanh,gauss,gelu"},
            **{
                f"uniform tanh {rate:g}": pde.changes("tanh") | {"learning_rate": rate}
                for rate in (2e-2, 1e-2, 5e-3)
            },
        },
        common=EIGHT | {"refine_epochs": 1},
        ratios=True,
    ),
    "equations_few": Stage(
        ("pde:helmholtz", "pde:burgers"),
        {
            **uniform("tanh"),
            "eight functions": EIGHT,
            "sin, tanh, gauss, gelu": {},
            "rate 2e-2": {"learning_rate": 2e-2},
            "phase 1 of 20 epochs": THIRD,
            "from tanh, no noise": QUIET | {"start": "tanh"},
        },
        common={"refine_epochs": 1},
        ratios=True,
    ),
    "images": Stage(
        CAMERA,
        {
            **{f"range {end:g}": {"range": (-end, end)} for end in (2.0, 5.0, 10.0, 20.0, 40.0)},
            "range 20, rate 5e-3": {"range": (-20.0, 20.0), "learning_rate": 5e-3},
            "range 20, rate 2e-2": {"range": (-20.0, 20.0), "learning_rate": 2e-2},
        },
        common=AVERAGED | {"learning_rate": 1e-2} | SHORT_IMAGE,
        ratios=True,
    ),
    "images_start": Stage(
        IMAGES,
        {
            "as it was": AVERAGED,
            **{f"from sin {p:g}": FROM_SIN | {"start_probability": p} for p in (0.5, 0.9)},
            "from sin, no noise": {},
            "from sin 0.9, rate 1e-2": FROM_SIN | {"learning_rate": 1e-2},
            "from sin 0.9, clip 0.03": FROM_SIN | {"clip": 0.03},
            "from sin 0.9, of four": FROM_SIN | {"pool": "equations"},
            "uniform sin, equal time": images.method("sin"),
        },
        ratios=True,
    ),
    "images_quiet": Stage(
        IMAGES,
        {
            "no noise": {},
            **{f"range {end:g}": {"range": (-end, end)} for end in (40.0, 60.0)},
            "range 40, logit rate 0.1": {"range": (-40.0, 40.0), "logit_learning_rate": 0.1},
            "moments carried": {"carry_moments": True},
            "moments carried, one cosine": {"carry_moments": True, "schedule": "cosine"},
            "uniform sin, as many steps": {"method": "uniform:sin"},
            **{
                f"uniform sin, equal time, range {end:g}": images.method("sin")
                | {"range": (-end, end)}
                for end in (20.0, 40.0, 60.0)
            },
        },
        ratios=True,
    ),
    "image_rivals": Stage(
        CAMERA,
        {
            f"{name} {rate:g}": {**images.method(name), "learning_rate": rate}
            for name in images.METHODS
            for rate in (5e-2, 2e-2, 5e-3, 2e-3, 1e-3, 5e-4)
        },
        ratios=True,
    ),
    "tables": Stage(
        TABLES,
        {
            **uniform("relu"),
            "as it was": BEFORE,
            "from ReLU, no noise": QUIET,
            "16 draws, noise 1 to 0": ANNEALED | TWO,
            "16 draws, noise 1 to 0, rate 1e-2": ANNEALED | TWO | {"learning_rate": 1e-2},
        },
        common={"target": "y", "learning_rate": 3e-3},
        ratios=True,
    ),
    "digits": Stage(
        ("digits",),
        {
            **uniform("relu"),
            "as it was": BEFORE,
            "from ReLU, no noise": QUIET,
            "from tanh, no noise": QUIET | {"start": "tanh"},
            "from ELU, no noise": QUIET | {"start": "elu"},
            "no noise": NO_NOISE | {"final_temperature": 2.0},
            "16 draws, noise 1 to 0": ANNEALED,
            "from ReLU, 16 draws, noise 1 to 0": ANNEALED | FROM_RELU,
        },
    ),
    "moments": Stage(
        ("digits", "tiny_shakespeare"),
        {
            **uniform("relu"),
            "moments from 0": {"carry_moments": False},
            "moments carried": {"carry_moments": True},
        },
    ),
    "text_uniform": Stage(("tiny_shakespeare",), uniform(*MODERN_POOL.names), common=SHORT_TEXT),
    "text": Stage(
        ("tiny_shakespeare",),
        {
            **uniform("relu"),
            "as it was": BEFORE,
            "from ReLU, no noise": QUIET,
            "from ReLU, no noise, logit rate 0.1": QUIET | {"logit_learning_rate": 0.1},
            "from ReLU, no noise, logits unclipped": QUIET | {"clip_together": False},
            "from ReLU, 12 draws, noise 1 to 0": ANNEALED | FROM_RELU | {"draws": 12},
        },
        common=SHORT_TEXT,
    ),
}


def configs(stage: Stage, task: str, seeds: Sequence[int], data_dir: str | None) -> list[Config]:
    base = dataclasses.replace(default_config(task=task), data_dir=data_dir, **stage.common)
    return recipes.crossed(base, list(stage.variants.values()), seeds)


def losses_of(configs: Sequence[Config]) -> list[float]:
    """The validation loss of every run's last phase; NaN of one that stopped."""
    losses = []
    for config, ended in zip(configs, train_all(configs, show_progress=False), strict=True):
        if isinstance(ended, RunError):
            print(f"{run_name(config)}: {ended}", file=sys.stderr)
            losses.append(float("nan"))
        else:
            losses.append(read_finished(Path(ended)).summary["phases"][-1]["validation_loss"])
    return losses


def table(stage: Stage, losses: dict[str, np.ndarray]) -> str:
    """losses: by variant [tasks, seeds]."""
    first = next(iter(losses.values()))
    compare = statistics.paired_ratios if stage.ratios else statistics.paired_differences
    rows = []
    for name, found in losses.items():
        pairs = list(zip(found.ravel().tolist(), first.ravel().tolist(), strict=True))
        beside, *ends = compare(pairs)
        mean = statistics.mean(found.ravel().tolist(), geometric=stage.ratios)
        interval = f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
        worst = max((a / b if stage.ratios else a - b) for a, b in pairs)
        rows.append(
            {
                "variant": name,
                "validation loss": f"{mean:.4g}",
                "ratio to the first" if stage.ratios else "less the first": f"{beside:.4g}",
                "95 %": interval,
                "worst": f"{worst:.4g}",
            }
        )
    return format_table(rows)


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.search", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data-dir")
    options = parser.parse_args(arguments)
    stage = STAGES[options.stage]

    def work() -> int:
        keep_compilations()
        found: dict[str, list[list[float]]] = {name: [] for name in stage.variants}
        for task in stage.tasks:
            runs = configs(stage, task, options.seeds, options.data_dir)
            losses = np.reshape(losses_of(runs), (len(found), len(options.seeds)))
            for name, of_variant in zip(found, losses.tolist(), strict=True):
                found[name].append(of_variant)
            print(task, {n: [f"{x:.3g}" for x in of[-1]] for n, of in found.items()}, flush=True)
        print(f"\n{table(stage, {name: np.array(of) for name, of in found.items()})}")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
