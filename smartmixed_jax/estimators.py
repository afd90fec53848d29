"""How a neuron draws its function, and how the gradient reaches its logits.

An estimator is a pure function `(logits [N, K], key, temperature, *, noise=1.0, draws=1) →
Selection`: `N` neurons, `K` functions. At noise β = 1 neuron n chooses function k with probability
π[n, k] = softmax(logits[n])[k]. The estimators differ in the forward value (one function, or a
mixture of all) and in the gradient. With K small the exact gradient can be enumerated; the tests
measure bias and variance of each against it.

`noise` scales what is drawn: choices are argmax(logits + β·ε) with ε Gumbel, that is a sample of
softmax(logits/β); 0 is no noise, and β may be annealed as τ is: τ shapes the gradient only. One
draw serves the whole batch, or, with `draws=D`, row d of the choices [D, N] the d-th of D parts:

    estimator                    forward   noise   draws > 1
    gumbel_straight_through      hard      β       no: the gradient goes through the noise
    gumbel_softmax               soft      β       no
    sampled_straight_through     hard      β       yes
    straight_through             hard      none    all equal
    soft_mixture                 soft      none    all equal
    gumbel_rao                   hard      β       no
    reinmax                      hard      1 only  no: the gradient knows the choice
    deterministic                hard      none    all equal

Noise and softmax are computed in at least float32. The key is consumed. A temperature τ that is not
traced must be > 0.
"""

import jax
import jax.numpy as jnp

from smartmixed_jax import _checks
from smartmixed_jax.types import Key, Scalar, Selection


