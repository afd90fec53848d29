"""The fitted function beside the true one."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from experiments.figures.style import (
    WIDTH,
    MissingData,
    figure_of_a_run,
    present,
)
from experiments.run_folder import RunData


@figure_of_a_run
def fit(run: RunData) -> Figure:
    """The fitted function against the true one.

    Above: each variable in turn, the others held; the range of the training points is shaded.
    Below: the plane of the first two variables, the training box outlined, and the base-10
    logarithm of the difference.
    """
    data = present(run.fit, "fit.npz")
    if "line_true" not in data:
        raise MissingData("the task is an image")
    figure = Figure(figsize=(WIDTH, 4.3), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1, 1.12))
    upper, lower = halves
    panels = upper.subplots(1, len(data["line_true"]), sharey=True, squeeze=False)[0]
    for number, axes in enumerate(panels):
        _line_panel(axes, data, number)
    panels[0].set_ylabel("value")
    handles, labels = panels[0].get_legend_handles_labels()
    upper.legend(handles, labels, loc="outside upper center", ncols=3)
    if "plane_x" in data:
        _plane_panels(lower, data)
    return figure


def _held(data: dict[str, np.ndarray], varied: int) -> str:
    """What the variables that do not vary are held at."""
    others = len(data["line_true"]) - varied
    if not others:
        return ""
    return f"{'others' if others > 1 else 'other'} held at {float(data['held']):g}"


def _box(data: dict[str, np.ndarray]) -> tuple[float, float]:
    """The ends of the range that the training points fill."""
    center, inside = float(data.get("center", 0.0)), float(data["inside"])
    return center - inside, center + inside


def _line_panel(axes: Axes, data: dict[str, np.ndarray], number: int) -> None:
    axes.axvspan(*_box(data), color="#EFEFEF", lw=0, zorder=0, label="training range")
    axes.plot(data["line_x"], data["line_true"][number], color="black", lw=0.8, label="true")
    dashes: dict[str, Any] = dict(color="#D55E00", lw=1.5, ls=(0, (3, 2)))
    axes.plot(data["line_x"], data["line_fit"][number], label="fitted", **dashes)
    held = _held(data, 1)
    axes.set_xlabel(f"$x_{number + 1}$" + (f"  ({held})" if held else ""))
    axes.set_xlim(data["line_x"][0], data["line_x"][-1])


def _plane_panels(figure: Any, data: dict[str, np.ndarray]) -> None:
    true, fitted, x = data["plane_true"], data["plane_fit"], data["plane_x"]
    difference = np.log10(np.maximum(np.abs(fitted - true), np.finfo(np.float32).tiny))
    finite = difference[np.abs(fitted - true) > 0]
    lowest = float(np.percentile(finite, 1)) if finite.size else -8.0
    # One scale for both, that of the true function: a wild extrapolation must not flatten it.
    values = dict(cmap="viridis", vmin=float(true.min()), vmax=float(true.max()))
    errors = dict(cmap="magma", vmin=lowest, vmax=max(float(difference.max()), lowest + 1))
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    half, (low, high) = (x[1] - x[0]) / 2, _box(data)
    for axes, plane, title, scale in zip(
        panels,
        (true, fitted, difference),
        ("true", "fitted", r"$\log_{10}$ |fitted − true|"),
        (values, values, errors),
        strict=True,
    ):
        extent = (x[0] - half, x[-1] + half, x[0] - half, x[-1] + half)
        image = axes.imshow(plane, origin="lower", extent=extent, interpolation="nearest", **scale)
        axes.add_patch(Rectangle((low, low), high - low, high - low, fc="none", ec="white", lw=0.9))
        axes.set_title(title, pad=3)
        axes.set(xlabel="$x_1$", xlim=(x[0], x[-1]), ylim=(x[0], x[-1]))
        if axes is not panels[0]:
            beyond = _beyond(true, fitted) if axes is panels[1] else "neither"
            bar = figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.06, 1)), extend=beyond)
            bar.outline.set_visible(False)
    held = _held(data, 2)
    panels[0].set_ylabel("$x_2$" + (f"  ({held})" if held else ""))


def _beyond(true: np.ndarray, fitted: np.ndarray) -> str:
    """Which ends of the true function's range the fitted one leaves."""
    low, high = fitted.min() < true.min(), fitted.max() > true.max()
    return ("both" if high else "min") if low else ("max" if high else "neither")
