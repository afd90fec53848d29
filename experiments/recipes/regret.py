"""What one run of `recommended` costs beside trying every uniform network: all tasks in one table.

    python -m experiments.recipes.regret [TASK ...] [--data-dir FOLDER] [--write FILE.json]

TASK: digits, functions, mnist, tiny_shakespeare, tiny_shakespeare_modern, cifar10 (10 epochs).
Trains what is missing of the runs of the other recipes, half a day on 2 CPU cores for all, then
prints two tables, paired by seed, intervals by Student's t over the seeds. The regret: by how much
a learned network is worse than the best of the uniform ones, picked by validation. The controls:
whether it is the choice of each neuron (learned against shuffled), the mixture of functions
(shuffled against uniform) or phase 1's noise (uniform with noise).
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import recipes, statistics
from experiments.command_line import exit_status
from experiments.comparison import validation_error
from experiments.data.targets import FIRST
from experiments.recipes import cifar10, digits, mnist, regression, tiny_shakespeare
from experiments.report import format_table
from experiments.run_folder import FinishedRun, RunError, folder_of, read_finished
from experiments.training.compilation import keep_compilations
from experiments.training.outcome import environment
from experiments.training.parallel import train_all
from experiments.verdicts import with_ends

TASKS: dict[str, Callable[[str | None], list[recipes.Study]]] = {
    "digits": lambda data_dir: [digits.study()],
    "functions": lambda data_dir: [regression.study(target) for target in FIRST],
    "mnist": lambda data_dir: [mnist.study(data_dir)],
    "tiny_shakespeare": lambda data_dir: [tiny_shakespeare.study("paper", data_dir)],
    "tiny_shakespeare_modern": lambda data_dir: [tiny_shakespeare.study("modern", data_dir)],
    "cifar10": lambda data_dir: [cifar10.study(10, data_dir)],
}
BEST = "best uniform"
BEST_START = "best start"
PICKED = {"uniform ": BEST, "start ": BEST_START}
"""Of the variants whose names begin so, the best of each seed, by its validation error."""

Runs = Mapping[str, Sequence[FinishedRun]]
"""By the name of a variant, in the order of the seeds."""


class Beside(NamedTuple):
    """A variant beside the learned choices, over the seeds and tasks of a row.

    Attributes:
        score: its mean, geometric where runs are compared by their ratio.
        difference: mean and 95 % interval of its score less the learned one's, or of their ratio.
        worst: the largest loss of a learned run against it: a difference, or a ratio.
    """

    score: float
    difference: list[float]
    worst: float


def train(studies: Sequence[recipes.Study]) -> Sequence[Runs]:
    """The finished runs of every study; RunError names the first that stopped."""
    found = []
    for study in studies:
        configs = study.configs()
        for ended in train_all(configs):
            if isinstance(ended, RunError):
                raise ended
        runs = iter([read_finished(folder_of(config)) for config in configs])
        by_name: dict[str, list[FinishedRun]] = {
            name: [next(runs) for _ in study.seeds] for name in study.variants
        }
        for prefix, best in PICKED.items():
            members = [by_name[name] for name in study.variants if name.startswith(prefix)]
            if members:
                seeds = zip(*members, strict=True)
                by_name[best] = [min(of_seed, key=validation_error) for of_seed in seeds]
        found.append(by_name)
    return found


def is_member(name: str) -> bool:
    """A variant of which only the best counts."""
    return name.startswith(tuple(PICKED))


def beside(studies: Sequence[Runs], name: str) -> Beside:
    """A variant of one or several tasks that share an objective."""
    objective = studies[0]["learned"][0].task.objective

    def scores(variant: str) -> list[float]:
        runs = [run for study in studies for run in study[variant]]
        return [objective.compared(run.summary["phases"][-1]) for run in runs]

    pairs = list(zip(scores(name), scores("learned"), strict=True))
    sign = 1 if objective.lower_is_better else -1
    if objective.log_scale:
        worst = max((mine / theirs) ** sign for theirs, mine in pairs)
        compare = statistics.paired_ratios
    else:
        worst = max(sign * (mine - theirs) for theirs, mine in pairs)
        compare = statistics.paired_differences
    mean = statistics.mean([theirs for theirs, _ in pairs], geometric=objective.log_scale)
    return Beside(mean, compare(pairs), worst)


def saved(studies: Sequence[Runs]) -> float:
    """The seconds of all uniform runs by those of the learned ones."""
    uniform = [
        run.summary["seconds"]
        for study in studies
        for name, runs in study.items()
        if name.startswith("uniform ")
        for run in runs
    ]
    learned = [run.summary["seconds"] for study in studies for run in study["learned"]]
    return sum(uniform) / sum(learned)


def record(studies: Sequence[Runs]) -> dict[str, Any]:
    """The numbers of a row, for the tables and for JSON."""
    (first, *_) = studies
    objective = first["learned"][0].task.objective
    return {
        "score": objective.score_name,
        "ratio": objective.log_scale,
        "lower_is_better": objective.lower_is_better,
        "tasks": [study["learned"][0].task.name for study in studies],
        "seeds": [run.config.seed for run in first["learned"]],
        "uniform_networks": sum(name.startswith("uniform ") for name in first),
        "picked": [run.config.method for study in studies for run in study[BEST]],
        "seconds_of_all_uniform_by_learned": saved(studies),
        "beside": {name: beside(studies, name)._asdict() for name in first},
        "scores": {
            study["learned"][0].task.name: {
                name: [objective.compared(run.summary["phases"][-1]) for run in runs]
                for name, runs in study.items()
            }
            for study in studies
        },
    }


def regret_table(records: Mapping[str, dict[str, Any]]) -> str:
    rows = []
    for task, found in records.items():
        best, learned = found["beside"][BEST], found["beside"]["learned"]
        rows.append(
            {
                "task": f"{task} ({len(found['seeds'])} seeds): {found['score']}",
                "one run of recommended": _digits(learned["score"]),
                "best uniform, by validation": _digits(best["score"]),
                "of": found["uniform_networks"],
                "best less learned, or ratio [95 %]": _interval(best["difference"]),
                "worst seed of recommended": _digits(best["worst"]),
                "time of all uniform runs": f"x {found['seconds_of_all_uniform_by_learned']:.1f}",
            }
        )
    return format_table(rows)


def control_table(records: Mapping[str, dict[str, Any]]) -> str:
    """Every variant less the learned choices, or by them."""
    names = list(dict.fromkeys(name for found in records.values() for name in found["beside"]))
    return format_table(
        [
            {
                "less learned, or ratio": name,
                **{
                    task: _interval(found["beside"][name]["difference"])
                    if name in found["beside"]
                    else ""
                    for task, found in records.items()
                },
            }
            for name in names
            if name != "learned"
        ]
    )


def _digits(number: float) -> str:
    return f"{number + 0.0:.4g}"  # no −0


def _interval(numbers: Sequence[float]) -> str:
    return with_ends(numbers, "{:.3g}".format)


def main(arguments: Sequence[str]) -> int:
    parser = recipes.Parser(prog="python -m experiments.recipes.regret", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--data-dir")
    parser.add_argument("--write", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.tasks if name not in TASKS]:
        parser.error(f"{unknown[0]}: expected one of {', '.join(TASKS)}")

    def work() -> int:
        keep_compilations()
        records = {
            name: record(train(TASKS[name](options.data_dir))) for name in options.tasks or TASKS
        }
        print(f"\n{regret_table(records)}\n\n{control_table(records)}")
        if options.write:
            command = f"python -m experiments.recipes.regret {' '.join(options.tasks)}".strip()
            content = {"command": command, "environment": environment(), "tasks": records}
            options.write.write_text(json.dumps(content, indent=1) + "\n")
        return 0

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
