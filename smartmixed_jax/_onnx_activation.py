"""How the fixed activation of a layer is written in ONNX: neurons with one function together.

The neurons are put in an order in which those with the same function are neighbours. Each function
is then evaluated on its part alone, every element once; the order becomes part of the weights
before and after (`_onnx_graph`).

ELU and SELU are written with Exp: onnxruntime's own Elu and Selu take 20 times as long, PRelu 50
times, and Where after a comparison as long (1.32 on a CPU with AVX-512).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from smartmixed_jax import _sine
from smartmixed_jax._fused import ALPHA, LAMBDA
from smartmixed_jax.pools import ActivationPool, identity, leaky_relu
from smartmixed_jax.types import Activation

Add = Callable[..., str]
"""`add(operator, *operands, **attributes)` → result; an operand is a name or a number."""


def _node(operator: str, **attributes: Any) -> Callable[[Add, str], str]:
    return lambda add, x: add(operator, x, **attributes)


def _same(add: Add, x: str) -> str:
    return x


def _elu(add: Add, x: str) -> str:
    """max(x, min(eˣ, 1) − 1), for eˣ − 1 ≥ x."""
    return add("Max", x, add("Sub", add("Clip", add("Exp", x), "", 1.0), 1.0))


def _selu(add: Add, x: str) -> str:
    """λ·max(x, 0) + λα·min(eˣ, 1) − λα."""
    negative = add("Mul", add("Clip", add("Exp", x), "", 1.0), LAMBDA * ALPHA)
    positive = add("Mul", add("Relu", x), LAMBDA)
    return add("Sub", add("Add", positive, negative), LAMBDA * ALPHA)


def _silu(add: Add, x: str) -> str:
    return add("Mul", x, add("Sigmoid", x))


def _mish(add: Add, x: str) -> str:
    return add("Mul", x, add("Tanh", add("Softplus", x)))


WRITTEN: dict[Any, Callable[[Add, str], str]] = {
    jax.nn.relu: _node("Relu"),
    jax.nn.leaky_relu: _node("LeakyRelu", alpha=0.01),
    jax.nn.elu: _elu,
    jax.nn.selu: _selu,
    jax.nn.silu: _silu,
    jax.nn.mish: _mish,
    jax.nn.softplus: _node("Softplus"),
    **dict.fromkeys((jax.nn.sigmoid, jax.lax.logistic), _node("Sigmoid")),
    **dict.fromkeys((jnp.tanh, jax.nn.tanh, jax.lax.tanh), _node("Tanh")),
    **dict.fromkeys((_sine.sin, jnp.sin), _node("Sin")),
    **dict.fromkeys((identity, jax.nn.identity), _same),
}
"""Functions with a form of their own; every other one becomes what its jaxpr says."""


def written(function: Activation) -> Callable[[Add, str], str] | None:
    """The function's own form, if it has one."""
    if isinstance(function, leaky_relu):
        return _node("LeakyRelu", alpha=float(function.slope))
    return WRITTEN.get(function)


class Group(NamedTuple):
    """Neurons with one function: their indices [M], and the function."""

    neurons: np.ndarray
    function: Activation


def groups(pool: ActivationPool, choices: np.ndarray) -> list[Group]:
    """The groups of N neurons with choices [N]; every neuron is in one of them."""
    return [Group(np.flatnonzero(choices == k), pool.functions[k]) for k in np.unique(choices)]
