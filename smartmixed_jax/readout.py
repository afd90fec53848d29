"""What a fixed network says: `formula`, its outputs as sums of its functions.

A sum is a polynomial in the inputs and in functions of sums. `identity` and `square` leave only the
polynomial: x₁x₂ is what (x₁ + x₂)² / 4 − (x₁ − x₂)² / 4 expands to.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from smartmixed_jax import _checks
from smartmixed_jax._sine import sin
from smartmixed_jax.models import MLP
from smartmixed_jax.nnx import MixedActivation, SelectiveActivation
from smartmixed_jax.pools import Affine, gauss, identity, leaky_relu, square, zero
from smartmixed_jax.types import Activation

LARGEST = 400
"""A square that expands to more products than this stays a square."""
SINES = (sin, jnp.sin)
ODD = (*SINES, jnp.tanh, jax.nn.tanh)
EVEN = (gauss, square, jnp.cos)
HOMOGENEOUS = (jax.nn.relu, jax.nn.leaky_relu)
"""f(a x) = a f(x) for a > 0."""


class Call(NamedTuple):
    """A function of a sum, under its name in the pool."""

    name: str
    function: Activation
    argument: tuple[tuple["Monomial", float], ...]


Monomial = tuple[int | Call, ...]
"""A product: indices of inputs and calls, in order, a power by repetition; () is 1."""
Sum = dict[Monomial, float]
"""Monomials and their coefficients."""


@dataclasses.dataclass(frozen=True)
class Formula:
    """The outputs of a fixed network as sums of functions; as text by `str`, a line per output.

    Called on inputs [M, d] it gives what the text says, [M, out_features].

    Attributes:
        sums: one per output.
        names: of the inputs, d.
        error: RMS of the formula minus the network on the inputs, by the standard deviation of the
            network's output; the largest over the outputs.
        neurons: how many hidden neurons contribute.
    """

    sums: tuple[Sum, ...]
    names: tuple[str, ...]
    error: float
    neurons: int

    def __str__(self) -> str:
        lines = [_text(total, self.names) for total in self.sums]
        several = len(lines) > 1
        return "\n".join(f"y{i} = {line}" if several else line for i, line in enumerate(lines, 1))

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        x = _checked("Formula", inputs, len(self.names))
        return np.stack([_evaluate(total, x) for total in self.sums], -1)

    def sympy(self) -> list[Any]:
        """One sympy expression per output; functions that sympy lacks stay undefined ones.

        Raises ImportError without sympy.
        """
        try:
            import sympy
        except ImportError as error:
            raise ImportError("Formula.sympy needs sympy: pip install sympy") from error
        known: dict[Activation, Any] = {
            **dict.fromkeys(SINES, sympy.sin),
            jnp.cos: sympy.cos,
            **dict.fromkeys((jnp.tanh, jax.nn.tanh), sympy.tanh),
            jax.nn.relu: lambda u: sympy.Max(u, 0),
            jax.nn.sigmoid: lambda u: 1 / (1 + sympy.exp(-u)),
            jax.nn.silu: lambda u: u / (1 + sympy.exp(-u)),
            jax.nn.softplus: lambda u: sympy.log(1 + sympy.exp(u)),
            gauss: lambda u: sympy.exp(-(u**2)),
            square: lambda u: u**2 / 2,
        }
        symbols = [sympy.Symbol(name) for name in self.names]

        def expression(total: Sum) -> Any:
            return sympy.Add(*(c * sympy.Mul(*map(factor, m)) for m, c in total.items()))

        def factor(part: int | Call) -> Any:
            if isinstance(part, int):
                return symbols[part]
            function = known.get(part.function, sympy.Function(part.name))
            return function(expression(dict(part.argument)))

        return [expression(total) for total in self.sums]


def formula(
    model: MLP,
    inputs: np.ndarray | jax.Array | None = None,
    *,
    names: Sequence[str] | None = None,
    tolerance: float = 0.01,
    digits: int = 3,
) -> Formula:
    """What a small fixed network says.

    Neurons are removed, their mean put into the next biases, as long as no output changes by more
    than the tolerance. The others are written as a sum: identities and squares are expanded,
    equal functions of equal arguments become one, and terms below the tolerance are left out.
    `square` is x² / 2, so only an expanded one has the usual factor.

    Args:
        model: its activations are MixedActivations.
        inputs: [M, d], what a contribution is measured on; default: 1,000 points, uniform on
            [−2, 2]^d.
        names: of the d inputs; default x1, x2, ….
        tolerance: RMS by the standard deviation of the output, or of the argument that a term is
            in.
        digits: significant ones of a number in the text.

    Raises:
        TypeError: model is no MLP, or not fixed; names are no strings.
        ValueError: inputs are not [M, d] with M ≥ 1 finite rows; not d different names; tolerance
            < 0; digits < 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP, REGRESSION_POOL, SelectiveActivation, fix_choices
        >>> from smartmixed_jax.summary import formula
        >>> model = MLP(1, (1,), 1, rngs=nnx.Rngs(0), activation=lambda features, rngs:
        ...     SelectiveActivation(features, REGRESSION_POOL, start=("sin", 0.9), rngs=rngs))
        >>> model.layers[0].kernel[...] = jnp.array([[2.0]])
        >>> model.layers[1].kernel[...] = jnp.array([[-0.5]])
        >>> print(formula(fix_choices(model), names=["time"]))
        -0.5*sin(2*time)
    """
    layers = _layers(model)
    d = model.in_features
    if inputs is None:
        inputs = np.random.default_rng(0).uniform(-2, 2, (1000, d))
    x = _checked("formula", inputs, d)
    names = _checked_names(names, d)
    _checks.check_number("formula", "tolerance", tolerance, " ≥ 0", lambda value: value >= 0)
    _checks.check_int("formula", "digits", digits, 1)
    outputs = np.asarray(model(jnp.asarray(x, jnp.float32)), np.float64)
    if not np.isfinite(outputs).all():
        raise ValueError("formula: the model's outputs on the inputs must be finite")
    layers = _pruned(layers, x, tolerance)
    sums: list[Sum] = [{(index,): 1.0} for index in range(d)]
    for layer in layers:
        arguments = []
        for column, bias in zip(layer.kernel.T, layer.bias, strict=True):
            argument: Sum = {(): float(bias)}
            for weight, total in zip(column, sums, strict=True):
                _add(argument, total, float(weight))
            arguments.append(_tidied(argument, x, tolerance))
        calls = zip(layer.calls, arguments, strict=True)
        sums = [_called(*call, argument, tolerance, digits) for call, argument in calls]
    sums = [_rounded(total, digits) for total in sums]
    found = Formula(tuple(sums), names, 0.0, sum(len(layer.calls) for layer in layers[:-1]))
    return dataclasses.replace(found, error=_change(found(x), outputs))


# The network as arrays


class _Layer(NamedTuple):
    """kernel [N_in, N], bias [N], and each neuron's function with its name in the pool."""

    kernel: np.ndarray
    bias: np.ndarray
    calls: tuple[tuple[str, Activation], ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        x = x @ self.kernel + self.bias
        for call in set(self.calls):
            of_call = [number for number, other in enumerate(self.calls) if other == call]
            x[:, of_call] = _apply(call[1], x[:, of_call])
        return x


def _layers(model: MLP) -> list[_Layer]:
    if not isinstance(model, MLP):
        raise TypeError(f"formula: model must be an MLP, got {_checks.shown(model)}")
    found = []
    for number, layer in enumerate(model.layers):
        if not isinstance(layer, nnx.Linear):
            got = _checks.shown(layer)
            raise TypeError(f"formula: layers.{number} must be an nnx.Linear, got {got}")
        kernel = np.asarray(layer.kernel[...], np.float64)
        width = kernel.shape[-1]
        bias = np.zeros(width) if layer.bias is None else np.asarray(layer.bias[...], np.float64)
        calls: tuple[tuple[str, Activation], ...] = (("identity", identity),) * width
        if number < len(model.activations):
            calls = _calls(f"activations.{number}", model.activations[number])
        found.append(_Layer(kernel, bias, calls))
    return found


def _calls(path: str, activation: Any) -> tuple[tuple[str, Activation], ...]:
    if isinstance(activation, SelectiveActivation):
        raise TypeError(f"formula: {path} is selective, expected fixed choices: fix_choices(model)")
    if not isinstance(activation, MixedActivation):
        got = _checks.shown(activation)
        raise TypeError(f"formula: {path} must be a MixedActivation, got {got}")
    table = activation.tables()[""]
    return tuple((table.pool.names[k], table.pool.functions[k]) for k in table.choices)


def _pruned(layers: list[_Layer], x: np.ndarray, tolerance: float) -> list[_Layer]:
    """The layers without the neurons that together change no output by more than the tolerance."""
    outputs = _run(layers, x)
    hidden = [(n, j) for n, layer in enumerate(layers[:-1]) for j in range(len(layer.calls))]
    effects = {place: _change(_run(_without(layers, *place, x), x), outputs) for place in hidden}
    for place in sorted(hidden, key=effects.__getitem__):
        fewer = _without(layers, *place, x)
        if _change(_run(fewer, x), outputs) <= tolerance:
            layers = fewer
    for n, (layer, following) in enumerate(itertools.pairwise(layers)):
        kept = np.flatnonzero(following.kernel.any(1))
        calls = tuple(layer.calls[j] for j in kept)
        # Read again: its rows were cut one turn ago.
        layers[n] = _Layer(layers[n].kernel[:, kept], layer.bias[kept], calls)
        layers[n + 1] = following._replace(kernel=following.kernel[kept])
    return layers


def _without(layers: list[_Layer], number: int, neuron: int, x: np.ndarray) -> list[_Layer]:
    """The layers with a hidden neuron's mean in the next biases instead of the neuron."""
    mean = _run(layers[: number + 1], x)[:, neuron].mean()
    following = layers[number + 1]
    kernel = following.kernel.copy()
    kernel[neuron] = 0
    bias = following.bias + mean * following.kernel[neuron]
    changed = following._replace(kernel=kernel, bias=bias)
    return [*layers[: number + 1], changed, *layers[number + 2 :]]


def _run(layers: list[_Layer], x: np.ndarray) -> np.ndarray:
    for layer in layers:
        x = layer(x)
    return x


def _change(found: np.ndarray, outputs: np.ndarray) -> float:
    """RMS of the difference by the standard deviation of an output; the largest over outputs."""
    deviation, mean = outputs.std(0), np.abs(outputs).mean(0)
    unit = np.where(deviation > 1e-6 * mean, deviation, np.maximum(mean, 1e-30))
    return float(np.max(np.sqrt(np.mean((found - outputs) ** 2, 0)) / unit))


def _apply(function: Activation, x: np.ndarray) -> np.ndarray:
    return np.asarray(function(jnp.asarray(x, jnp.float32)), np.float64)


# Sums


def _add(total: Sum, part: Sum, factor: float) -> None:
    for monomial, coefficient in part.items():
        total[monomial] = total.get(monomial, 0.0) + factor * coefficient


def _called(name: str, function: Activation, argument: Sum, tolerance: float, digits: int) -> Sum:
    """function(argument) as a sum: expanded, a constant, or a coefficient and a call."""
    result: Sum = {}
    if isinstance(function, Affine):
        inner = _called(name, function.function, argument, tolerance, digits)
        _add(result, {(): -function.shift * function.scale}, 1.0)
        _add(result, inner, function.scale)
        return result
    if function is identity:
        return argument
    if function is zero:
        return {}
    if not set(argument) - {()}:
        constant = np.array([argument.get((), 0.0)])
        return {(): float(_apply(function, constant)[0])}
    if function is square and len(argument) ** 2 <= LARGEST:
        for (m, c), (n, d) in itertools.product(argument.items(), repeat=2):
            _add(result, {tuple(sorted(m + n, key=_factor_order)): 0.5 * c * d}, 1.0)
        return result
    factor, argument = _normalized(function, argument, tolerance)
    argument = _rounded(argument, digits)
    return {(Call(name, function, tuple(argument.items())),): factor}


def _normalized(function: Activation, argument: Sum, tolerance: float) -> tuple[float, Sum]:
    """function(argument) = factor · function(another argument), the same for ±, multiples and turns
    of one argument where the function lets them be."""
    argument, factor = dict(argument), 1.0
    leading = next(iter(argument.values()))
    if function in HOMOGENEOUS or isinstance(function, leaky_relu):
        factor = abs(leading)
        argument = {m: c / factor for m, c in argument.items()}
    elif leading < 0 and function in (*ODD, *EVEN):
        factor = -1.0 if function in ODD else 1.0
        argument = {m: -c for m, c in argument.items()}
    if function in SINES and () in argument:
        turns = round(argument[()] / math.pi)
        phase = argument.pop(()) - turns * math.pi
        argument |= {(): phase} if abs(phase) > tolerance else {}
        factor *= (-1.0) ** turns
    return factor, argument


def _tidied(total: Sum, x: np.ndarray, tolerance: float) -> Sum:
    """In order, without the terms that together are below the tolerance; their mean is added."""
    values = {m: c * _product(m, x) for m, c in total.items()}
    limit = tolerance * sum(values.values(), np.zeros(len(x))).std()
    kept, left_out = {}, np.zeros(len(x))
    for monomial in sorted(values, key=lambda m: values[m].std()):
        if (left_out + values[monomial]).std() > limit:
            kept[monomial] = total[monomial]
        else:
            left_out = left_out + values[monomial]
    if abs(left_out.mean()) > limit:
        kept[()] = float(left_out.mean())
    return {monomial: kept[monomial] for monomial in sorted(kept, key=_order)}


def _rounded(total: Sum, digits: int) -> Sum:
    return {m: float(f"{c:.{digits - 1}e}") for m, c in total.items()}


def _evaluate(total: Sum, x: np.ndarray) -> np.ndarray:
    """[M] of inputs [M, d]."""
    return sum((c * _product(m, x) for m, c in total.items()), np.zeros(len(x)))


def _product(monomial: Monomial, x: np.ndarray) -> np.ndarray:
    product = np.ones(len(x))
    for part in monomial:
        if isinstance(part, int):
            product = product * x[:, part]
        else:
            product = product * _apply(part.function, _evaluate(dict(part.argument), x))
    return product


# Text


def _text(total: Sum, names: Sequence[str] | None = None) -> str:
    text = ""
    for monomial, coefficient in total.items():
        powers = [(part, len([*same])) for part, same in itertools.groupby(monomial)]
        factors = [_factor(part, names) + (f"**{n}" if n > 1 else "") for part, n in powers]
        if abs(coefficient) != 1 or not factors:
            factors.insert(0, f"{abs(coefficient):.15g}")
        sign = "-" if coefficient < 0 else "+"
        text += f" {sign} {'*'.join(factors)}" if text else sign.strip("+") + "*".join(factors)
    return text or "0"


def _factor(part: int | Call, names: Sequence[str] | None) -> str:
    if isinstance(part, int):
        return f"x{part + 1}" if names is None else names[part]
    return f"{part.name}({_text(dict(part.argument), names)})"


def _order(monomial: Monomial) -> tuple[Any, ...]:
    """Products of inputs first, by their numbers; calls by their text; the constant last."""
    return monomial == (), *map(_factor_order, monomial)


def _factor_order(part: int | Call) -> tuple[Any, ...]:
    return (0, part, "") if isinstance(part, int) else (1, 0, _factor(part, None))


# Checks


def _checked(where: str, inputs: Any, d: int) -> np.ndarray:
    """Inputs as float64 [M, d]."""
    if not (_checks.is_array(inputs, jnp.floating) or _checks.is_array(inputs, jnp.integer)):
        raise TypeError(f"{where}: inputs must be an array of numbers, got {_checks.shown(inputs)}")
    x = np.asarray(inputs, np.float64)
    if x.ndim != 2 or x.shape[1] != d or len(x) < 1 or not np.isfinite(x).all():
        got = _checks.shown(inputs)
        raise ValueError(f"{where}: inputs must be [M, {d}], finite, M ≥ 1, got {got}")
    return x


def _checked_names(names: Sequence[str] | None, d: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"x{number}" for number in range(1, d + 1))
    listed = tuple(names) if isinstance(names, Sequence) else (names,)
    if isinstance(names, str) or not all(isinstance(name, str) for name in listed):
        raise TypeError(f"formula: names must be strings, got {_checks.shown(names)}")
    if len(listed) != d or len(set(listed)) < d:
        raise ValueError(f"formula: names must be {d} different ones, got {_checks.shown(names)}")
    return listed
