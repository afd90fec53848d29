"""Networks that people would use instead, as `--network experiments.rivals:NAME` takes them.

Each is a factory of the program's own kind, `NAME(input_shape, out_features, activation, rngs)`: so
a rival has the same data, batches, checkpoints and tables as ours. Its functions are its own;
`--method uniform:relu` says nothing is chosen. MLPs have two hidden layers of `WIDTH`, for
images of `IMAGE_WIDTH`; KANs are smaller, because a step of theirs takes several times as long.
Points are in [−2, 2].
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.pools import find_pool
from experiments.training.models import PReLU
from smartmixed_jax import MLP, REGRESSION_POOL, ActivationPool
from smartmixed_jax.pools import sin

WIDTH = 64
IMAGE_WIDTH = 128

Factory = Callable[..., nnx.Module]


# MLPs


class Rational(nnx.Module):
    """P(x) / (1 + |Q(x)|) of degrees 5 and 4, one for a layer (Molina et al., arXiv 1907.06732).

    It begins near Leaky ReLU, with the coefficients of the paper's appendix.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.above = nnx.Param(
            jnp.array([0.25103717, 1.48548002, 3.05202660, 2.32335207, 0.61837738, 0.02979246])
        )
        self.below = nnx.Param(jnp.array([0.34720652, 0.87154450, 4.39322834, 1.14201226]))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., N] → [..., N]."""
        below = x * jnp.polyval(self.below[...], x)
        return jnp.polyval(self.above[...], x) / (1 + jnp.abs(below))


class LayerMixture(nnx.Module):
    """Σ_k softmax(w)_k f_k(x): one mixture of a pool for a layer, never fixed."""

    def __init__(self, pool: ActivationPool, features: int, *, rngs: nnx.Rngs) -> None:
        self.pool = pool
        self.logits = nnx.Param(jnp.zeros((len(pool),)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., N] → [..., N]."""
        weights = jax.nn.softmax(self.logits[...])
        terms = [w * f(x) for w, f in zip(weights, self.pool.functions, strict=True)]
        return functools.reduce(jnp.add, terms)


class Sine(nnx.Module):
    """sin(ω x), of a SIREN (Sitzmann et al., arXiv 2006.09661)."""

    def __init__(self, frequency: float) -> None:
        self.frequency = frequency

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., N] → [..., N]."""
        return sin(self.frequency * x)


def prelu(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """An MLP of PReLUs."""
    return _mlp(PReLU, input_shape, out_features, rngs)


def rational(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """An MLP of rational functions."""
    return _mlp(Rational, input_shape, out_features, rngs)


def layer_mixture(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """An MLP of soft mixtures of the regression pool."""
    mixture = functools.partial(LayerMixture, REGRESSION_POOL)
    return _mlp(mixture, input_shape, out_features, rngs)


def smooth_layer_mixture(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """The same of the functions that equations choose among: three layers."""
    mixture = functools.partial(LayerMixture, find_pool("equations"))
    return _mlp(mixture, input_shape, out_features, rngs, hidden=(32, 32, 32))


def siren(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """A SIREN, ω = 3 for points in [−2, 2]: the published 30 is for images."""
    return _siren(3.0, input_shape, out_features, rngs)


def image_siren(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """A SIREN with the published ω = 30, for coordinates in [−1, 1]: --range -1 1."""
    return _siren(30.0, input_shape, out_features, rngs, IMAGE_WIDTH)


def _mlp(
    activation: Any,
    input_shape: tuple[int, ...],
    out_features: int,
    rngs: nnx.Rngs,
    hidden: tuple[int, ...] = (WIDTH, WIDTH),
) -> nnx.Module:
    # Kernels N(0, 1/fan_in), as those of our networks.
    linear = functools.partial(nnx.Linear, kernel_init=nnx.initializers.lecun_normal())
    return MLP(
        math.prod(input_shape),
        hidden,
        out_features,
        activation=activation,
        linear=linear,
        rngs=rngs,
    )


def _siren(
    frequency: float,
    input_shape: tuple[int, ...],
    out_features: int,
    rngs: nnx.Rngs,
    width: int = WIDTH,
) -> nnx.Module:
    model = MLP(
        math.prod(input_shape),
        (width, width),
        out_features,
        activation=lambda features, rngs: Sine(frequency),
        rngs=rngs,
    )
    # U(±1/n) first, then U(±√(6/n)/ω), n the inputs of the layer.
    for number, layer in enumerate(model.layers):
        n = layer.kernel.shape[0]
        bound = 1 / n if number == 0 else math.sqrt(6 / n) / frequency
        layer.kernel[...] = jax.random.uniform(
            rngs.params(), layer.kernel.shape, minval=-bound, maxval=bound
        )
    return model


# Kolmogorov-Arnold networks, of the package jaxkan


class Grid(nnx.Module):
    """A grid of jaxkan as a module, so that two networks of one shape are one program."""

    def __init__(self, grid: Any) -> None:
        self.k, self.G = grid.k, grid.G
        self.knots = nnx.Variable(grid.item)

    @property
    def item(self) -> jax.Array:
        """The knots, [edges, G + 2k + 1]."""
        knots: jax.Array = self.knots[...]
        return knots


class Kan(nnx.Module):
    """A KAN of jaxkan on points in [−2, 2]."""

    def __init__(self, widths: list[int], layer: str, options: dict[str, Any], seed: int) -> None:
        try:
            from jaxkan.models.KAN import KAN
        except ImportError as error:
            raise ValueError(f"a KAN needs jaxkan ({error}): pip install jaxkan") from error
        self.network = KAN(widths, layer, options, seed)
        for each in self.network.layers:
            if hasattr(each, "grid"):
                each.grid = nnx.data(Grid(each.grid))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, d] → [B, out_features]."""
        y: jax.Array = self.network(x.reshape(len(x), -1) / 2)
        return y


def spline_kan(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """Cubic splines on five intervals, widths d-12-12-out."""
    return _kan(12, "base", {"k": 3, "G": 5}, input_shape, out_features, rngs)


def wide_spline_kan(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """The same with 19 nodes per layer: as many parameters as an MLP d-64-64-out."""
    return _kan(19, "base", {"k": 3, "G": 5}, input_shape, out_features, rngs)


def chebyshev_kan(
    input_shape: tuple[int, ...], out_features: int, activation: Any, rngs: Any
) -> nnx.Module:
    """Chebyshev polynomials up to degree 5 of tanh x, widths d-16-16-out."""
    return _kan(16, "chebyshev", {"D": 5, "flavor": "exact"}, input_shape, out_features, rngs)


def _kan(
    width: int,
    layer: str,
    options: dict[str, Any],
    input_shape: tuple[int, ...],
    out_features: int,
    rngs: nnx.Rngs,
) -> nnx.Module:
    seed = int(jax.random.randint(rngs.params(), (), 0, 2**31 - 1))
    return Kan([math.prod(input_shape), width, width, out_features], layer, options, seed)
