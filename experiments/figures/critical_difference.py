"""Average ranks of methods over many data sets, and which methods they do not tell apart."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from experiments import ranks
from experiments.figures.style import INK, MUTED, WIDTH, styled

LINE, BAR = 0.19, 0.09
"""Inches between two names, and between two bars."""


@styled
def critical_difference(
    names: Sequence[str],
    scores: np.ndarray,
    *,
    lower_is_better: bool = False,
    level: float = 0.05,
    data_sets: str = "data sets",
) -> Figure:
    """The critical-difference diagram of Demšar (2006): best on the left.

    A bar joins methods whose average ranks differ by less than Nemenyi's critical difference, drawn
    to scale above the axis. The p-value is Friedman's, in Iman and Davenport's form.

    Args:
        names: of the methods, [M], M ≥ 3.
        scores: [D, M], as `ranks.friedman` takes them.
        lower_is_better: for errors and losses.
        level: of the critical difference.
        data_sets: what the rows of the scores are, in the plural.

    Raises:
        ValueError: scores that cannot be ranked, or another number of names.
    """
    test = ranks.friedman(scores, lower_is_better=lower_is_better)
    methods, rows = len(test.average_ranks), len(scores)
    if len(names) != methods:
        raise ValueError(f"{len(names)} names: expected one for each of the {methods} methods")
    difference = ranks.critical_difference(methods, rows, level=level)
    bars = _levels(test.average_ranks, ranks.groups_not_told_apart(test.average_ranks, difference))
    depth = BAR * (max(bars.values(), default=-1) + 1) + 0.12
    height = depth + LINE * -(-methods // 2)
    figure = Figure(figsize=(WIDTH, height + 0.85), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(1, methods), ylim=(height, 0))  # y is in inches, downwards from the axis
    axes.spines[["left", "bottom", "right"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.xaxis.tick_top()
    axes.set_xticks(range(1, methods + 1))
    axes.set_yticks([])
    for (low, high), place in bars.items():
        y = BAR * (place + 1)
        axes.plot([low, high], [y, y], color=INK, lw=2.6, solid_capstyle="butt", clip_on=False)
    _name_methods(axes, names, test.average_ranks, depth)
    _draw_scale(figure, axes, difference, methods - 1)
    p_value = f"p = {test.f_p_value:.2g}" if test.f_p_value >= 1e-4 else "p < 0.0001"
    axes.set_xlabel(f"average rank over {rows} {data_sets}, 1 is the best; Friedman test {p_value}")
    return figure


def _levels(average: np.ndarray, groups: list[list[int]]) -> dict[tuple[float, float], int]:
    """Ends of the bars, and how far down each is, so that no two touch."""
    levels: dict[tuple[float, float], int] = {}
    longest = 0.012 * (len(average) - 1)
    for group in groups:
        # A little longer than from line to line, but not as far as the next line outside.
        outside = np.delete(average, group)
        best, worst = average[group[0]], average[group[-1]]
        low = best - min([longest, *0.4 * (best - outside[outside < best])])
        high = worst + min([longest, *0.4 * (outside[outside > worst] - worst)])
        place = 0
        while any(place == taken and end + longest > low for (_, end), taken in levels.items()):
            place += 1
        levels[low, high] = place
    return levels


def _name_methods(axes: Axes, names: Sequence[str], average: np.ndarray, depth: float) -> None:
    """The better half left, the other right; each name at the end of a line from its rank."""
    order = np.argsort(average, kind="stable").tolist()
    half = -(-len(order) // 2)
    across = axes.get_yaxis_transform()  # x from 0 to 1, y as it is
    span = len(order) - 1
    for side, methods in (("right", order[:half]), ("left", order[: half - 1 : -1])):
        end = 0.0 if side == "right" else 1.0
        for line, method in enumerate(methods):
            rank, y = average[method], depth + LINE * (line + 0.5)
            at_rank = (rank - 1) / span
            line_to_it = [end, at_rank, at_rank], [y, y, 0]
            axes.plot(*line_to_it, c=MUTED, lw=0.8, transform=across, clip_on=False, zorder=0)
            parts = (names[method], f"{rank:.2f}")
            text = "  ".join(parts if side == "right" else parts[::-1])
            at = end - 0.01 if side == "right" else end + 0.01
            axes.text(at, y, text, ha=side, va="center", transform=across)


def _draw_scale(figure: Figure, axes: Axes, difference: float, span: int) -> None:
    """The critical difference as a length above the axis, or in words where it is longer."""
    text = f"critical difference {difference:.2f}"
    if difference > span:
        text += ", more than the axis is long: no two methods can be told apart"
    above = offset_copy(axes.get_xaxis_transform(), figure, y=0.26, units="inches")
    if difference <= span:
        ends = [1, 1 + difference]
        axes.plot(ends, [1, 1], color=INK, lw=1.0, marker="|", transform=above, clip_on=False)
    higher = offset_copy(above, figure, y=0.06, units="inches")
    axes.text(1, 1, text, ha="left", va="bottom", fontsize=7, transform=higher)
