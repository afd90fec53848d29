"""The vocabulary of the library. Read it first.

Shapes are written with these letters:

    B   batch: any leading axes
    N   neurons or channels of a layer, `features`
    K   functions in a pool
    G   groups of neurons that share one choice; N where every neuron chooses for itself
    D   draws for one batch: parts of it, up to single examples, that have choices of their own

`logits` [N, K] are the selection logits, `choices` [N] are ints in [0, K): indices into the pool.
π = softmax(logits) are the probabilities of a neuron's functions, τ is the temperature, β the scale
of the noise.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np

Activation = Callable[[jax.Array], jax.Array]
"""An elementwise function: an array of any shape → an array of the same shape."""

Initializer = Callable[..., jax.Array]
"""`init(key, shape, dtype)` → array, as in `jax.nn.initializers`."""

Key = jax.Array | None
"""A PRNG key, consumed by the function that takes it; None where nothing is drawn."""

Integers = Sequence[int] | np.ndarray | jax.Array
"""Choices [N], as their caller has them."""

Groups = tuple[int, ...] | None
"""Each neuron's group, [N] in [0, G); None: every neuron chooses for itself."""

Start = tuple[str, float]
"""A function's name and the probability it has in every neuron at the start, in (1/K, 1)."""

Draws = int | str
"""How many draws serve a batch: 1, D for D equal parts of it, or "example": one per example."""

Scalar = float | jax.Array
"""A number, or an array [] of one, which may be traced."""


class Selection(NamedTuple):
    """What an estimator returns.

    Attributes:
        weights: [N, K] float, rows sum to 1; carries the gradient to the logits. One-hot
            in value when the forward is hard and one draw serves the batch.
        choices: int32 in [0, K) when the forward is hard: [N], or [D, N] with D draws, where row d
            serves the d-th part of the batch, x's axis 0; None when it is soft.
    """

    weights: jax.Array
    choices: jax.Array | None


Estimator = Callable[..., Selection]
"""`estimator(logits [N, K], key, temperature)` → Selection.

`noise=β` and `draws=D` are passed too where a layer has another noise than 1, or more than one
draw."""
