"""Which functions the neurons chose: at the switch, and over the epochs of phase 1."""

import math
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import (
    INK,
    WIDTH,
    MissingData,
    figure_of_a_run,
    function_colors,
    function_legend,
    layer_labels,
    pool_of,
    present,
    text_color,
)
from experiments.run_folder import RunData


@figure_of_a_run
def shares(run: RunData) -> Figure:
    """Share of neurons, in %, that each function got at the switch: one stacked bar per layer.

    Shares of 4 % and more are written in their segment. Functions that no neuron chose are left
    out of the legend.
    """
    layers = present(run.choices, "choices.json")
    colors = function_colors(pool_of(layers))
    figure = Figure(figsize=(WIDTH, 0.85 + 0.24 * len(layers)), layout="constrained")
    axes = figure.subplots()
    labels = layer_labels(run.config.network, {p: len(c.choices) for p, c in layers.items()})
    used = set()
    for row, layer in enumerate(map(layers.__getitem__, labels)):
        counts = np.bincount(layer.choices, minlength=len(layer.pool))
        left = 0.0
        for name, count in zip(layer.pool, counts.tolist(), strict=True):
            if count:
                share = 100 * count / len(layer.choices)
                axes.barh(row, share, 0.78, left, color=colors[name], ec="white", lw=0.5)
                if share >= 4:
                    ink = text_color(colors[name])
                    at = (left + share / 2, row)
                    axes.text(*at, f"{share:.0f}", c=ink, ha="center", va="center", fontsize=7)
                left += share
                used.add(name)
    axes.set_yticks(range(len(layers)), labels.values())
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(xlim=(0, 100), ylim=(len(layers) - 0.5, -0.5), xlabel="share of neurons (%)")
    function_legend(figure, {name: color for name, color in colors.items() if name in used})
    return figure


@figure_of_a_run
def shares_over_epochs(run: RunData) -> Figure:
    """Share of neurons, in %, per function over the epochs of phase 1: one panel per layer.

    A row of metrics fills the epoch before it. The narrow strip behind the switch line holds the
    fixed shares of phase 2; its width says nothing about its length.
    """
    selective = [row for row in run.rows("selective") if row["layers"]]
    if not selective:
        raise MissingData("metrics.jsonl holds no layers of a selective phase")
    mixed = run.rows("mixed")
    layers = selective[-1]["layers"]
    names = list(dict.fromkeys(name for layer in layers.values() for name in layer["shares"]))
    columns = _panel_columns(len(layers))
    lines = math.ceil(len(layers) / columns)
    size = (min(max(3.4, 0.55 + 1.55 * columns), WIDTH), 0.8 + 1.2 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    features = {path: layer["features"] for path, layer in layers.items()}
    labels = layer_labels(run.config.network, features)
    for (path, label), panel in zip(labels.items(), panels, strict=False):
        history = _share_history(selective, path, names)
        fixed = _share_history(mixed[-1:], path, names)[:, -1:] if mixed else None
        _share_panel(panel, history, fixed, list(function_colors(names).values()))
        # The place of a layer within its block has a line of its own.
        panel.set_title(label.replace(", ", "\n"), loc="left", pad=3)
    for panel in panels[len(layers) :]:
        panel.set_visible(False)
    for panel in panels[max(0, len(layers) - columns) : len(layers)]:
        panel.tick_params(labelbottom=True)
    figure.supxlabel("epoch of phase 1" + ("; right of the line: phase 2" if mixed else ""), size=8)
    figure.supylabel("share of neurons (%)", size=8)
    function_legend(figure, function_colors(names))
    return figure


def _panel_columns(panels: int) -> int:
    """Columns of a grid with few empty places."""
    if panels <= 4:
        return panels
    return min((4, 3, 5) if panels <= 12 else (4, 5), key=lambda columns: -panels % columns)


def _share_history(rows: list[dict[str, Any]], path: str, names: list[str]) -> np.ndarray:
    """Shares in %, [functions, epochs]."""
    shares = [[row["layers"][path]["shares"].get(name, 0.0) for name in names] for row in rows]
    return 100 * np.asarray(shares).T


def _share_panel(
    axes: Axes, history: np.ndarray, fixed: np.ndarray | None, colors: list[str]
) -> None:
    epochs = history.shape[1]
    steps = np.concatenate([history[:, :1], history], axis=1)
    axes.stackplot(np.arange(epochs + 1), steps, colors=colors, step="pre", lw=0)
    end = float(epochs)
    if fixed is not None:
        start, end = 1.04 * epochs, 1.14 * epochs
        axes.axvline(1.02 * epochs, color=INK, lw=0.8)
        axes.stackplot([start, end], fixed.repeat(2, axis=1), colors=colors, lw=0)
    ticks = ticker.MaxNLocator(4, integer=True).tick_values(0, epochs)
    axes.set_xticks([tick for tick in ticks if 0 <= tick <= epochs])
    axes.set(xlim=(0, end), ylim=(0, 100), yticks=(0, 50, 100))
    axes.spines["bottom"].set_bounds(0, epochs)
