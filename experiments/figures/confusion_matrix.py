"""Which classes were taken for which."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from experiments.figures.style import (
    figure_of_a_run,
    present,
    text_color,
)
from experiments.run_folder import RunData


@figure_of_a_run
def confusion(run: RunData) -> Figure:
    """Where each class of the test set went, in % of its examples, with counts in brackets.

    The colour scale is that of the errors; the correct cells on the diagonal are grey. With more
    than 20 classes the numbers and some names are left out.
    """
    summary = present(run.summary, "summary.json")
    counts = np.asarray(present(summary.get("confusion"), "confusion matrix"), int)
    classes = len(counts)
    names = summary.get("class_names") or [str(number) for number in range(classes)]
    percent = 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = np.ma.masked_array(percent, np.eye(classes, dtype=bool))
    side = min(max(0.43 * classes, 2.2), 4.7)
    figure = Figure(figsize=(side + 1.5, side + 0.75), layout="constrained")
    axes = figure.subplots()
    steps = ["#FFFFFF", "#F6B26B", "#D55E00", "#7A2E00"]
    heat = LinearSegmentedColormap.from_list("errors", steps).with_extremes(bad="#EDEDED")
    image = axes.imshow(wrong, cmap=heat, vmin=0, vmax=max(float(wrong.max() or 0), 1.0))
    if classes <= 20:
        _write_cells(axes, image, counts, percent)
        axes.set_xticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.set_yticks(np.arange(classes - 1) + 0.5, minor=True)
        axes.grid(which="minor", color="#DDDDDD", lw=0.4)
    slanted = max(map(len, names)) > 4
    turn: dict[str, Any] = dict(rotation=40, ha="right", rotation_mode="anchor") if slanted else {}
    labelled = range(0, classes, math.ceil(classes / 20))
    axes.set_xticks(labelled, [names[k] for k in labelled], **turn)
    axes.set_yticks(labelled, [names[k] for k in labelled])
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set(visible=classes > 20, color="#DDDDDD")
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=22, pad=0.02)
    bar.set_label("errors (% of the true class)")
    bar.outline.set_visible(False)
    return figure


def _write_cells(axes: Axes, image: AxesImage, counts: np.ndarray, percent: np.ndarray) -> None:
    """Percent and count in the diagonal and in every cell that is not empty."""
    size = 6.5 if len(counts) <= 12 else 4.5
    for row, column in np.argwhere(counts.astype(bool) | np.eye(len(counts), dtype=bool)).tolist():
        color = "#777777"
        if row != column:
            color = text_color(image.to_rgba(percent[row, column])[:3])
        share = percent[row, column]
        text = f"{_percent(share)}\n({counts[row, column]})"
        axes.text(column, row, text, c=color, ha="center", va="center", fontsize=size)


def _percent(share: float) -> str:
    if share in (0, 100):
        return f"{share:.0f}"
    return f"{share:.1f}" if share >= 0.05 else "<0.1"
