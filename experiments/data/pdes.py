"""Differential equations to solve: `pde:NAME`, or `pde:MODULE:NAME`, the user's `Equation`.

A network is trained to make the equation's residual small at points of the box; what is known of
the solution, such as its initial values, is built into what its output is taken for (`solution` of
the equation), or fitted at further points. No value of the solution inside the box is shown in
training or validation; the error is measured against a reference that is computed here.

M. Raissi, P. Perdikaris, G. E. Karniadakis, J. Comput. Phys. 378 (2019) 686.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import integrate, interpolate

from experiments.data import functions
from experiments.data.functions import Fitted
from experiments.importing import load_object, one_line

Function = Callable[[jax.Array], jax.Array]
"""Coordinates [B, d] → values [B], of every point by itself."""

HELD_OUT, TESTED = 2_000, 10_000
"""Points to validate and to test on."""


class Equation(NamedTuple):
    """An equation on a box of d coordinates for one unknown function.

    Attributes:
        low, high: [d], the corners of the box.
        residual: (u, x [B, d]) → [B], what is 0 where u solves the equation; `partial` has u's
            derivatives.
        reference: x float64 [M, d] → [M], the solution, or one that is accurate enough; None: the
            test says only how small the residual is.
        solution: (x [B, d], output of the network [B]) → u [B]: whatever is known of u.
        conditions: generator → (x [C, d], u [C]), points where u is known; None: there are none.
        weight: of the squared error at such a point, beside the squared residual at another.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    residual: Callable[[Function, jax.Array], jax.Array]
    reference: Callable[[np.ndarray], np.ndarray] | None = None
    solution: Callable[[jax.Array, jax.Array], jax.Array] = lambda x, n: n
    conditions: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None
    weight: float = 100.0


def partial(u: Function, *axes: int) -> Function:
    """∂u/∂x_i, or ∂²u/∂x_i ∂x_j …, by forward mode: `partial(u, 0, 0)` is the second by x_0."""
    for axis in axes:
        u = functools.partial(_along, u, axis)
    return u


def _along(u: Function, axis: int, x: jax.Array) -> jax.Array:
    # Of one coordinate: a direction in all would be moved out of the loop of the steps, once for
    # each call, and then equal calls of the network would not be merged.
    before, column, after = jnp.split(x, (axis, axis + 1), -1)

    def of_column(column: jax.Array) -> jax.Array:
        return u(jnp.concatenate([before, column, after], -1))

    return jax.jvp(of_column, (column,), (jnp.ones_like(column),))[1]


def find_equation(name: str) -> Equation:
    """The equation of that name, or the user's, MODULE:NAME; ValueError if there is none."""
    if ":" not in name:
        if name not in EQUATIONS:
            known = ", ".join(EQUATIONS)
            raise ValueError(f"pde:{name}: unknown equation; known: {known}, or MODULE:NAME")
        return EQUATIONS[name]
    equation = load_object("pde", name)
    if not isinstance(equation, Equation):
        raise ValueError(f"pde:{name} is a {type(equation).__name__}, expected an Equation")
    return equation


def require_usable(name: str, equation: Equation) -> None:
    """Raises ValueError if a part of the user's equation fails or returns another shape."""
    try:
        low, high = (np.asarray(end, np.float64) for end in (equation.low, equation.high))
        is_box = low.ndim == 1 and low.size and low.shape == high.shape
        if not (is_box and np.isfinite([low, high]).all() and (low < high).all()):
            raise ValueError(
                f"low = {equation.low}, high = {equation.high}: expected two corners of a box, [d]"
            )
        x = np.random.default_rng(0).uniform(low, high, (5, low.size)).astype(np.float32)
        of_points: dict[str, Any] = {
            "solution": jax.eval_shape(equation.solution, x, x[:, 0]),
            "residual": jax.eval_shape(functools.partial(equation.residual, _sum_of_sines), x),
        }
        if equation.reference is not None:
            of_points["reference"] = np.asarray(equation.reference(x.astype(np.float64)))
        for part, values in of_points.items():
            if values.shape != (5,):
                found = f"{list(values.shape)} at x [5, {low.size}]"
                raise ValueError(f"the {part} is {found}, expected [5]")
        if equation.conditions is not None:
            known, u = equation.conditions(np.random.default_rng(0))
            if np.ndim(u) != 1 or np.shape(known) != (len(u), low.size):
                raise ValueError(
                    f"the conditions are x {list(np.shape(known))} and u {list(np.shape(u))}, "
                    f"expected [C, {low.size}] and [C]"
                )
    except (Exception, SystemExit) as error:  # whatever the user's equation raises
        raise ValueError(f"pde:{name}: {one_line(error)}") from error


