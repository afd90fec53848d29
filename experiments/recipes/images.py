"""Images as functions: the learned choices beside uniform networks and a SIREN, at equal time.

    python -m experiments.recipes.images [--images camera ...] [--seeds 0 ...] [--write FILE.json]

The images camera and astronaut of scikit-image at 256 x 256, half of whose pixels are seen;
networks 2-128-128-C, preset `recommended` for images. Every method has as many steps as take our
time, measured by experiments.benchmarks.rivals --task image:camera, and a learning rate chosen by
the stage `image_rivals` of experiments.recipes.search; the SIREN has coordinates in [−1, 1], for
which its frequency 30 was published. Choices are shuffled as a control. 66 runs of about 10 s on a
free CPU core; the same command again goes on. Expected: experiments/LOG.md.

PSNR in dB, of the pixels that training has not seen and of those that it has: published numbers are
the second. Intervals are over the seeds, differences paired by seed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import recipes, statistics
from experiments.command_line import exit_status
from experiments.data.image_function import NAMES
from experiments.presets import default_config
from experiments.recipes import over_tasks, regret
from experiments.report import format_table
from experiments.training.compilation import keep_compilations
from experiments.verdicts import with_ends

SEEDS = (0, 1, 2)
STEPS = 52.6
"""Of 50 steps of phase 2 a mean epoch of ours takes the time, with 4 of 40 in phase 1."""
METHODS: dict[str, tuple[float, float]] = {
    "relu": (0.46, 2e-2),
    "tanh": (0.48, 5e-2),
    "silu": (0.55, 2e-2),
    "sin": (0.57, 2e-2),
    "square": (0.47, 2e-2),
    "identity": (0.43, 2e-2),
    "gauss": (0.54, 5e-2),
    "gelu": (0.55, 5e-2),
    "image_siren": (0.58, 1e-3),
}
"""The time of a step by that of a step of our phase 2, and the learning rate."""


def method(name: str) -> dict[str, Any]:
    """What a uniform network, or one of experiments.rivals, changes in the preset."""
    cost, rate = METHODS[name]
    changes = {"steps_per_epoch": max(1, round(STEPS / cost)), "learning_rate": rate}
    if name != "image_siren":
        return {"method": f"uniform:{name}", **changes}
    network = f"experiments.rivals:{name}"
    return {"network": network, "method": "uniform:sin", "range": (-1.0, 1.0), **changes}


def study(
    image: str, seeds: Sequence[int] = SEEDS, methods: Sequence[str] = tuple(METHODS)
) -> recipes.Study:
    base = default_config(task=f"image:{image}")
    names = {name: name if name == "image_siren" else f"uniform {name}" for name in methods}
    others = {names[name]: method(name) for name in methods}
    return recipes.study(base, seeds, controls=("shuffled",), uniform=(), **others)


def psnr(runs: Sequence[regret.FinishedRun], part: str) -> list[float]:
    """In dB, of the pixels of `train` or `test`, by seed."""
    return [run.summary["phases"][-1][f"{part}_psnr"] for run in runs]


def table(found: regret.Runs, title: str) -> str:
    """A row for each method: means over the seeds, and its difference to the learned choices."""
    rows = []
    for name, runs in found.items():
        difference = regret.beside([found], name).difference
        rows.append(
            {
                title: name,
                "test PSNR, dB": _interval(statistics.interval(psnr(runs, "test"))),
                "train PSNR, dB": _interval(statistics.interval(psnr(runs, "train"))),
                "less learned, test": "" if name == "learned" else _interval(difference),
            }
        )
    return format_table(rows)


def _interval(numbers: Sequence[float]) -> str:
    return with_ends(numbers, "{:.2f}".format)


def record(image: str, found: regret.Runs) -> dict[str, Any]:
    """The numbers of every run, and how they were trained, as JSON takes them."""
    settings: Mapping[str, Any] = {
        name: {
            "steps": sum(phase["epochs"] for phase in runs[0].summary["phases"])
            * runs[0].config.steps_per_epoch,
            "learning_rate": runs[0].config.learning_rate,
            "range": runs[0].config.range,
            "seconds": [run.summary["seconds"] for run in runs],
        }
        for name, runs in found.items()
        if name != regret.BEST
    }
    return {
        "image": image,
        "seeds": [run.config.seed for run in found["learned"]],
        "test_psnr": {name: psnr(runs, "test") for name, runs in found.items()},
        "train_psnr": {name: psnr(runs, "train") for name, runs in found.items()},
        "picked": [run.config.method for run in found[regret.BEST]],
        "settings": settings,
    }


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.images", description=__doc__)
    parser.add_argument("--images", nargs="+", choices=NAMES, default=NAMES[::-1], metavar="NAME")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, metavar="N")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    def work() -> int:
        keep_compilations()
        records = []
        for image in options.images:
            (found,) = regret.train([study(image, options.seeds, tuple(options.methods))])
            print(f"\n{table(found, image)}", flush=True)
            records.append(record(image, found))
            if options.write:
                over_tasks.write(options.write, "experiments.recipes.images", arguments, records)
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
