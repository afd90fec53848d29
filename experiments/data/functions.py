"""Functions of 2–4 variables to fit. Add one in a line; its task is `function:NAME`.

A target takes its variables as arrays of one shape and returns that shape; the number of variables
is the number of its arguments.
"""

import ast
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TARGETS: dict[str, Callable[..., np.ndarray]] = {
    "product_sine": lambda x1, x2, x3: x1 * x2 + np.sin(2 * x3),
    "normal_density": lambda x1, x2: (
        np.exp(-((x1 / (np.abs(x2) + 1)) ** 2) / 2) / math.sqrt(2 * math.pi)
    ),
    "kinks": lambda x1, x2, x3: np.maximum(x1 - 0.5, 0) - np.maximum(x2, 0) + np.abs(x3 + 0.3),
    "radial_wave": lambda x1, x2: np.sin(3 * np.sqrt(x1**2 + x2**2 + 0.1)),
    "ratio": lambda x1, x2, x3, x4: (x1 - x2) / (1 + x3**2 + x4**2),
}

INSIDE = 2.0
"""Training and test points are uniform on [−2, 2]^d."""
OUTSIDE = 3.0
"""The outside test points are uniform on [−3, 3]^d less [−2, 2]^d."""


Fitted = Callable[[np.ndarray], Any]
"""A trained function: inputs [B, d] → values [B]."""


class Points(NamedTuple):
    """inputs [M, d] and values [M, 1], float32."""

    inputs: np.ndarray
    values: np.ndarray


class Samples(NamedTuple):
    """The points of one seed; no noise is added to the values."""

    train: Points
    validation: Points
    test: Points
    outside: Points


def formulas() -> dict[str, str]:
    """Every target as it is written in this file, without the names of modules."""
    tree = ast.parse(Path(__file__).read_text())
    lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
    written = {node.lineno: ast.unparse(node.body) for node in lambdas}
    return {
        name: re.sub(r"\b(np|math)\.", "", written.get(target.__code__.co_firstlineno, ""))
        for name, target in TARGETS.items()
    }


def dimension(name: str) -> int:
    """The number of variables of a target; ValueError for an unknown name."""
    if name not in TARGETS:
        raise ValueError(f"function:{name}: unknown target; known: {', '.join(sorted(TARGETS))}")
    return len(inspect.signature(TARGETS[name]).parameters)


def evaluate(name: str, inputs: np.ndarray) -> np.ndarray:
    """The target at inputs [M, d] → [M, 1] float32."""
    values = TARGETS[name](*np.moveaxis(inputs.astype(np.float64), -1, 0))
    return np.asarray(values, np.float32)[:, None]


def sample(
    name: str, seed: int, *, train: int = 4_000, validation: int = 1_000, test: int = 4_000
) -> Samples:
    """Points of one seed: uniform on [−2, 2]^d, and outside it up to [−3, 3]^d."""
    rng = np.random.default_rng([seed, 0x5EED])
    d = dimension(name)

    def inside(count: int) -> np.ndarray:
        return rng.uniform(-INSIDE, INSIDE, (count, d)).astype(np.float32)

    def points(inputs: np.ndarray) -> Points:
        return Points(inputs, evaluate(name, inputs))

    fitted, held_out, unseen = (points(inside(count)) for count in (train, validation, test))
    # In a shell around the box the share of accepted points is 1 − (2/3)^d ≥ 5/9 for d ≥ 2.
    candidates = rng.uniform(-OUTSIDE, OUTSIDE, (4 * test + 64, d)).astype(np.float32)
    accepted = candidates[np.abs(candidates).max(-1) > INSIDE][:test]
    return Samples(fitted, held_out, unseen, points(accepted))


def tabulate_fit(name: str, fitted: Fitted) -> dict[str, np.ndarray]:
    """A target and a trained function along every variable, and on the plane of x1 and x2.

    Returns:
        `line_x` [P], `line_true` and `line_fit` [d, P], `plane_x` [Q], `plane_true` and
        `plane_fit` [Q, Q], the value `held` of the variables that do not vary, and `inside`, half
        the width of the box that the training points fill.
    """
    d, held = dimension(name), 0.5
    line = np.linspace(-OUTSIDE, OUTSIDE, 241, dtype=np.float32)
    inputs = np.full((d, line.size, d), held, np.float32)
    inputs[np.arange(d), :, np.arange(d)] = line
    plane_x = np.linspace(-OUTSIDE, OUTSIDE, 97, dtype=np.float32)
    plane = np.full((plane_x.size, plane_x.size, d), held, np.float32)
    plane[..., 0], plane[..., 1] = np.meshgrid(plane_x, plane_x)

    def both(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        flat = points.reshape(-1, d)
        true, fit = evaluate(name, flat)[:, 0], np.asarray(fitted(flat))
        return true.reshape(points.shape[:-1]), fit.reshape(points.shape[:-1])

    line_true, line_fit = both(inputs)
    plane_true, plane_fit = both(plane)
    return {
        "line_x": line,
        "line_true": line_true,
        "line_fit": line_fit,
        "plane_x": plane_x,
        "plane_true": plane_true,
        "plane_fit": plane_fit,
        "held": np.asarray(held),
        "inside": np.asarray(INSIDE),
    }
