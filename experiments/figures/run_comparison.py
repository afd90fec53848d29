"""Many runs of one task, by their test score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import statistics
from experiments.config import Config
from experiments.figures.style import (
    INK,
    MUTED,
    function_colors,
    styled,
)
from experiments.run_folder import read_finished


@styled
def comparison(folders: Sequence[Path]) -> Figure:
    """The test score of finished runs of one task: a point per run, a row per method, best first.

    Test accuracy in %, a text's loss, or the normalised error MSE / Var y on a log axis. The tick
    is the mean of a row, on the log axis the geometric one. Two-phase runs are on a tinted row in
    bold, their controls grey; uniform ones have their function's colour.
    """
    runs = [read_finished(Path(folder)) for folder in folders]
    tasks = sorted({run.config.task for run in runs})
    if len(tasks) != 1:
        raise ValueError(f"comparison: expected runs of one task, got {tasks or 'none'}")
    objective = runs[0].task.objective
    rows: dict[str, list[float]] = {}
    colors: dict[str, str] = {}
    for label, run in zip(_method_labels([run.config for run in runs]), runs, strict=True):
        rows.setdefault(label, []).append(objective.compared(run.summary["phases"][-1]))
        colors[label] = _method_color(run.config)
    means = {
        label: statistics.mean(scores, geometric=objective.log_scale)
        for label, scores in rows.items()
    }
    order = sorted(rows, key=means.__getitem__, reverse=not objective.lower_is_better)
    figure = Figure(figsize=(4.2, 0.6 + 0.21 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(order):
        if colors[label] == INK:
            axes.axhspan(place - 0.5, place + 0.5, color="#E8F1F7", lw=0, zorder=0)
        axes.plot([means[label]] * 2, [place - 0.3, place + 0.3], color=INK, lw=1.0, zorder=2)
        points: dict[str, Any] = dict(marker="o", ms=5, mfc=colors[label], mec=INK, mew=0.4)
        axes.plot(rows[label], [place] * len(rows[label]), ls="", zorder=3, **points)
    axes.set_yticks(range(len(order)), order)
    for text, label in zip(axes.get_yticklabels(), order, strict=True):
        text.set_fontweight("bold" if colors[label] == INK else "normal")
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#E4E4E4", lw=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(objective.label)
    if objective.log_scale:
        axes.set_xscale("log")
    return figure


def _method_color(config: Config) -> str:
    if config.method == "two_phase":
        return INK if config.variant == config.method else MUTED
    name = config.method.removeprefix("uniform:")
    return function_colors([name])[name]


def _method_labels(configs: list[Config]) -> list[str]:
    """Method and control; preset and widths too where the runs differ in them."""
    presets = len({config.preset for config in configs}) > 1
    networks = len({config.widths for config in configs}) > 1
    labels = []
    for config in configs:
        method, *controls = config.variant.split("-")
        parts = [method.replace("uniform:", "uniform ").replace("two_phase", "two-phase")]
        parts += controls
        parts += [config.preset] if presets else []
        parts += ["-".join(map(str, config.widths))] if networks else []
        labels.append(", ".join(parts))
    return labels
