"""Points of functions to fit: those of targets.py, or `function:MODULE:NAME`, the user's."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import targets
from experiments.data.targets import TARGETS
from experiments.importing import load_object, one_line

RANGE = (-2.0, 2.0)
"""Training and test points are uniform on [−2, 2]^d, if no other range is given."""


Fitted = Callable[[np.ndarray], Any]
"""A trained function: inputs [B, d] → values [B], of several outputs [B, K]."""


class Points(NamedTuple):
    """inputs [M, d] and values [M, 1], float32."""

    inputs: np.ndarray
    values: np.ndarray


class Samples(NamedTuple):
    """The points of one seed; values for testing have no noise.

    `outside` is None for a function that is not finite everywhere around the range, or constant.
    """

    train: Points
    validation: Points
    test: Points
    outside: Points | None


def find_target(name: str) -> Callable[..., Any]:
    """A target, or a function of the user's as MODULE:NAME; ValueError if there is none."""
    if ":" in name:
        target = load_object("function", name)
        if not callable(target):
            raise ValueError(f"function:{name} is {target!r}, expected a function")
        return target
    if name not in TARGETS:
        raise ValueError(
            f"function:{name}: unknown target; known: {', '.join(sorted(TARGETS))}, or MODULE:NAME"
        )
    return TARGETS[name]


def variables(name: str) -> tuple[str, ...]:
    """The names of a target's variables, its arguments without a default."""
    try:
        parameters = inspect.signature(find_target(name)).parameters.values()
    except TypeError as error:  # a class or builtin that shows no signature
        raise ValueError(f"function:{name}: its arguments cannot be read ({error})") from None
    needed = [parameter for parameter in parameters if parameter.default is parameter.empty]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not needed or any(parameter.kind not in positional for parameter in needed):
        shown = ", ".join(map(str, parameters))
        raise ValueError(
            f"function:{name} takes ({shown}), expected one argument for each variable, x1, x2, …"
        )
    return tuple(parameter.name for parameter in needed)


def formulas() -> dict[str, str]:
    """Every target as it is written, without the names of modules."""
    tree = ast.parse(Path(targets.__file__).read_text())
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    written = {node.lineno: ast.unparse(node.body) for node in lambdas}
    return {
        name: re.sub(r"\b(np|math|special)\.", "", written.get(target.__code__.co_firstlineno, ""))
        for name, target in TARGETS.items()
    }


def dimension(name: str) -> int:
    """The number of variables of a target; ValueError for an unknown name."""
    return len(variables(name))


def evaluate(name: str, inputs: np.ndarray) -> np.ndarray:
    """The target at inputs [M, d] → [M, 1] float32; ValueError if it gives no numbers [M]."""
    target = find_target(name)
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(target(*np.moveaxis(inputs.astype(np.float64), -1, 0)))
            values_32 = values.astype(np.float32) if values.dtype.kind in "fiub" else None
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise ValueError(
            f"function:{name} fails on arrays [{len(inputs)}] ({one_line(error)}); it is called "
            "with arrays, so np.sin, not math.sin"
        ) from error
    if values_32 is None or values.shape != inputs.shape[:1]:
        raise ValueError(
            f"function:{name} returns {values.dtype} {list(values.shape)} for "
            f"{inputs.shape[1]} arrays [{len(inputs)}], expected numbers [{len(inputs)}]"
        )
    return values_32[:, None]


