"""What the figures share: colours, style, legends; nothing here touches global settings."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import matplotlib.style
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.names import layer_names
from experiments.run_folder import LayerChoices, RunData

FUNCTION_COLORS = {
    "relu": "#0072B2",
    "sigmoid": "#CC79A7",
    "tanh": "#009E73",
    "leaky_relu": "#56B4E9",
    "elu": "#E69F00",
    "selu": "#D55E00",
    "gelu": "#8B5000",
    "silu": "#6B0214",
    "softplus": "#600058",
    "mish": "#8FE5FD",
    "identity": "#2E2391",
    "zero": "#565656",
    "sin": "#F0E442",
    "square": "#8E86F5",
    "gauss": "#6DD4A9",
    "squared_relu": "#130CFE",
}
"""One colour per function, in every figure. The paper's six are from Okabe and Ito's palette; no
two of the sixteen are closer than 0.07 in OKLab, as seen with or without red-green blindness."""

OTHER_COLORS = ("#117733", "#AA4499", "#999933", "#882255", "#44AA99", "#DDCC77")
"""For functions without a colour of their own, in the order of their pool."""

ACCENT, MUTED, INK = "#0072B2", "#9A9A9A", "#222222"
WIDTH = 6.75
"""Inches: the text width of a two-column paper; narrower figures fit one column."""
FAINTEST = 0.15
"""How much colour a neuron keeps that is no more confident than chance."""

STYLE: dict[str, Any] = {
    "figure.dpi": 200,
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "smartmixed",
}

P = ParamSpec("P")
T = TypeVar("T")


class MissingData(ValueError):
    """The folder lacks what a figure shows."""


def present(value: T | None, name: str) -> T:
    if value is None:
        raise MissingData(f"the run folder holds no {name}")
    return value


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws under STYLE alone and freezes the layout, whatever the caller's settings are."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(["default", STYLE]):
            figure = draw(*args, **kwargs)
            figure.draw_without_rendering()  # ticks are made here, with these fonts
            figure.set_layout_engine("none")
        return figure

    return styled


FIGURES: dict[str, Callable[[RunData], Figure]] = {}
"""The figures that `draw_figures` makes of a run, by the names of their functions."""


def figure_of_a_run(draw: Callable[[RunData], Figure]) -> Callable[[RunData], Figure]:
    """`styled`, and an entry in FIGURES: drawn of every run that has the data for it."""
    FIGURES[draw.__name__] = styled(draw)
    return FIGURES[draw.__name__]


def function_colors(names: Sequence[str]) -> dict[str, str]:
    """The colour of every function of a pool; names without their own get OTHER_COLORS in turn,
    and then the colours that the pool leaves."""
    unused = (color for name, color in FUNCTION_COLORS.items() if name not in names)
    others = itertools.cycle((*OTHER_COLORS, *unused))
    return {name: FUNCTION_COLORS.get(name) or next(others) for name in names}


def layer_labels(network: str, features: Mapping[str, int]) -> dict[str, str]:
    """The name of every layer with its number of neurons, by its path: layer 1 (512).

    In the order of the layers, whatever that of `features` is.
    """
    names = layer_names(network, features)
    return {path: f"{name} ({features[path]})" for path, name in names.items()}


def luma(color: Any) -> np.ndarray:
    """Brightness from 0 to 1 of RGB [..., 3], as a grey print shows it."""
    return np.asarray(color) @ np.array([0.299, 0.587, 0.114])


def text_color(color: Any) -> str:
    """White or ink, whichever is read better on a colour."""
    return "white" if luma(to_rgb(color)) < 0.55 else INK


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many columns of legend entries, filled one after the other, fit in `width` inches."""
    entries = [0.42 + 0.06 * len(name) for name in names]
    for depth in range(1, len(names)):
        columns = math.ceil(len(names) / depth)
        if sum(max(part) for part in np.array_split(entries, columns)) <= width:
            return columns
    return 1


def function_legend(figure: Figure, colors: dict[str, str]) -> None:
    figure.legend(
        handles=[Patch(color=color, label=name) for name, color in colors.items()],
        loc="outside upper center",
        ncols=legend_columns(list(colors), figure.get_figwidth() - 0.2),
        handlelength=1.0,
        handleheight=1.0,
    )


def pool_of(layers: Mapping[str, LayerChoices]) -> list[str]:
    """The functions of all layers, in order, each once."""
    return list(dict.fromkeys(name for layer in layers.values() for name in layer.pool))
