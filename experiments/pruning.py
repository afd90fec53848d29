"""A smaller network with fixed choices: neurons are removed in rounds, the others fitted again.

Each round removes the neurons of the least effect on the outputs, then fits all weights to all
training examples by least squares. That reaches what Adam and L-BFGS do not: where the target can
be written with functions of the network, an error of rounding (experiments/LOG.md).
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from scipy import linalg

from experiments.evaluate import TrainedRun, load_data, trained
from experiments.training.models import PReLU
from smartmixed_jax import MLP, FunctionTable, MixedActivation, SelectiveActivation
from smartmixed_jax.types import Activation

SHARE = 0.2
"""Of the neurons that are left, at least one, each round removes."""
LARGE, SMALL = 64, 30
"""Of more neurons only the last layer is fitted; of fewer the fit may take more steps."""
WEIGHTS = 4_000
"""Of more weights, too, only the last layer is fitted: their curvature takes a second a step."""
ROWS = 4_096
"""So many examples' derivatives are held at once."""
STEPS = 20, 60
"""Of a fit of all weights, at most: from SMALL neurons on, and of fewer."""
DAMPING = 1e-2
"""Of the first step, by the diagonal of the curvature."""
TRIES = 6
"""With more and more damping, before a fit ends."""
GAIN, PATIENCE = 0.02, 3
"""A fit ends when so many steps in a row lower the sum of squares by less than this share."""

Examples = tuple[Any, Any]
"""Inputs [M, d] and values [M, out_features]."""


class _Network(NamedTuple):
    """An MLP as arrays.

    Attributes:
        weights: of every layer the kernel [in, out] and the bias [out], float64.
        pools: of every hidden layer its functions.
        choices: of every hidden layer the index of each neuron's function, [N].
    """

    weights: list[tuple[np.ndarray, np.ndarray]]
    pools: list[tuple[Activation, ...]]
    choices: list[np.ndarray]

    @property
    def neurons(self) -> int:
        return sum(map(len, self.choices))


class _Forward(NamedTuple):
    """What the layers of a network make of M inputs.

    Attributes:
        values: what enters every layer, [M, in].
        slopes: of every hidden layer the derivative of each neuron's function, [M, N].
        outputs: [M, out_features].
    """

    values: list[np.ndarray]
    slopes: list[np.ndarray]
    outputs: np.ndarray


class Pruned(NamedTuple):
    """A smaller network.

    Attributes:
        model: a network of its own, of the neurons that are left.
        error: MSE / Var y on the validation examples.
    """

    model: MLP
    error: float


def smaller(run: TrainedRun, limit: float = 0.0, *, one_function: bool = False) -> TrainedRun:
    """The run with a network of fewer neurons: `prune_and_refit` on the data of its task.

    Args:
        run: not changed.
        limit, one_function: see there.

    Raises:
        ValueError: it is no mlp of functions that no longer change, or its target is no number.
    """
    fixed = isinstance(run.network, MLP) and not any(
        isinstance(activation, SelectiveActivation | PReLU)
        for activation in run.network.activations
    )
    if not fixed or not run.task.objective.normalized:
        raise ValueError(f"{run.task.name}: expected an mlp that chose its functions to fit values")
    splits = load_data(run).splits
    train, validation = splits["train"], splits["validation"]
    small = prune_and_refit(run.network, train, validation, limit, one_function=one_function)
    return trained(run.config, run.task, small.model)


def prune_and_refit(
    model: MLP,
    train: Examples,
    validation: Examples,
    limit: float = 0.0,
    *,
    one_function: bool = False,
) -> Pruned:
    """The best of the networks with fewer and fewer neurons, down to one in each layer.

    Args:
        model: its hidden layers fixed, or of one function; not changed.
        train: what the weights are fitted to.
        validation: what the networks are compared on.
        limit: of MSE / Var y. If any network is as good as this, the smallest of them is taken.
        one_function: all neurons get the function of the most, before the first round.

    Returns:
        That of the lowest validation error, the one before the first round among them.

    Raises:
        ValueError: one_function, and the pools of the layers differ.
    """
    train, validation = _arrays(train), _arrays(validation)
    network = _network_of(model)
    if one_function:
        network = _with_majority(network)
    best = network
    lowest = _error(network, validation)
    while (fewer := _remove(network, train[0])).neurons < network.neurons:
        network = _fit(fewer, train)
        error = _error(network, validation)
        if not np.isfinite(error):
            break
        if error <= max(lowest, limit):
            best, lowest = network, error
    return Pruned(_model_of(model, best), lowest)


