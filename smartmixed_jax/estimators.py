"""How a neuron draws its function, and how the gradient reaches its logits.

An estimator is a pure function `(logits [N, K], key, temperature) → Selection`: `N`
neurons, `K` functions. Neuron n chooses function k with probability
π[n, k] = softmax(logits[n])[k]; one draw serves the whole batch. The estimators
differ in the forward value (one function, or a mixture of all) and in the gradient.
With K small the exact gradient can be enumerated; the tests measure bias and
variance of each against it.

Noise and softmax are computed in at least float32. The key is consumed. A
temperature τ that is not traced must be > 0.
"""

import jax
import jax.numpy as jnp

from smartmixed_jax._checks import check_floating, check_temperature, shown
from smartmixed_jax.types import Key, Scalar, Selection


def gumbel_straight_through(logits: jax.Array, key: Key, temperature: Scalar) -> Selection:
    """Hard Gumbel sample forward, softmax((logits + ε)/τ) backward: the paper's estimator.

    Jang, Gu & Poole 2017 (arXiv 1611.01144), "straight-through Gumbel-softmax". Biased; the
    bias falls and the variance grows as τ → 0.

    Args:
        logits: [N, K].
        key: a PRNG key.
        temperature: τ > 0.

    Returns:
        Selection with choices [N] = argmax(logits + ε).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import estimators
        >>> logits = jnp.array([[0.0, 99.0], [99.0, 0.0]])       # 2 neurons, 2 functions
        >>> estimators.gumbel_straight_through(logits, jax.random.key(0), 1.0).choices
        Array([1, 0], dtype=int32)
    """
    perturbed, temperature = _perturb("gumbel_straight_through", logits, key, temperature)
    return _straight_through(jnp.argmax(perturbed, -1), jax.nn.softmax(perturbed / temperature))


def gumbel_softmax(logits: jax.Array, key: Key, temperature: Scalar) -> Selection:
    """Soft mixture with weights softmax((logits + ε)/τ) (Maddison et al. 2017, arXiv 1611.00712).

    Args and shapes as `gumbel_straight_through`; choices is None.
    """
    perturbed, temperature = _perturb("gumbel_softmax", logits, key, temperature)
    return Selection(jax.nn.softmax(perturbed / temperature), None)


def straight_through(logits: jax.Array, key: Key, temperature: Scalar) -> Selection:
    """argmax of the logits forward, softmax(logits/τ) backward; no noise, the key is ignored.

    Bengio et al. 2013 (arXiv 1308.3432). Args and shapes as `gumbel_straight_through`.
    """
    logits, temperature = _check("straight_through", logits, temperature)
    return _straight_through(jnp.argmax(logits, -1), jax.nn.softmax(logits / temperature))


def soft_mixture(logits: jax.Array, key: Key, temperature: Scalar) -> Selection:
    """Soft mixture with weights softmax(logits/τ); no noise, the key is ignored.

    At τ = 1 the value is the exact expectation of the hard sample. Args and shapes as
    `gumbel_straight_through`; choices is None.

    Example:
        >>> import jax.numpy as jnp
        >>> from smartmixed_jax import estimators
        >>> estimators.soft_mixture(jnp.zeros((1, 4)), None, 1.0).weights
        Array([[0.25, 0.25, 0.25, 0.25]], dtype=float32)
    """
    logits, temperature = _check("soft_mixture", logits, temperature)
    return Selection(jax.nn.softmax(logits / temperature), None)


def gumbel_rao(
    logits: jax.Array,
    key: Key,
    temperature: Scalar,
    num_samples: int = 16,
) -> Selection:
    """Hard Gumbel sample forward; backward the mean over `num_samples` draws with that argmax.

    Paulus, Maddison & Krause 2020 (arXiv 2010.04838), eq. 10: Rao-Blackwellisation of
    `gumbel_straight_through`, with the same expectation and a smaller variance. Choose m with
    `functools.partial(gumbel_rao, num_samples=m)`.

    Args and shapes as `gumbel_straight_through`.

    Raises:
        ValueError: num_samples < 1.

    Example:
        >>> import functools
        >>> from flax import nnx
        >>> from smartmixed_jax import SelectiveActivation, estimators
        >>> estimator = functools.partial(estimators.gumbel_rao, num_samples=4)
        >>> act = SelectiveActivation(64, estimator=estimator, rngs=nnx.Rngs(0))
    """
    if num_samples < 1:
        raise ValueError(f"gumbel_rao: num_samples must be at least 1, got {num_samples}")
    logits, temperature = _check("gumbel_rao", logits, temperature)
    choice_key, conditional_key = jax.random.split(_require_key("gumbel_rao", key))
    choices = jax.random.categorical(choice_key, logits, axis=-1)
    one_hot = jax.nn.one_hot(choices, logits.shape[-1], dtype=jnp.bool_)[None]
    # Conditioned on the argmax c: the largest of logits + ε is Gumbel(logsumexp), and the
    # others are Gumbels truncated there. E ~ Exp(1) throughout.
    exponential = jax.random.exponential(
        conditional_key, (num_samples, *logits.shape), logits.dtype
    )
    # One uniform in 2^23 is exactly 0, and its logarithm would make the weights NaN.
    exponential = jnp.maximum(exponential, jnp.finfo(logits.dtype).tiny)
    logits = logits[None]
    log_total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    winner = jnp.sum(jnp.where(one_hot, exponential, 0), axis=-1, keepdims=True)
    top = log_total - jnp.log(winner)
    below = -jnp.logaddexp(jnp.log(exponential) - logits, -top)
    perturbed = jnp.where(one_hot, top, below)
    # The derivative holds the noise fixed, not the perturbed logits.
    perturbed = jax.lax.stop_gradient(perturbed - logits) + logits
    return _straight_through(choices, jnp.mean(jax.nn.softmax(perturbed / temperature), axis=0))


