"""Methods compared over several tasks: a table by task, and what it says of the learned choices."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from experiments import statistics
from experiments.figures.critical_difference import critical_difference
from experiments.recipes import regret
from experiments.report import format_table
from experiments.training.outcome import environment
from experiments.verdicts import with_ends

LEARNED = "learned"
BESIDE_BEST_START = "verdicts_beside_best_start"
"""In what `record` writes: the same verdicts, the best start as ours."""


def errors(studies: Sequence[regret.Runs], *, every_member: bool = False) -> dict[str, np.ndarray]:
    """By variant, what was picked included: the numbers that compare its runs, [tasks, seeds].

    Of tasks whose errors are compared by their ratio.

    Args:
        studies: the runs of each task.
        every_member: each uniform network and each start as well, not only the best of each seed.
    """
    names = [name for name in studies[0] if every_member or not regret.is_member(name)]
    return {
        name: np.array([[_compared(run) for run in study[name]] for study in studies])
        for name in names
    }


def _compared(run: regret.FinishedRun) -> float:
    return run.task.objective.compared(run.summary["phases"][-1])


Number = Callable[[float], str]
"""How an error or a ratio is written."""


def task_rows(
    found: Mapping[str, Any], tasks: Sequence[str], number: Number = "{:.2g}".format
) -> list[dict[str, str]]:
    """A row for each task: geometric means over its seeds. Also of what `record` wrote."""
    return [
        {
            "task": task,
            **{
                name: number(statistics.mean(list(error[row]), geometric=True))
                for name, error in found.items()
            },
        }
        for row, task in enumerate(tasks)
    ]


def task_table(found: Mapping[str, np.ndarray], tasks: Sequence[str]) -> str:
    """`task_rows` as text."""
    return format_table(task_rows(found, tasks))


def verdicts(found: Mapping[str, np.ndarray], ours: str = LEARNED) -> dict[str, dict[str, Any]]:
    """Of every variant: its geometric mean, and how ours compares on the tasks.

    Returns:
        By variant `error`; `ratio`, its error by that of `ours`, with the ends of the 95 % interval
        over the tasks; `won`, the share of tasks where that is above 1; and `rank`, the average
        over the tasks.
    """
    logs = {name: np.log(error).mean(1) for name, error in found.items()}
    average = stats.rankdata(np.stack(list(logs.values()), 1), axis=1).mean(0)
    return {
        name: {
            "error": float(np.exp(log.mean())),
            "ratio": np.exp(statistics.interval((log - logs[ours]).tolist())).tolist(),
            "won": float(np.mean(log > logs[ours])),
            "rank": float(rank),
        }
        for (name, log), rank in zip(logs.items(), average, strict=True)
    }


def verdict_rows(
    found: Mapping[str, Mapping[str, Any]],
    number: Number = "{:.2g}".format,
    ours: str = LEARNED,
) -> list[dict[str, str]]:
    """A row for each variant, the best first; `found` as `verdicts` gives it, or JSON of that."""
    return [
        {
            "method": name,
            "geometric mean": number(numbers["error"]),
            f"by {ours} [95 %]": with_ends(numbers["ratio"], number) if name != ours else "",
            f"{ours} is better on": f"{numbers['won']:.0%}" if name != ours else "",
            "average rank": f"{numbers['rank']:.1f}",
        }
        for name, numbers in sorted(found.items(), key=lambda item: item[1]["rank"])
    ]


def verdict_table(found: Mapping[str, np.ndarray]) -> str:
    """The verdicts as text; where there is a best start, beside it as well."""
    return "\n\n".join(
        format_table(verdict_rows(verdicts(found, ours), ours=ours))
        for ours in (LEARNED, regret.BEST_START)
        if ours in found
    )


def write(
    file: Path, program: str, arguments: Sequence[str], results: Sequence[Mapping[str, Any]]
) -> None:
    """The numbers with the command, the versions and the date, as JSON."""
    command = " ".join([f"python -m {program}", *arguments])
    content = {"command": command, "environment": environment(), "results": results}
    file.write_text(json.dumps(content, indent=1) + "\n")


def record(found: Mapping[str, np.ndarray], tasks: Sequence[str]) -> dict[str, Any]:
    """The numbers and their verdicts, as JSON takes them."""
    lists = {name: error.tolist() for name, error in found.items()}
    content = {"tasks": list(tasks), "verdicts": verdicts(found)}
    if regret.BEST_START in found:
        content[BESIDE_BEST_START] = verdicts(found, regret.BEST_START)
    return content | {"errors": lists}


def draw_ranks(found: Mapping[str, np.ndarray], file: Path, tasks: str) -> None:
    """The critical-difference diagram of the geometric means; `tasks` is their plural."""
    scores = np.stack([np.log(error).mean(1) for error in found.values()], 1)
    figure = critical_difference(list(found), scores, lower_is_better=True, data_sets=tasks)
    figure.savefig(file, dpi=200)
