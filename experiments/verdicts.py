"""What a comparison says of the learned choices, in words: a sentence with its interval."""

from collections.abc import Callable, Sequence

import numpy as np

from experiments import statistics
from experiments.comparison import LEARNED, Comparison
from experiments.objective import Objective

POWER = 0.8
"""With which a comparison is asked what it could have shown."""
LEVEL = 0.05

Pairs = Sequence[tuple[float, float]]
"""Of a learned run and another's, compared numbers."""


def verdicts(compared: Comparison) -> list[str]:
    """What the comparison says of the learned choices, the first row: a sentence per other method.

    The best uniform network comes first, then the others in the order of the rows.
    """
    learned, *rows = compared.rows
    if learned.variant != LEARNED:
        return []
    found = []
    for row in (*compared.best_uniform(), *compared.best_start(), *rows):
        pairs = statistics.pairs(learned.scores(), row.scores())
        found.append(verdict(compared.task.objective, pairs, row.name))
    return [sentence for sentence in found if sentence]


def verdict(
    objective: Objective, pairs: Pairs, other: str, *, count: str = "", p_value: float | None = None
) -> str:
    """A sentence on the learned choices beside another method.

    An interval that leaves out "equal" is a difference; otherwise the sentence says how large a
    difference would have been seen.

    Args:
        objective: of the task.
        pairs: compared numbers of both; none gives no sentence.
        other: what the other method is called.
        count: what the pairs are; default: so many seeds.
        p_value: of a test, corrected for all that are told together: above 0.05, an interval
            alone shows no difference.
    """
    if not pairs:
        return ""
    count = count or counted(len(pairs), "seed")
    if len(pairs) < 3:
        return f"Beside {other}: {count}, too few for an interval."
    found = statistics.differences(pairs, geometric=objective.log_scale)
    interval = statistics.interval(found)
    (_, low, high), told = interval, difference(objective, interval)
    tested = "" if p_value is None else f", p = {p_value:.2g}"
    if (low > 0 or high < 0) and (p_value is None or p_value <= LEVEL):
        word = "better" if (high < 0) == objective.lower_is_better else "worse"
        return f"{word.capitalize()} than {other}: {told}, {count}{tested}."
    visible = smallest_seen(objective, found)
    if not visible:
        return f"Equal to {other} in {count}."
    return (
        f"No difference to {other} is shown: {told}{tested}. {count.capitalize()} show one of "
        f"{visible} with probability {POWER:g}."
    )


def smallest_seen(objective: Objective, differences: Sequence[float]) -> str:
    """What so many pairs show with the probability POWER; empty for two, and where all are equal.

    Args:
        objective: of the task.
        differences: as `statistics.differences` gives them.
    """
    deviation = float(np.std(differences, ddof=1)) if len(differences) > 2 else 0.0
    if deviation == 0:
        return ""
    visible = statistics.smallest_difference(deviation, len(differences), power=POWER)
    if objective.log_scale:
        return f"{np.exp(visible):.2g} times the error"
    return f"{objective.format(visible)} {_unit(objective)}"


def difference(objective: Objective, logs_or_differences: Sequence[float]) -> str:
    """The mean with its interval, if it has one, as a ratio of errors or in the score's unit."""
    if objective.log_scale:
        mean, *ends = (f"{np.exp(value):.2g}" for value in logs_or_differences)
        unit = "times the error"
    else:
        mean, *ends = (
            ("+" if value > 0 else "") + objective.format(value) for value in logs_or_differences
        )
        unit = _unit(objective)
    return f"{mean} {unit} [{', '.join(ends)}]" if ends else f"{mean} {unit}"


def with_ends(numbers: Sequence[float], write: Callable[[float], str]) -> str:
    """A mean and its interval: mean [low, high]; the mean alone where there are no ends."""
    mean, *ends = map(write, numbers)
    return f"{mean} [{', '.join(ends)}]" if ends else mean


def _unit(objective: Objective) -> str:
    return "points" if objective.unit == "%" else objective.unit


def counted(count: int, noun: str) -> str:
    """one seed, 3 seeds."""
    return f"one {noun}" if count == 1 else f"{count} {noun}s"