def reinmax(logits: jax.Array, key: Key, temperature: Scalar) -> Selection:
    """Hard sample forward, second-order (Heun) straight-through backward.

    Liu et al. 2023 (arXiv 2304.08612), algorithm 2: at τ = 1 exact in expectation for
    quadratic losses, where straight-through is exact for linear ones only.

    Args and shapes as `gumbel_straight_through`; temperature: τ ≥ 1.

    Raises:
        ValueError: a concrete τ < 1.
    """
    logits, temperature = _check("reinmax", logits, temperature, minimum=1.0)
    choices = jax.random.categorical(_require_key("reinmax", key), logits, axis=-1)
    one_hot = jax.nn.one_hot(choices, logits.shape[-1], dtype=logits.dtype)
    mean = (one_hot + jax.nn.softmax(logits / temperature)) / 2
    # In value softmax(log mean) = mean; the derivative is that of a softmax at `mean`.
    # mean ≥ 1/2 at the choice but may underflow to 0 elsewhere, so the logarithm is floored.
    floor = jnp.finfo(logits.dtype).tiny
    shift = jax.lax.stop_gradient(jnp.log(jnp.maximum(mean, floor)) - logits)
    surrogate = 2 * jax.nn.softmax(shift + logits) - jax.nn.softmax(logits) / 2
    return _straight_through(choices, surrogate)


def deterministic(logits: jax.Array, key: Key = None, temperature: Scalar = 1.0) -> Selection:
    """argmax of the logits, no noise and no gradient: what `fix_choices` makes permanent.

    Of equal logits the first wins. Args and shapes as `gumbel_straight_through`; key and
    temperature are ignored.
    """
    logits, _ = _check("deterministic", jax.lax.stop_gradient(logits), 1.0)
    choices = jnp.argmax(logits, axis=-1)
    return Selection(jax.nn.one_hot(choices, logits.shape[-1], dtype=logits.dtype), choices)


def _check(
    where: str, logits: jax.Array, temperature: Scalar, minimum: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    check_floating(where, "logits", logits)
    if logits.ndim != 2:
        raise ValueError(f"{where}: logits must be [N, K], got {shown(logits)}")
    check_temperature(where, temperature, minimum)
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return logits.astype(dtype), jnp.asarray(temperature, dtype)


def _perturb(
    where: str, logits: jax.Array, key: Key, temperature: Scalar
) -> tuple[jax.Array, jax.Array]:
    logits, temperature = _check(where, logits, temperature)
    # Drawn flat: the same numbers, and rows of K = 6 would not fill a vector register.
    noise = jax.random.gumbel(_require_key(where, key), (logits.size,), logits.dtype)
    return logits + noise.reshape(logits.shape), temperature


def _require_key(where: str, key: Key) -> jax.Array:
    if key is None:
        raise ValueError(
            f"{where} draws noise and got no key: pass rngs=nnx.Rngs(selection=seed), build the "
            "layer with keep_rngs=True, or call with deterministic=True; in Linen pass "
            "rngs={'selection': key} to apply, and selection in split_rngs to nn.scan and nn.vmap"
        )
    return key


def _straight_through(choices: jax.Array, surrogate: jax.Array) -> Selection:
    """One-hot in value, the gradient of `surrogate` [N, K]."""
    one_hot = jax.nn.one_hot(choices, surrogate.shape[-1], dtype=surrogate.dtype)
    # With these parentheses, or the value is not exactly one-hot.
    return Selection(one_hot + (surrogate - jax.lax.stop_gradient(surrogate)), choices)