def _arrays(examples: Examples) -> Examples:
    return tuple(np.asarray(part, np.float64) for part in examples)  # type: ignore[return-value]


# The network as arrays, and back


def _network_of(model: MLP) -> _Network:
    weights = [
        (np.asarray(layer.kernel[...], np.float64), np.asarray(layer.bias[...], np.float64))
        for layer in model.layers
    ]
    pools: list[tuple[Activation, ...]] = []
    choices = []
    for activation, (_, bias) in zip(model.activations, weights, strict=False):
        if isinstance(activation, MixedActivation):
            table = activation.tables()[""]
            pools.append(table.pool.functions)
            choices.append(np.asarray(table.choices))
        else:
            pools.append((activation,))
            choices.append(np.zeros(len(bias), np.int64))
    return _Network(weights, pools, choices)


def _model_of(model: MLP, network: _Network) -> MLP:
    """A network like the model, with these weights and choices."""
    waiting = iter(zip(model.activations, network.choices, strict=True))

    def factory(features: int, *, rngs: Any) -> Any:
        activation, choices = next(waiting)
        if not isinstance(activation, MixedActivation):
            return activation
        return MixedActivation(FunctionTable(activation.tables()[""].pool, choices))

    hidden, out = [len(choices) for choices in network.choices], len(network.weights[-1][1])
    small = MLP(model.in_features, hidden, out, activation=factory, rngs=nnx.Rngs(0))
    for layer, (kernel, bias) in zip(small.layers, network.weights, strict=True):
        layer.kernel[...] = jnp.asarray(kernel, layer.kernel.dtype)
        layer.bias[...] = jnp.asarray(bias, layer.bias.dtype)
    return small


def _with_majority(network: _Network) -> _Network:
    """Every neuron with the function of the most; ValueError if the layers' pools differ."""
    if len(set(network.pools)) > 1:
        raise ValueError("one_function: expected layers that chose from one pool")
    most = np.bincount(np.concatenate(network.choices)).argmax()
    return network._replace(choices=[np.full_like(c, most) for c in network.choices])


# Its outputs and their derivatives