def sample(
    name: str,
    seed: int,
    bounds: tuple[float, float] = RANGE,
    *,
    train: int = 4_000,
    validation: int = 1_000,
    test: int = 4_000,
    noise: float = 0.0,
) -> Samples:
    """Points of one seed: uniform on [low, high]^d, and outside it up to 1.5 times as far.

    Args:
        name: of the target.
        seed: of the points and the noise.
        bounds: low and high.
        train, validation, test: how many points.
        noise: standard deviation of normal noise on the values of train and validation, by that
            of the values of train.

    Raises:
        ValueError: the target is not finite somewhere on the range.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    d, (low, high) = dimension(name), bounds

    def inside(count: int) -> np.ndarray:
        return rng.uniform(low, high, (count, d)).astype(np.float32)

    def points(inputs: np.ndarray) -> Points:
        return Points(inputs, evaluate(name, inputs))

    fitted, held_out, unseen = (points(inside(count)) for count in (train, validation, test))
    for part in (fitted, held_out, unseen):
        _require_finite(name, part, bounds)
    # In a shell around the box the share of accepted points is 1 − (2/3)^d ≥ 1/3.
    candidates = rng.uniform(*_beyond(bounds), (4 * test + 64, d)).astype(np.float32)
    accepted = candidates[((candidates < low) | (candidates > high)).any(-1)][:test]
    outside = points(accepted)
    noisy = np.random.default_rng([seed, 0x401])

    def with_noise(points: Points) -> Points:
        added = scale * noisy.standard_normal(points.values.shape)
        return points._replace(values=(points.values + added).astype(np.float32))

    if noise:
        scale = noise * float(fitted.values.std(dtype=np.float64))
        fitted, held_out = with_noise(fitted), with_noise(held_out)
    told = np.isfinite(outside.values).all() and len(np.unique(outside.values)) > 1
    return Samples(fitted, held_out, unseen, outside if told else None)


def _beyond(bounds: tuple[float, float]) -> tuple[float, float]:
    """The range of the points outside: 1.5 times as wide."""
    low, high = bounds
    return low - (high - low) / 4, high + (high - low) / 4


def _require_finite(name: str, points: Points, bounds: tuple[float, float]) -> None:
    bad = np.flatnonzero(~np.isfinite(points.values[:, 0]))
    if bad.size:
        pairs = zip(variables(name), points.inputs[bad[0]].tolist(), strict=True)
        place = ", ".join(f"{variable} = {value:.4g}" for variable, value in pairs)
        raise ValueError(
            f"function:{name} is {points.values[bad[0], 0]} at {place}, expected finite values on "
            f"the range {bounds[0]:g} to {bounds[1]:g}: give another --range LOW HIGH"
        )


def tabulate_fit(
    name: str, fitted: Fitted, bounds: tuple[float, float] = RANGE
) -> dict[str, np.ndarray]:
    """A target and a trained function along every variable, and on the plane of x1 and x2.

    Returns:
        `line_x` [P], `line_true` and `line_fit` [d, P], `plane_x` [Q], `plane_true` and
        `plane_fit` [Q, Q] (of two variables or more), the value `held` of the variables that do
        not vary, and of the box that the training points fill the `center` and `inside`, half its
        width. The tables reach beyond the box, if the target is finite there.
    """
    low, high = bounds
    held, d = low + 0.625 * (high - low), dimension(name)

    def true(inputs: np.ndarray) -> np.ndarray:
        return evaluate(name, inputs)[:, 0]

    table = tabulate(true, fitted, d, _beyond(bounds), held)
    if not all(np.isfinite(array).all() for array in table.values()):
        table = tabulate(true, fitted, d, bounds, held)
        # A pole on the grid, such as log 0 at the end of the range, is drawn as its neighbours.
        for key, array in table.items():
            finite = array[np.isfinite(array)]
            table[key] = np.nan_to_num(
                array, nan=np.median(finite), posinf=finite.max(), neginf=finite.min()
            )
    center, inside = (low + high) / 2, (high - low) / 2
    return {**table, "center": np.asarray(center), "inside": np.asarray(inside)}


def tabulate(
    true: Fitted, fitted: Fitted, d: int, ends: tuple[float, float], held: float
) -> dict[str, np.ndarray]:
    """Two functions of d variables along every one between the ends, and on the first plane."""

    def both(points: np.ndarray) -> tuple[np.ndarray, ...]:
        flat = points.reshape(-1, d)
        return tuple(np.asarray(f(flat)).reshape(points.shape[:-1]) for f in (true, fitted))

    line = np.linspace(*ends, 241, dtype=np.float32)
    inputs = np.full((d, line.size, d), held, np.float32)
    inputs[np.arange(d), :, np.arange(d)] = line
    line_true, line_fit = both(inputs)
    lines = {"line_x": line, "line_true": line_true, "line_fit": line_fit}
    if d == 1:
        return {**lines, "held": np.asarray(held)}
    plane_x = np.linspace(*ends, 97, dtype=np.float32)
    plane = np.full((plane_x.size, plane_x.size, d), held, np.float32)
    plane[..., 0], plane[..., 1] = np.meshgrid(plane_x, plane_x)
    plane_true, plane_fit = both(plane)
    return {
        **lines,
        "plane_x": plane_x,
        "plane_true": plane_true,
        "plane_fit": plane_fit,
        "held": np.asarray(held),
    }
