"""The vocabulary of the library. Read it first.

Shapes are written with these letters:

    B   batch: any leading axes
    N   neurons or channels of a layer, `features`
    K   functions in a pool
    G   groups of neurons that share one choice; N where every neuron chooses for itself

`logits` [N, K] are the selection logits, `choices` [N] are ints in [0, K): indices into the pool.
π = softmax(logits) are the probabilities of a neuron's functions, τ is the temperature.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function: an array of any shape → an array of the same shape."""

Initializer = Callable[..., jax.Array]
"""`init(key, shape, dtype)` → array, as in `jax.nn.initializers`."""


class Selection(NamedTuple):
    """What an estimator returns.

    Attributes:
        weights: [N, K] float, rows sum to 1; carries the gradient to the logits. One-hot
            in value when the forward is hard.
        choices: [N] int32 in [0, K) when the forward is hard, None when it is soft.
    """

    weights: jax.Array
    choices: jax.Array | None


Estimator = Callable[[jax.Array, jax.Array | None, float | jax.Array], Selection]
"""`estimator(logits [N, K], key, temperature)` → Selection."""