@functools.partial(jax.jit, static_argnums=0)
def _value_and_slope(function: Activation, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.jvp(function, (x,), (jnp.ones_like(x),))


def _forward(network: _Network, inputs: np.ndarray) -> _Forward:
    values, slopes = [inputs], []
    *hidden, (kernel, bias) = network.weights
    for (w, b), pool, choices in zip(hidden, network.pools, network.choices, strict=True):
        before = values[-1] @ w + b
        value, slope = np.empty_like(before), np.empty_like(before)
        for index in np.unique(choices):
            columns = choices == index
            found = _value_and_slope(pool[index], before[:, columns].astype(np.float32))
            value[:, columns], slope[:, columns] = map(np.asarray, found)
        values.append(value)
        slopes.append(slope)
    return _Forward(values, slopes, values[-1] @ kernel + bias)


def _backward(network: _Network, forward: _Forward) -> Iterator[np.ndarray]:
    """Derivatives of the outputs by the layers' own, [M, out_features, out]; the last first."""
    count, out = forward.outputs.shape
    derivative = np.broadcast_to(np.eye(out), (count, out, out))
    yield derivative
    after = network.weights[:0:-1]
    for (kernel, _), slope in zip(after, forward.slopes[::-1], strict=True):
        derivative = (derivative @ kernel.T) * slope[:, None, :]
        yield derivative


def _jacobian(network: _Network, inputs: np.ndarray) -> np.ndarray:
    """Derivatives of the outputs by the weights, in the order of `_flat`: [M·out_features, P]."""
    forward = _forward(network, inputs)
    blocks = []
    for value, by_layer in zip(forward.values[::-1], _backward(network, forward), strict=True):
        blocks.append(by_layer)
        kernel = value[:, None, :, None] * by_layer[:, :, None, :]
        blocks.append(kernel.reshape(*by_layer.shape[:2], -1))
    return np.concatenate(blocks[::-1], -1).reshape(forward.outputs.size, -1)


def _error(network: _Network, examples: Examples) -> float:
    """MSE / Var y."""
    inputs, values = examples
    with np.errstate(over="ignore", invalid="ignore"):
        return normalized_error(_forward(network, inputs).outputs, values)


def normalized_error(outputs: np.ndarray, values: np.ndarray) -> float:
    """MSE / Var y of outputs [M, out_features]."""
    return float(np.mean((outputs - values) ** 2) / np.var(values))


# A round


def _remove(network: _Network, inputs: np.ndarray) -> _Network:
    """Without the neurons of the least effect, what their mean gives added to the next bias.

    The effect is the variance of the outputs that their neuron's variation makes, to first order
    (Molchanov et al., arXiv 1611.06440). Every layer keeps that of the most.
    """
    forward = _forward(network, inputs)
    derivatives = [*_backward(network, forward)][::-1]
    effects = [
        np.var((value - value.mean(0))[:, None] * (derivative @ kernel.T), 0).sum(0)
        for value, derivative, (kernel, _) in zip(
            forward.values[1:], derivatives[1:], network.weights[1:], strict=True
        )
    ]
    most = [effect == effect.max() for effect in effects]
    others = np.sort(np.concatenate([e[~stays] for e, stays in zip(effects, most, strict=True)]))
    threshold = others[: max(1, int(SHARE * network.neurons))].max(initial=-np.inf)
    kept = [(e > threshold) | stays for e, stays in zip(effects, most, strict=True)]
    weights = []
    every = [np.ones(len(network.weights[0][0]), bool), *kept]
    for place, (kernel, bias) in enumerate(network.weights):
        rows = every[place]
        bias = bias + forward.values[place].mean(0)[~rows] @ kernel[~rows]
        columns = kept[place] if place < len(kept) else slice(None)
        weights.append((kernel[rows][:, columns], bias[columns]))
    choices = [choice[keep] for choice, keep in zip(network.choices, kept, strict=True)]
    return network._replace(weights=weights, choices=choices)


def _fit(network: _Network, train: Examples) -> _Network:
    """All weights, or those of the last layer, by least squares."""
    inputs, values = train
    if network.neurons > LARGE or _flat(network).size > WEIGHTS:
        last = _forward(network, inputs).values[-1]
        design = np.concatenate([last, np.ones_like(last[:, :1])], 1)
        solution = np.linalg.lstsq(design, values)[0]
        return network._replace(weights=[*network.weights[:-1], (solution[:-1], solution[-1])])
    return _levenberg_marquardt(network, train, STEPS[network.neurons < SMALL])


def _levenberg_marquardt(network: _Network, train: Examples, steps: int) -> _Network:
    """At most so many steps that lower the sum of squares; the curvature by the Jacobian alone.

    Marquardt 1963, doi.org/10.1137/0111030. By Cholesky, which takes a fifth of the time of
    scipy's trust region for the same error (experiments/LOG.md).
    """
    inputs, values = train
    with np.errstate(over="ignore", invalid="ignore"):
        residual = _forward(network, inputs).outputs - values
        damping, small = DAMPING, 0
        for _ in range(steps):
            curvature, gradient = _parabola(network, inputs, residual)
            for _ in range(TRIES):
                trial = _step(network, curvature, gradient, damping)
                found = _forward(trial, inputs).outputs - values
                before, after = np.vdot(residual, residual), np.vdot(found, found)
                if after < before:
                    break
                damping *= 4
            else:
                return network
            network, residual, damping = trial, found, max(damping / 5, 1e-13)
            small = small + 1 if after > (1 - GAIN) * before else 0
            if small == PATIENCE:
                break
    return network


def _parabola(
    network: _Network, inputs: np.ndarray, residual: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Half the sum of squares, around the weights: its curvature [P, P] and its gradient [P]."""
    curvature: Any = 0
    gradient: Any = 0
    for first in range(0, len(inputs), ROWS):
        rows = slice(first, first + ROWS)
        jacobian = _jacobian(network, inputs[rows])
        curvature = curvature + jacobian.T @ jacobian
        gradient = gradient + jacobian.T @ residual[rows].ravel()
    return curvature, gradient


def _step(
    network: _Network, curvature: np.ndarray, gradient: np.ndarray, damping: float
) -> _Network:
    """The minimum of the damped parabola; the network itself where rounding leaves it none."""
    diagonal = np.diag(curvature)
    damped = curvature + damping * np.diag(diagonal + 1e-10 * diagonal.max())
    try:
        factor = linalg.cho_factor(damped, check_finite=False)
    except linalg.LinAlgError:
        return network
    return _with(network, _flat(network) - linalg.cho_solve(factor, gradient, check_finite=False))


def _flat(network: _Network) -> np.ndarray:
    return np.concatenate([part.ravel() for pair in network.weights for part in pair])


def _with(network: _Network, flat: np.ndarray) -> _Network:
    """With the weights that `_flat` would return."""
    parts = [part for pair in network.weights for part in pair]
    ends = np.cumsum([part.size for part in parts])[:-1]
    found: Sequence[np.ndarray] = [
        new.reshape(part.shape) for new, part in zip(np.split(flat, ends), parts, strict=True)
    ]
    return network._replace(weights=list(zip(found[::2], found[1::2], strict=True)))