def _sum_of_sines(x: jax.Array) -> jax.Array:
    """Some function, to call a residual with."""
    return jnp.sum(jnp.sin(x), -1)


def outputs(equation: Equation, network: Function, x: jax.Array) -> jax.Array:
    """u and the residual at x [B, d], as [B, 2].

    Args:
        network: coordinates in [−1, 1]^d → [B].
    """
    low, high = (jnp.asarray(end, jnp.float32) for end in (equation.low, equation.high))
    # As if the box were data of the step: see `step.run_steps`.
    low, high, x = jax.lax.optimization_barrier((low, high, x))

    def u(x: jax.Array) -> jax.Array:
        return equation.solution(x, network((2 * x - low - high) / (high - low)))

    return jnp.stack([u(x), equation.residual(u, x)], -1)


class Points(NamedTuple):
    """inputs [M, d] and labels [M, 2] float32: u where it is given, and the weight of its error;
    0 where the residual counts."""

    inputs: np.ndarray
    labels: np.ndarray


def sample(equation: Equation, seed: int, points: int) -> dict[str, Points]:
    """The points of one seed, uniform on the box: train, validation, test."""
    rng = np.random.default_rng([seed, 0x9DE])

    def inside(count: int) -> np.ndarray:
        return rng.uniform(equation.low, equation.high, (count, len(equation.low)))

    def part(count: int) -> Points:
        x = inside(count)
        labels = np.zeros((count, 2))
        if equation.conditions:
            known, u = equation.conditions(rng)
            x = np.concatenate([x, known])
            weights = np.full(len(u), equation.weight)
            labels = np.concatenate([labels, np.stack([u, weights], -1)])
        return Points(x.astype(np.float32), labels.astype(np.float32))

    train, validation = part(points), part(HELD_OUT)
    if equation.reference is None:
        return {"train": train, "validation": validation, "test": part(HELD_OUT)}
    x = inside(TESTED).astype(np.float32)
    values = equation.reference(x.astype(np.float64))
    test = Points(x, np.stack([values, np.ones_like(values)], -1).astype(np.float32))
    return {"train": train, "validation": validation, "test": test}


def tabulate_fit(equation: Equation, fitted: Fitted) -> dict[str, np.ndarray]:
    """The reference and a trained solution, as `functions.tabulate_fit` has them; the coordinates
    are scaled to [−1, 1]."""
    reference = equation.reference
    assert reference is not None
    low, high = np.asarray(equation.low), np.asarray(equation.high)

    def unscaled(x: np.ndarray) -> np.ndarray:
        return low + (x + 1) / 2 * (high - low)

    table = functions.tabulate(
        lambda x: reference(unscaled(x.astype(np.float64))),
        lambda x: fitted(unscaled(x).astype(np.float32)),
        *(len(low), (-1.0, 1.0), 0.25),
    )
    found: dict[str, Any] = {**table, "center": 0.0, "inside": 1.0}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


# Burgers: u_t + u u_x = ν u_xx, u(x, 0) = −sin πx, u(±1, t) = 0

VISCOSITY = 0.01 / math.pi


def _burgers(u: Function, x: jax.Array) -> jax.Array:
    return partial(u, 1)(x) + u(x) * partial(u, 0)(x) - VISCOSITY * partial(u, 0, 0)(x)


def burgers_reference(x: np.ndarray, nodes: int = 200) -> np.ndarray:
    """By the transform of Cole and Hopf, its integrals by Gauss and Hermite.

    200 nodes and 300 differ by less than 1e-14 everywhere.
    """
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    place, time = x[:, :1], x[:, 1:]
    y = place - 2 * np.sqrt(VISCOSITY * time) * z
    exponent = -np.cos(np.pi * y) / (2 * np.pi * VISCOSITY)
    kernel = weights * np.exp(exponent - exponent.max(-1, keepdims=True))
    value: np.ndarray = -(np.sin(np.pi * y) * kernel).sum(-1) / kernel.sum(-1)
    return value


