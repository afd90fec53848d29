"""Networks whose neurons choose their own activation.

Read `types` first, then `pools`, `estimators`, `mixture`: they are the method. `nnx` holds the
parameters.
For Flax Linen `from smartmixed_jax import linen` has the same layers and `fix_choices`;
`select_activations` makes a model of yours selective.

Example:
    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from smartmixed_jax import MLP, SelectiveActivation, fix_choices, summarize
    >>> act = SelectiveActivation(64, rngs=nnx.Rngs(0))      # phase 1: 64 neurons, 6 functions
    >>> y = act(jnp.ones((8, 64)), rngs=nnx.Rngs(selection=1))

    >>> model = MLP(16, (64, 32), 10, rngs=nnx.Rngs(0))      # selective in every hidden layer
    >>> list(summarize(model)["activations.0"]["counts"])    # after training: what was chosen
    ['relu', 'sigmoid', 'tanh', 'leaky_relu', 'elu', 'selu']
    >>> fixed = fix_choices(model)                           # phase 2: the same weights, train on
"""

# ruff: noqa: I001  layers and functions, pools and their makers, a line each
from smartmixed_jax import estimators
from smartmixed_jax._fused import Coefficients, coefficients, covered
from smartmixed_jax.conversion import select_activations
from smartmixed_jax.mixture import apply_choices, mix
from smartmixed_jax.models import MLP
from smartmixed_jax.nnx import MixedActivation, SelectionLogits, SelectiveActivation
from smartmixed_jax.nnx import fix_choices, label_parameters, release_choices
from smartmixed_jax.pools import EXTENDED_POOL, MODERN_POOL, PAPER_POOL, REGRESSION_POOL
from smartmixed_jax.pools import SMOOTH_POOL, ActivationPool, leaky_relu
from smartmixed_jax.summary import summarize, switch_report
from smartmixed_jax.table import FunctionTable
from smartmixed_jax.types import Selection

__version__ = "0.2.0"
"""Of the package; pyproject.toml reads it here."""

# fmt: off
__all__ = [
    "EXTENDED_POOL", "MLP", "MODERN_POOL", "PAPER_POOL", "REGRESSION_POOL", "SMOOTH_POOL",
    "ActivationPool",
    "Coefficients", "FunctionTable", "MixedActivation", "Selection",
    "SelectionLogits", "SelectiveActivation", "__version__", "apply_choices",
    "coefficients", "covered", "estimators", "fix_choices", "label_parameters", "leaky_relu",
    "mix", "release_choices", "select_activations", "summarize", "switch_report",
]
