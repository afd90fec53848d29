"""Many runs of one task, by their test score."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from experiments import statistics
from experiments.comparison import Row, compare_runs
from experiments.figures.style import (
    INK,
    MUTED,
    function_colors,
    styled,
)


@styled
def comparison(folders: Sequence[Path]) -> Figure:
    """The test score of finished runs of one task: a point per run, a row per method, best first.

    Test accuracy in %, a text's loss, or the normalised error MSE / Var y on a log axis. The tick
    is the mean of a row, on the log axis the geometric one. Two-phase runs are on a tinted row in
    bold, their controls grey; uniform ones have their function's colour.
    """
    compared = compare_runs(folders)
    objective = compared.task.objective
    means = {
        row.name: statistics.mean(list(row.scores().values()), geometric=objective.log_scale)
        for row in compared.rows
    }
    rows = sorted(
        compared.rows, key=lambda row: means[row.name], reverse=not objective.lower_is_better
    )
    figure = Figure(figsize=(4.2, 0.82 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        color, scores = _color(row), list(row.scores().values())
        if color == INK:
            axes.axhspan(place - 0.5, place + 0.5, color="#E8F1F7", lw=0, zorder=0)
        axes.plot([means[row.name]] * 2, [place - 0.3, place + 0.3], color=INK, lw=1.0, zorder=2)
        points: dict[str, Any] = dict(marker="o", ms=5, mfc=color, mec=INK, mew=0.4)
        axes.plot(scores, [place] * len(scores), ls="", zorder=3, **points)
    axes.set_yticks(range(len(rows)), map(_label, rows))
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if _color(row) == INK else "normal")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E4E4E4", lw=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(objective.label)
    figure.suptitle(compared.task.name, fontsize=8, fontweight="bold")
    if objective.log_scale:
        axes.set_xscale("log")
        _label_few_places(axes.xaxis, *axes.get_xlim())
    return figure


def _label_few_places(axis: Axis, low: float, high: float) -> None:
    """Labels decades alone on a log axis that spans two, else some places between them."""
    decades = math.log10(high / low)
    places = (
        (1.0,) if decades >= 2 else (1.0, 2.0, 5.0) if decades >= 0.8 else (1.0, 1.5, 2.0, 3.0, 5.0)
    )
    axis.set_major_locator(ticker.LogLocator(subs=places))
    every = (math.inf, math.inf)
    axis.set_major_formatter(ticker.LogFormatterSciNotation(minor_thresholds=every))
    axis.set_minor_formatter(ticker.NullFormatter())


def _color(row: Row) -> str:
    if row.variant == "prelu":
        return "#FFFFFF"
    if not row.is_uniform:
        return INK if row.variant == "two_phase" else MUTED
    name = row.variant.removeprefix("uniform:")
    return function_colors([name])[name]


def _label(row: Row) -> str:
    method, *controls = row.variant.split("-")
    method = method.replace("uniform:", "uniform ").replace("two_phase", "two-phase")
    return ", ".join((method, *controls, *row.details))
