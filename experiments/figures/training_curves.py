"""How it was trained: losses, scores, confidence, temperature."""

from typing import Any

import numpy as np
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D

from experiments.config import phases
from experiments.figures.style import (
    ACCENT,
    INK,
    MUTED,
    WIDTH,
    figure_of_a_run,
    present,
)
from experiments.names import layer_names
from experiments.objective import Objective
from experiments.run_folder import RunData


@figure_of_a_run
def curves(run: RunData) -> Figure:
    """Training and validation over the epochs of all phases, and how phase 1 decided.

    Loss and accuracy (%), or the mean squared error of a function task; a ring marks the epoch of
    each finished phase that is tested. On the right, for phase 1: the mean over a layer's neurons
    of the largest softmax probability, one line per layer, and the temperature.
    """
    objective = present(run.task, "task.json").objective
    quantities = ["loss", "score"] if objective.has_score else ["loss"]
    selective = [row for row in run.rows("selective") if row["layers"]]
    extra = [0.75] if selective else []
    single = len(quantities) == 1 and not selective
    figure = Figure(figsize=(4.2 if single else WIDTH, 2.5), layout="constrained")
    ratios = [1.0] * len(quantities) + extra
    grid = figure.add_gridspec(1, len(ratios), width_ratios=ratios)
    for column, quantity in enumerate(quantities):
        axes = figure.add_subplot(grid[column])
        _curve_panel(axes, run, objective, quantity)
        if column == 0:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=3)
    if selective:
        _decision_panels(figure, grid[-1], selective, run.config.network)
    return figure


def tested_epochs(run: RunData) -> list[dict[str, Any]]:
    """The row of metrics that is tested, of each phase that is finished."""
    tested = []
    for spec in phases(run.config):
        rows = run.rows(spec.name)
        if len(rows) == spec.epochs:
            lowest = min(rows, key=lambda row: row["validation_loss"])
            tested.append(lowest if run.config.select_epoch == "lowest_loss" else rows[-1])
    return tested


def _curve_panel(axes: Axes, run: RunData, objective: Objective, quantity: str) -> None:
    """One quantity, `loss` or `score`, of both splits over global epochs."""
    scale = objective.metric_factor if quantity == "score" else 1
    epochs = [row["epoch"] for row in run.metrics]
    dot = "." if len(epochs) == 1 else ""
    for split, color, width in (("train", MUTED, 1.0), ("validation", ACCENT, 1.2)):
        values = [scale * row[f"{split}_{quantity}"] for row in run.metrics]
        axes.plot(epochs, values, color=color, lw=width, label=split, marker=dot)
    tested = tested_epochs(run)
    values = [scale * row[f"validation_{quantity}"] for row in tested]
    ring: dict[str, Any] = dict(
        ls="", marker="o", ms=4.5, mfc="white", mec=ACCENT, mew=1.2, zorder=5
    )
    label = {"last": "tested: the last epoch of a phase"}.get(
        run.config.select_epoch, "tested: the lowest validation loss of a phase"
    )
    if tested:
        axes.plot([row["epoch"] for row in tested], values, label=label, **ring)
    if run.rows("mixed") and run.rows("selective"):
        at = run.rows("selective")[-1]["epoch"] + 0.5
        axes.axvline(at, color=INK, lw=0.7, ls=(0, (4, 3)), zorder=0)
        top = axes.get_xaxis_transform()
        axes.text(at, 1.02, "switch", ha="center", va="bottom", fontsize=7, transform=top)
    axes.set(xlabel="epoch", ylabel=_quantity_name(objective, quantity))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if quantity == "loss":
        _log_if_wide(axes, objective.log_scale)


def _quantity_name(objective: Objective, quantity: str) -> str:
    if quantity == "loss":
        return objective.loss_name
    unit = f" ({objective.metric_unit})" if objective.metric_unit else ""
    return objective.metric + unit


def _log_if_wide(axes: Axes, always: bool) -> None:
    """A log axis for values that span more than a factor 10; few decades get labels between."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines[:2]])
    values = values[np.isfinite(values) & (values > 0)]
    if not values.size or not (always or values.max() > 10 * values.min()):
        return
    axes.set_yscale("log")
    if values.max() < 1000 * values.min():
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _decision_panels(
    figure: Figure, place: SubplotSpec, rows: list[dict[str, Any]], network: str
) -> None:
    """Mean largest probability per layer, above the temperature, over the epochs of phase 1."""
    grid = place.subgridspec(2, 1, height_ratios=(1.5, 1))
    upper, lower = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    epochs = [row["epoch"] for row in rows]
    dot = "." if len(epochs) == 1 else ""
    layers = rows[-1]["layers"]
    depth = ListedColormap(colormaps["viridis_r"](np.linspace(0.12, 1, len(layers))))
    names = layer_names(network, layers)
    for number, path in enumerate(names):
        values = [row["layers"][path]["max_probability"] for row in rows]
        upper.plot(epochs, values, color=depth(number), lw=1.0, label=path, marker=dot)
    functions = max(len(layer["shares"]) for layer in layers.values())
    ticks = {1 / functions: f"1/{functions}", 0.5: "0.5", 1.0: "1"}
    chance = min(1 / functions, 0.9)
    upper.set_yticks(list(ticks), list(ticks.values()))
    upper.set(ylim=(chance - 0.02, 1.02), ylabel="mean max.\nprobability")
    upper.tick_params(labelbottom=False)
    lower.plot(epochs, [row["temperature"] for row in rows], color=INK, lw=1.0, marker=dot)
    lower.set(xlabel="epoch, phase 1", ylabel="temperature")
    lower.set_ylim(0, 1.15 * max(row["temperature"] for row in rows))
    lower.xaxis.set_major_locator(ticker.MaxNLocator(3, integer=True))
    upper.sharex(lower)
    figure.align_ylabels([upper, lower])
    if len(layers) > 1:
        _depth_legend(figure, upper, list(names.values()))


def _depth_legend(figure: Figure, axes: Axes, names: list[str]) -> None:
    """Every layer where there is room, else the first and the last."""
    lines = list(axes.lines)
    if len(names) > 4 or sum(map(len, names)) > 32:
        lines, names = [lines[0], lines[-1]], ["first layer", "to the last"]
    handles = [Line2D([], [], color=line.get_color(), lw=1.4) for line in lines]
    figure.legend(handles, names, loc="upper right", ncols=len(lines), handlelength=1.0)
