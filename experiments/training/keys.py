"""Where randomness comes from: a key per seed, phase and purpose."""

import jax

# The purposes, folded into the seed's key in this order.
INIT, BATCHES, SELECTION, EVALUATION, SWITCH, AUGMENTATION, ACTIVATION = range(7)


def make_key(seed: jax.Array | int, phase_index: jax.Array | int, purpose: int) -> jax.Array:
    """The root of a purpose's randomness in one phase."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), phase_index), purpose)
