"""Ways to compute one layer's activations: the library's, uniform ones, and those that lost.

B is the batch, N the neurons, K = 6 the functions of the paper's pool.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.harness import Variant, require_close
from smartmixed_jax import PAPER_POOL, Selection, apply_choices, estimators, mix
from smartmixed_jax.pools import Activation

REFERENCES: dict[str, Activation] = {
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": jax.nn.gelu,
}
"""What the names mean, evaluated in float64 to check every variant: never the pool's own."""

UNIFORM = ("relu", "selu", "gelu", "tanh")


class Strategy(NamedTuple):
    """One way to compute an activation layer.

    Attributes:
        apply: x [B, N], Selection → y [B, N].
        names: [N], the function of each neuron; None: the one selected.
    """

    apply: Callable[[jax.Array, Selection], jax.Array]
    names: tuple[str, ...] | None

    @property
    def selective(self) -> bool:
        """Whether the selection decides, and its weights want a gradient."""
        return self.names is None


def strategies(features: int) -> dict[str, Strategy]:
    """Every strategy for a layer of N = features neurons; the fixed ones share random choices."""
    choices = np.random.default_rng(0).integers(len(PAPER_POOL), size=features)
    general = PAPER_POOL.with_form("general")
    uniform: dict[str, Any] = {name: REFERENCES[name] for name in UNIFORM}
    fixed: dict[str, Any] = {
        "fixed": lambda x: apply_choices(x, choices, PAPER_POOL),
        "fixed, where chain": lambda x: apply_choices(x, choices, general),
        "fixed, gather and scatter": lambda x: gather_and_scatter(x, choices),
        "fixed, one-hot einsum": lambda x: stack_and_sum(x, np.eye(len(PAPER_POOL))[choices]),
    }
    selective: dict[str, Any] = {
        "selective": lambda x, selection: mix(x, selection, PAPER_POOL),
        "selective, where chain": lambda x, selection: mix(x, selection, general),
        "selective, one-hot einsum": lambda x, selection: stack_and_sum(x, selection.weights),
    }
    names = tuple(PAPER_POOL.names[choice] for choice in choices)
    return (
        {name: Strategy(_unselected(f), (name,) * features) for name, f in uniform.items()}
        | {name: Strategy(_unselected(f), names) for name, f in fixed.items()}
        | {
            "fixed, sorted segments": Strategy(
                _unselected(lambda x: sorted_segments(x, np.sort(choices))),
                tuple(PAPER_POOL.names[choice] for choice in np.sort(choices)),
            )
        }
        | {name: Strategy(f, None) for name, f in selective.items()}
    )


def _unselected(function: Activation) -> Callable[[jax.Array, Selection], jax.Array]:
    return lambda x, selection: function(x)


def gather_and_scatter(x: jax.Array, choices: np.ndarray) -> jax.Array:
    """x [B, N], choices [N] → [B, N], column group by column group, as the published code does."""
    y = jnp.zeros_like(x)
    for k, function in enumerate(PAPER_POOL.functions):
        columns = np.flatnonzero(choices == k)
        y = y.at[:, columns].set(function(x[:, columns]))
    return y


def sorted_segments(x: jax.Array, choices: np.ndarray) -> jax.Array:
    """x [B, N], ascending choices [N] → [B, N]: each function on its own run of columns.

    The weights around the layer would be permuted once, at the switch, for free.
    """
    # Updated slice by slice: a concatenation is not fused on CPU.
    y = x
    for k, function in enumerate(PAPER_POOL.functions):
        first, end = np.searchsorted(choices, [k, k + 1])
        if first < end:
            y = jax.lax.dynamic_update_slice(y, function(x[:, first:end]), (0, first))
    return y


def stack_and_sum(x: jax.Array, weights: Any) -> jax.Array:
    """x [B, N], weights [N, K] → Σ_k weights[n, k] · f_k(x), from the stacked candidates."""
    candidates = jnp.stack([function(x) for function in PAPER_POOL.functions], -1)
    return jnp.einsum("bnk,nk->bn", candidates, jnp.asarray(weights, x.dtype))


def draw_selection(features: int, key: jax.Array) -> Selection:
    """Random choices of N = features neurons."""
    keys = jax.random.split(key)
    logits = jax.random.normal(keys[0], (features, len(PAPER_POOL)))
    return estimators.gumbel_straight_through(logits, keys[1], 1.0)


class Reference(NamedTuple):
    """Every function of REFERENCES at one input, and dL/dy; float64.

    Attributes:
        values: f(x), [7, B, N].
        slopes: f′(x), [7, B, N].
        g: [B, N].
    """

    values: np.ndarray
    slopes: np.ndarray
    g: np.ndarray

    def expect(self, strategy: Strategy, selection: Selection) -> tuple[np.ndarray, ...]:
        """y [B, N], dx [B, N] and d weights [N, K] of a layer of N neurons."""
        known = list(REFERENCES)
        names = strategy.names
        if names is None:
            names = tuple(PAPER_POOL.names[choice] for choice in np.asarray(selection.choices))
        of_neuron = np.array([known.index(name) for name in names])[None, None]
        y, slope = (
            np.take_along_axis(table, of_neuron, 0)[0] for table in (self.values, self.slopes)
        )
        sums = [np.sum(self.g * self.values[known.index(name)], 0) for name in PAPER_POOL.names]
        return y, self.g * slope, np.stack(sums, -1)


def evaluate_reference(x: Any, g: Any) -> Reference:
    """The reference at x [B, N] with dL/dy = g [B, N]."""
    with jax.enable_x64(True):
        values, slopes = _values_and_slopes(jnp.asarray(np.asarray(x, np.float64)))
    return Reference(np.asarray(values), np.asarray(slopes), np.asarray(g, np.float64))


@jax.jit
def _values_and_slopes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    both = [jax.jvp(f, (x,), (jnp.ones_like(x),)) for f in REFERENCES.values()]
    values, slopes = zip(*both, strict=True)
    return jnp.stack(values), jnp.stack(slopes)


def checked_variants(
    make: Callable[[Strategy], Callable[..., Any]],
    inputs: Sequence[tuple[Any, ...]],
    expect: Callable[[Strategy], Sequence[np.ndarray]],
    tolerance: float,
) -> dict[str, Variant]:
    """Every strategy compiled; BenchmarkError if one disagrees with float64.

    Args:
        make: strategy → function of one input.
        inputs: taken in turn; all results are compared on the first.
        expect: strategy → that function's results on the first input, in float64, or more.
        tolerance: of the relative error of each result.
    """
    variants = {}
    for name, strategy in strategies(len(inputs[0][-2].choices)).items():
        function = jax.jit(make(strategy))
        outputs = function(*inputs[0])
        require_close(name, outputs, expect(strategy)[: len(outputs)], tolerance)
        variants[name] = _rotating(function, inputs)
    return variants


def _rotating(function: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Variant:
    return lambda i: function(*inputs[i % len(inputs)])
