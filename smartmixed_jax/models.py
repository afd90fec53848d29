"""The reference network, and how a network takes its activation as an argument.

All parameters of the other layers are drawn before the activations draw theirs, so networks that
differ only in the activation start from the same weights. The last layer is linear and never
selective.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from smartmixed_jax import _checks
from smartmixed_jax.nnx import RngSource, SelectiveActivation

ActivationFactory = Callable[..., Callable[[jax.Array], jax.Array]]
"""`factory(features, rngs=rngs)` → what is called on x [..., features]."""


def uniform(function: Callable[[jax.Array], jax.Array]) -> ActivationFactory:
    """The factory of the usual network: the same function for every neuron of every layer.

    Raises TypeError unless `function` can be called.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> from smartmixed_jax.models import MLP, uniform
        >>> model = MLP(4, (8,), 2, activation=uniform(jax.nn.gelu), rngs=nnx.Rngs(0))
    """
    _checks.check("uniform", function=function)

    def build(features: int, *, rngs: RngSource) -> Callable[[jax.Array], jax.Array]:
        del features, rngs
        return function

    return build


class MLP(nnx.Module):
    """A multilayer perceptron.

    Args:
        in_features: width of the input.
        hidden: widths of the hidden layers.
        out_features: width of the output.
        activation: called as `activation(features, rngs=rngs)` for each hidden layer:
            `SelectiveActivation`, a `functools.partial` of it, or `uniform(jax.nn.relu)`.
        linear: called as `linear(din, dout, rngs=rngs)`; a `functools.partial` of `nnx.Linear`
            sets initializers and dtypes.
        rngs: its `params` stream draws the parameters.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a width < 1; in the call, x is not [..., in_features].

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from smartmixed_jax import MLP
        >>> model = MLP(784, (512, 256), 10, rngs=nnx.Rngs(0))
        >>> model(jnp.ones((8, 784)), rngs=nnx.Rngs(selection=1)).shape
        (8, 10)
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_features: int,
        *,
        activation: ActivationFactory = SelectiveActivation,
        linear: Callable[..., Any] = nnx.Linear,
        rngs: RngSource,
    ) -> None:
        _checks.check("MLP", hidden=hidden)
        hidden = tuple(hidden)
        _checks.check_int("MLP", "in_features", in_features, 1)
        for width in hidden:
            _checks.check_int("MLP", "hidden", width, 1)
        _checks.check_int("MLP", "out_features", out_features, 1)
        _checks.check("MLP", activation=activation, linear=linear, rngs=rngs)
        self.in_features = in_features
        widths = itertools.pairwise((in_features, *hidden, out_features))
        self.layers = nnx.List([linear(din, dout, rngs=rngs) for din, dout in widths])
        self.activations = nnx.List([activation(features, rngs=rngs) for features in hidden])

    def __call__(self, x: jax.Array, *, rngs: RngSource | None = None) -> jax.Array:
        """x [..., in_features] → [..., out_features]; rngs is passed to the selective layers."""
        if getattr(x, "shape", ())[-1:] != (self.in_features,):
            raise ValueError(f"MLP: x must be [..., {self.in_features}], got {_checks.shown(x)}")
        *hidden, last = self.layers
        for layer, activation in zip(hidden, self.activations, strict=True):
            x = activate(activation, layer(x), rngs)
        return last(x)


def activate(act: Callable[..., jax.Array], x: jax.Array, rngs: Any) -> jax.Array:
    """act(x), with the rngs if it is a selective layer."""
    return act(x, rngs=rngs) if isinstance(act, SelectiveActivation) else act(x)