# Allen-Cahn: u_t = 1e-4 u_xx + 5 (u − u³), u(x, 0) = x² cos πx, u(±1, t) = −1

DIFFUSION = 1e-4


def _allen_cahn(u: Function, x: jax.Array) -> jax.Array:
    value = u(x)
    return partial(u, 1)(x) - DIFFUSION * partial(u, 0, 0)(x) - 5 * (value - value**3)


def allen_cahn_reference(x: np.ndarray) -> np.ndarray:
    """Interpolated from a grid; twice as many intervals change it by 1e-9 in relative L2."""
    return _allen_cahn_spline(2000)(x[:, 0], x[:, 1], grid=False)  # type: ignore[no-any-return]


@functools.cache
def _allen_cahn_spline(intervals: int) -> interpolate.RectBivariateSpline:
    """Central differences on two grids, extrapolated to an error of h⁴."""
    times = np.linspace(0, 1, 201)
    coarse, fine = (_allen_cahn_lines(n, times) for n in (intervals, 2 * intervals))
    values = fine[::2] + (fine[::2] - coarse) / 3
    return interpolate.RectBivariateSpline(
        np.linspace(-1, 1, intervals + 1), times, values, kx=5, ky=5
    )


def _allen_cahn_lines(intervals: int, times: np.ndarray) -> np.ndarray:
    """The method of lines, [intervals + 1, times]."""
    x = np.linspace(-1, 1, intervals + 1)
    rate = DIFFUSION / (x[1] - x[0]) ** 2

    def change(_: float, u: np.ndarray) -> np.ndarray:
        full = np.concatenate([[-1.0], u, [-1.0]])
        return rate * (full[2:] - 2 * u + full[:-2]) + 5 * (u - u**3)

    start = (x**2 * np.cos(np.pi * x))[1:-1]
    found = integrate.solve_ivp(
        *(change, (0, 1), start), "LSODA", times, lband=1, uband=1, rtol=1e-10, atol=1e-12
    ).y
    ends = np.full((1, len(times)), -1.0)
    return np.concatenate([ends, found, ends])


# Helmholtz: u_xx + u_yy + u = q, u = 0 at the border; q such that u = sin πx sin 4πy


def _helmholtz(u: Function, x: jax.Array) -> jax.Array:
    wanted = jnp.sin(jnp.pi * x[:, 0]) * jnp.sin(4 * jnp.pi * x[:, 1])
    source = (1 - 17 * jnp.pi**2) * wanted
    return partial(u, 0, 0)(x) + partial(u, 1, 1)(x) + u(x) - source


# Convection: u_t + 30 u_x = 0, u(x, 0) = sin x, u(0, t) = −sin 30 t

SPEED = 30.0


def _convection(u: Function, x: jax.Array) -> jax.Array:
    return partial(u, 1)(x) + SPEED * partial(u, 0)(x)


EQUATIONS: dict[str, Equation] = {
    "burgers": Equation(
        (-1.0, 0.0),
        (1.0, 1.0),
        _burgers,
        burgers_reference,
        lambda x, n: -jnp.sin(jnp.pi * x[:, 0]) + x[:, 1] * (1 - x[:, 0] ** 2) * n,
    ),
    "allen_cahn": Equation(
        (-1.0, 0.0),
        (1.0, 1.0),
        _allen_cahn,
        allen_cahn_reference,
        lambda x, n: x[:, 0] ** 2 * jnp.cos(jnp.pi * x[:, 0]) + x[:, 1] * (1 - x[:, 0] ** 2) * n,
    ),
    "helmholtz": Equation(
        (-1.0, -1.0),
        (1.0, 1.0),
        _helmholtz,
        lambda x: np.sin(np.pi * x[:, 0]) * np.sin(4 * np.pi * x[:, 1]),
        lambda x, n: (1 - x[:, 0] ** 2) * (1 - x[:, 1] ** 2) * n,
    ),
    "convection": Equation(
        (0.0, 0.0),
        (2 * math.pi, 1.0),
        _convection,
        lambda x: np.sin(x[:, 0] - SPEED * x[:, 1]),
        lambda x, n: jnp.sin(x[:, 0]) - jnp.sin(SPEED * x[:, 1]) + x[:, 0] * x[:, 1] * n,
    ),
}
