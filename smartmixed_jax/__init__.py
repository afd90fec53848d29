"""Networks whose neurons choose their own activation.

    import jax.numpy as jnp
    from flax import nnx
    from smartmixed_jax import MLP, SelectiveActivation, fix_choices, summarize

    act = SelectiveActivation(64, rngs=nnx.Rngs(0))       # phase 1: 64 neurons, 6 functions
    y = act(jnp.ones((8, 64)), rngs=nnx.Rngs(selection=1))

    model = MLP(784, (512, 256), 10, rngs=nnx.Rngs(0))    # selective in every hidden layer
    ...                                                   # train weights and logits
    summarize(model)                                      # what was chosen
    fixed = fix_choices(model)                            # phase 2: the same weights, fixed choices
    ...                                                   # train on

    model = select_activations(yours, x, rngs=nnx.Rngs(0))  # a model of yours made selective

Read `pools`, `estimators`, `mixture` first: they are the method. `nnx` holds the parameters.
For Flax Linen `from smartmixed_jax import linen` has the same layers and `fix_choices`.
"""

from smartmixed_jax import estimators, one_exp
from smartmixed_jax.conversion import label_parameters, release_choices, select_activations
from smartmixed_jax.estimators import Selection
from smartmixed_jax.mixture import apply_choices, mix
from smartmixed_jax.models import MLP
from smartmixed_jax.nnx import MixedActivation, SelectionLogits, SelectiveActivation, fix_choices
from smartmixed_jax.one_exp import leaky_relu
from smartmixed_jax.pools import EXTENDED_POOL, PAPER_POOL, REGRESSION_POOL, ActivationPool
from smartmixed_jax.summary import summarize, switch_report
from smartmixed_jax.table import FunctionTable

__all__ = [
    "EXTENDED_POOL",
    "MLP",
    "PAPER_POOL",
    "REGRESSION_POOL",
    "ActivationPool",
    "FunctionTable",
    "MixedActivation",
    "Selection",
    "SelectionLogits",
    "SelectiveActivation",
    "apply_choices",
    "estimators",
    "fix_choices",
    "label_parameters",
    "leaky_relu",
    "mix",
    "one_exp",
    "release_choices",
    "select_activations",
    "summarize",
    "switch_report",
]
