"""Augmentation of training images on the device."""

import jax
import jax.numpy as jnp

MARGIN = 4
"""Pixels by which an image is shifted at most."""


def shift_and_mirror(key: jax.Array, images: jax.Array) -> jax.Array:
    """Shifts every image by up to 4 pixels, what comes in is 0, and mirrors every second one.

    The usual augmentation of CIFAR-10 (He et al., arXiv 1512.03385, section 4.2).

    Args:
        key: of the batch.
        images: [B, H, W, C].

    Returns:
        The shape and dtype of images.
    """
    shifts_key, mirror_key = jax.random.split(key)
    margins = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    shifts = jax.random.randint(shifts_key, (len(images), 2), 0, 2 * MARGIN + 1)

    def crop(image: jax.Array, shift: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*shift, 0), images.shape[1:])

    shifted = jax.vmap(crop)(jnp.pad(images, margins), shifts)
    mirrored = jax.random.bernoulli(mirror_key, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, shifted[:, :, ::-1], shifted)