def gumbel_straight_through(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """Hard Gumbel sample forward, softmax((logits + β·ε)/τ) backward: the paper's estimator.

    Jang, Gu & Poole 2017 (arXiv 1611.01144), "straight-through Gumbel-softmax". Biased; the
    bias falls and the variance grows as τ → 0.

    Args:
        logits: [N, K].
        key: a PRNG key.
        temperature: τ > 0.
        noise: β ≥ 0.
        draws: D ≥ 1, where the estimator takes more than one.

    Returns:
        Selection with choices [N] = argmax(logits + β·ε); weights [N, K].

    Raises:
        TypeError: the logits are no real floats; the key is no PRNG key; another argument is no
            number.
        ValueError: the logits are not [N, K], or NaN if they are concrete; τ or β is out of range;
            more draws than one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import estimators
        >>> logits = jnp.array([[0.0, 99.0], [99.0, 0.0]])       # 2 neurons, 2 functions
        >>> estimators.gumbel_straight_through(logits, jax.random.key(0), 1.0).choices
        Array([1, 0], dtype=int32)
    """
    name = "gumbel_straight_through"
    perturbed, temperature = _perturb(name, logits, key, temperature, noise, draws)
    return _straight_through(jnp.argmax(perturbed, -1), jax.nn.softmax(perturbed / temperature))


def gumbel_softmax(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """Soft mixture with weights softmax((logits + β·ε)/τ).

    Maddison, Mnih & Teh 2017 (arXiv 1611.00712). Args, shapes and errors as
    `gumbel_straight_through`; choices is None.
    """
    perturbed, temperature = _perturb("gumbel_softmax", logits, key, temperature, noise, draws)
    return Selection(jax.nn.softmax(perturbed / temperature), None)


def sampled_straight_through(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """Hard sample forward, softmax(logits/τ) backward, whatever was drawn.

    Bengio et al. 2013 (arXiv 1308.3432), for categories. The sample takes one uniform number per
    neuron and draw, by the inverse of the cumulative distribution, and the gradient stays one sum
    over the batch however many draws serve it. At τ = 1 it is exact where the loss is linear in
    the weights.

    Args, shapes and errors as `gumbel_straight_through`; choices [D, N] with D > 1 draws.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from smartmixed_jax import estimators
        >>> logits, key = jnp.zeros((5, 6)), jax.random.key(0)
        >>> estimators.sampled_straight_through(logits, key, 1.0, draws=16).choices.shape
        (16, 5)
    """
    name = "sampled_straight_through"
    logits, temperature = _check(name, logits, temperature)
    _checks.check_noise(name, noise)
    _checks.check_draws(name, draws, per_example=False)
    # Less the largest, so that the division by a small β overflows to −∞ only.
    centred = jax.lax.stop_gradient(logits - jnp.max(logits, -1, keepdims=True))
    scale = jnp.maximum(jnp.asarray(noise, logits.dtype), jnp.finfo(logits.dtype).tiny)
    cumulative = jnp.cumsum(jax.nn.softmax(centred / scale), -1)
    shape = (draws, len(logits)) if draws > 1 else (len(logits),)
    uniform = jax.random.uniform(_require_key(name, key), shape, logits.dtype)
    # The last probability is what the others leave: rounding never gives an index K.
    drawn = jnp.zeros(shape, jnp.int32)
    for k in range(logits.shape[1] - 1):
        drawn += (uniform >= jnp.broadcast_to(cumulative[:, k], shape)).astype(jnp.int32)
    # Without noise the first of equal logits, as everywhere, and not one of them by chance.
    best = jnp.broadcast_to(jnp.argmax(centred, -1).astype(jnp.int32), shape)
    choices = jnp.where(jnp.asarray(noise) > 0, drawn, best)
    return _straight_through(choices, jax.nn.softmax(logits / temperature))


def straight_through(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """argmax of the logits forward, softmax(logits/τ) backward; key, noise and draws are ignored.

    `sampled_straight_through` at noise 0. Args, shapes and errors as `gumbel_straight_through`.
    """
    logits, temperature = _check("straight_through", logits, temperature)
    return _straight_through(jnp.argmax(logits, -1), jax.nn.softmax(logits / temperature))


def soft_mixture(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """Soft mixture with weights softmax(logits/τ); key, noise and draws are ignored.

    At τ = 1 the value is the exact expectation of the hard sample. Args, shapes and errors as
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
    *,
    noise: Scalar = 1.0,
    draws: int = 1,
) -> Selection:
    """Hard Gumbel sample forward; backward the mean over `num_samples` draws with that argmax.

    Paulus, Maddison & Krause 2020 (arXiv 2010.04838), eq. 10: Rao-Blackwellisation of
    `gumbel_straight_through`, with the same expectation and a smaller variance. Choose m with
    `functools.partial(gumbel_rao, num_samples=m)`.

    Args, shapes and errors as `gumbel_straight_through`.

    Raises:
        TypeError: num_samples is no int.
        ValueError: num_samples < 1.

    Example:
        >>> import functools
        >>> from flax import nnx
        >>> from smartmixed_jax import SelectiveActivation, estimators
        >>> estimator = functools.partial(estimators.gumbel_rao, num_samples=4)
        >>> act = SelectiveActivation(64, estimator=estimator, rngs=nnx.Rngs(0))
    """
    _checks.check_int("gumbel_rao", "num_samples", num_samples, 1)
    logits, temperature = _check("gumbel_rao", logits, temperature)
    _one_draw("gumbel_rao", noise, draws)
    choice_key, conditional_key = jax.random.split(_require_key("gumbel_rao", key))
    # β·(logits/β + ε) has the argmax of logits/β + ε, whose conditional distribution is known; and
    # at a β of 0 that of a β too small to matter.
    scale = jnp.maximum(jnp.asarray(noise, logits.dtype), 1e-6)
    scaled = jax.lax.stop_gradient(logits - jnp.max(logits, -1, keepdims=True)) / scale
    choices = jax.random.categorical(choice_key, scaled, axis=-1)
    one_hot = jax.nn.one_hot(choices, logits.shape[-1], dtype=jnp.bool_)[None]
    # Conditioned on the argmax c: the largest of logits + ε is Gumbel(logsumexp), and the
    # others are Gumbels truncated there. E ~ Exp(1) throughout.
    exponential = jax.random.exponential(
        conditional_key, (num_samples, *logits.shape), logits.dtype
    )
    # One uniform in 2^23 is exactly 0, and its logarithm would make the weights NaN.
    exponential = jnp.maximum(exponential, jnp.finfo(logits.dtype).tiny)
    scaled = scaled[None]
    log_total = jax.nn.logsumexp(scaled, axis=-1, keepdims=True)
    winner = jnp.sum(jnp.where(one_hot, exponential, 0), axis=-1, keepdims=True)
    top = log_total - jnp.log(winner)
    below = -jnp.logaddexp(jnp.log(exponential) - scaled, -top)
    # The derivative holds the noise fixed, not the perturbed logits.
    perturbed = logits[None] + scale * (jnp.where(one_hot, top, below) - scaled)
    return _straight_through(choices, jnp.mean(jax.nn.softmax(perturbed / temperature), axis=0))


def reinmax(
    logits: jax.Array, key: Key, temperature: Scalar, *, noise: Scalar = 1.0, draws: int = 1
) -> Selection:
    """Hard sample forward, second-order (Heun) straight-through backward.

    Liu et al. 2023 (arXiv 2304.08612), algorithm 2: at τ = 1 exact in expectation for
    quadratic losses, where straight-through is exact for linear ones only.

    Args, shapes and errors as `gumbel_straight_through`; temperature: τ ≥ 1.

    Raises:
        ValueError: a concrete τ < 1; a noise that is not the number 1.
    """
    logits, temperature = _check("reinmax", logits, temperature, minimum=1.0)
    _one_draw("reinmax", noise, draws)
    if isinstance(noise, jax.core.Tracer) or noise != 1:
        raise ValueError(f"reinmax: noise must be 1, the only one it is exact for, got {noise}")
    choices = jax.random.categorical(_require_key("reinmax", key), logits, axis=-1)
    one_hot = jax.nn.one_hot(choices, logits.shape[-1], dtype=logits.dtype)
    mean = (one_hot + jax.nn.softmax(logits / temperature)) / 2
    # In value softmax(log mean) = mean; the derivative is that of a softmax at `mean`.
    # mean ≥ 1/2 at the choice but may underflow to 0 elsewhere, so the logarithm is floored.
    floor = jnp.finfo(logits.dtype).tiny
    shift = jax.lax.stop_gradient(jnp.log(jnp.maximum(mean, floor)) - logits)
    surrogate = 2 * jax.nn.softmax(shift + logits) - jax.nn.softmax(logits) / 2
    return _straight_through(choices, surrogate)


def deterministic(
    logits: jax.Array,
    key: Key = None,
    temperature: Scalar = 1.0,
    *,
    noise: Scalar = 1.0,
    draws: int = 1,
) -> Selection:
    """argmax of the logits, no noise and no gradient: what `fix_choices` makes permanent.

    Of equal logits the first wins. Args, shapes and errors as `gumbel_straight_through`; all but
    the logits are ignored.
    """
    logits, _ = _check("deterministic", logits, 1.0)
    logits = jax.lax.stop_gradient(logits)
    choices = jnp.argmax(logits, axis=-1)
    return Selection(jax.nn.one_hot(choices, logits.shape[-1], dtype=logits.dtype), choices)


def _check(
    where: str, logits: jax.Array, temperature: Scalar, minimum: float = 0.0
) -> tuple[jax.Array, jax.Array]:
    _checks.check_logits(where, logits)
    _checks.check_temperature(where, temperature, minimum)
    dtype = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return logits.astype(dtype), jnp.asarray(temperature, dtype)


def _perturb(
    where: str, logits: jax.Array, key: Key, temperature: Scalar, noise: Scalar, draws: int
) -> tuple[jax.Array, jax.Array]:
    logits, temperature = _check(where, logits, temperature)
    _one_draw(where, noise, draws)
    # Drawn flat: the same numbers, and rows of K = 6 would not fill a vector register.
    drawn = jax.random.gumbel(_require_key(where, key), (logits.size,), logits.dtype)
    drawn = drawn.reshape(logits.shape)
    is_one = not isinstance(noise, jax.Array) and noise == 1
    return logits + (drawn if is_one else jnp.asarray(noise, logits.dtype) * drawn), temperature


def _one_draw(where: str, noise: Scalar, draws: int) -> None:
    """Checks the noise; raises ValueError for more draws than one."""
    _checks.check_noise(where, noise)
    _checks.check_draws(where, draws, per_example=False)
    if draws > 1:
        raise ValueError(
            f"{where}: draws must be 1, because the gradient depends on what was drawn, got "
            f"{draws}; sampled_straight_through takes more"
        )


def _require_key(where: str, key: Key) -> jax.Array:
    if key is None:
        raise ValueError(
            f"{where} draws noise and got no key: pass rngs=nnx.Rngs(selection=seed), build the "
            "layer with keep_rngs=True, or call with deterministic=True; in Linen pass "
            "rngs={'selection': key} to apply, and selection in split_rngs to nn.scan and nn.vmap"
        )
    _checks.check(where, key=key)
    return key


def _straight_through(choices: jax.Array, surrogate: jax.Array) -> Selection:
    """One-hot in value, the gradient of `surrogate` [N, K]; of several draws `surrogate` itself."""
    if choices.ndim > 1:
        return Selection(surrogate, choices)
    one_hot = jax.nn.one_hot(choices, surrogate.shape[-1], dtype=surrogate.dtype)
    # With these parentheses, or the value is not exactly one-hot.
    return Selection(one_hot + (surrogate - jax.lax.stop_gradient(surrogate)), choices)
