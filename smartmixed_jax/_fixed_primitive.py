"""Fixed activations as one operation each, while a model is traced for export."""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from smartmixed_jax import mixture
from smartmixed_jax.mixture import select
from smartmixed_jax.pools import ActivationPool

fixed_activation = Primitive("fixed_activation")
"""y = f_c(x): x [...], choices int [...] that broadcast against x, a static pool."""


@contextlib.contextmanager
def kept_whole() -> Iterator[None]:
    """Inside, `apply_choices` is one `fixed_activation` in a jaxpr."""
    token = mixture.replacement.set(_bind)
    try:
        # Without jit nothing that is traced here stays in a cache, and loops over layers are
        # unrolled.
        with jax.disable_jit():
            yield
    finally:
        mixture.replacement.reset(token)


def _bind(pool: ActivationPool, x: jax.Array, choices: jax.Array) -> jax.Array:
    return fixed_activation.bind(x, choices, pool=pool)


def _evaluate(x: jax.Array, choices: jax.Array, *, pool: ActivationPool) -> jax.Array:
    return select(pool, x, choices)


def _batched(arguments, dims, *, pool):
    (x, choices), (of_x, of_choices) = arguments, dims
    if of_x is None:
        size = choices.shape[of_choices]
        x = jnp.broadcast_to(x, (size, *x.shape))
    else:
        x = jnp.moveaxis(x, of_x, 0)
    mapped = of_choices is not None
    choices = jnp.moveaxis(choices, of_choices, 0) if mapped else choices[None]
    return _bind(pool, x, choices), 0


def _jvp(primals, tangents, *, pool):
    x, choices = primals
    return jax.jvp(
        lambda x: _evaluate(x, choices, pool=pool), (x,), (ad.instantiate_zeros(tangents[0]),)
    )


# A cache of jax.checkpoint may hand the operation to a program that is not exported: it computes.
fixed_activation.def_impl(_evaluate)
fixed_activation.def_abstract_eval(lambda x, choices, pool: ShapedArray(x.shape, x.dtype))
mlir.register_lowering(fixed_activation, mlir.lower_fun(_evaluate, multiple_results=False))
batching.primitive_batchers[fixed_activation] = _batched
ad.primitive_jvps[fixed_activation] = _jvp
