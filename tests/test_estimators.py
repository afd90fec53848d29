"""The estimators: values, distribution, and gradients against exact enumeration.

With K = 6 functions of constant value f_k, the loss ℓ(Σ_k w_k f_k) and probabilities
π = softmax(logits), the exact gradient of E ℓ = Σ_k π_k ℓ(f_k) is π ⊙ (ℓ(f) − E ℓ). The rows
of one call are independent draws, so that one call with `DRAWS` equal rows of logits measures
mean and variance of an estimator's gradient. `python -m pytest tests/test_estimators.py -s`
prints them.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from smartmixed_jax import estimators

pytestmark = pytest.mark.usefixtures("strict")

DRAWS = 40_000
HARD = (
    *("gumbel_straight_through", "sampled_straight_through", "straight_through"),
    *("gumbel_rao", "reinmax"),
)
SOFT = ("gumbel_softmax", "soft_mixture")
NOISY = (
    *("gumbel_straight_through", "sampled_straight_through"),
    *("gumbel_softmax", "gumbel_rao", "reinmax"),
)
ALL = (*HARD, *SOFT)
TEMPERATURES = (0.5, 1.0, 2.0)
CASES = [(name, tau) for name in ALL for tau in TEMPERATURES if name != "reinmax" or tau >= 1]

LOGITS = np.array([0.4, -0.3, 0.9, -1.0, 0.1, 0.6])
VALUES = np.array([0.0, 0.6, -0.8, 1.5, -0.4, 1.1])
LOSSES = {"linear": (0.7, 0.0, 0.0), "quadratic": (-1.0, 1.0, 0.0), "cubic": (0.0, 0.0, 1.0)}
"""Name → a, b, c of the loss ℓ(y) = a y + b y² + c y³."""


def value(loss, y):
    a, b, c = LOSSES[loss]
    return a * y + b * y**2 + c * y**3


def slope(loss, y):
    a, b, c = LOSSES[loss]
    return a + 2 * b * y + 3 * c * y**2


WITH_SAMPLES = {
    1: functools.partial(estimators.gumbel_rao, num_samples=1),
    4: functools.partial(estimators.gumbel_rao, num_samples=4),
    16: estimators.gumbel_rao,
}


class Measurement(NamedTuple):
    """Mean [K] of the gradients, its standard error [K], and their summed variance."""

    mean: np.ndarray
    error: np.ndarray
    variance: float


def exact_gradient(loss, logits=LOGITS, values=VALUES):
    probabilities = special.softmax(logits)
    losses = value(loss, values)
    return probabilities * (losses - probabilities @ losses)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(estimator, logits, key, temperature, values=VALUES, coefficients=LOSSES["linear"]):
    """The gradient to the logits of Σ_n ℓ(Σ_k w[n, k] f_k), and the Selection; τ is traced.

    One program per estimator and shape for all tests.
    """

    def total(logits):
        selection = estimator(logits, key, temperature)
        y = selection.weights @ jnp.asarray(values, jnp.float32)
        a, b, c = coefficients
        return jnp.sum(a * y + b * y**2 + c * y**3), selection

    return jax.grad(total, has_aux=True)(logits)


def draws(estimator, loss, temperature, *, logits=LOGITS, values=VALUES, seed=0):
    """The gradients [DRAWS, K] of independent draws, and the Selection."""
    rows = jnp.asarray(np.tile(logits, (DRAWS, 1)), jnp.float32)
    gradients, selection = evaluate(
        estimator, rows, jax.random.key(seed), temperature, values, LOSSES[loss]
    )
    return np.asarray(gradients, np.float64), selection


def measured(samples):
    deviation = samples.std(axis=0, ddof=1)
    return Measurement(
        samples.mean(axis=0), deviation / len(samples) ** 0.5, float((deviation**2).sum())
    )


@functools.cache
def measure(name, loss, temperature):
    return measured(draws(getattr(estimators, name), loss, temperature)[0])


def simulated(loss, temperature, *, hard, samples=200_000):
    """The gradient's mean in NumPy: (1/τ) p ⊙ (s − p·s), s = ℓ'(y) f, y hard or soft."""
    rng = np.random.default_rng(1)
    perturbed = LOGITS + rng.gumbel(size=(samples, len(LOGITS)))
    p = special.softmax(perturbed / temperature, axis=-1)
    y = VALUES[perturbed.argmax(-1)] if hard else p @ VALUES
    s = slope(loss, y)[:, None] * VALUES
    return measured(p * (s - (p * s).sum(-1, keepdims=True)) / temperature)


def assert_same_mean(first, second, context, errors=5.0):
    difference = np.abs(first.mean - second.mean)
    allowed = errors * np.hypot(first.error, second.error)
    assert (difference <= allowed).all(), (context, difference, allowed)


def bias_in_errors(measurement, loss):
    """The largest |bias| of a component in its standard errors."""
    return np.max(np.abs(measurement.mean - exact_gradient(loss)) / measurement.error)


def bias_and_variance_table():
    """Bias and deviation of every estimator's gradient, relative to the exact gradient's norm."""
    lines = ["estimator                 tau  loss       |bias|   +-error  deviation"]
    for name, tau in CASES:
        for loss in ("linear", "quadratic"):
            exact = exact_gradient(loss)
            found, norm = measure(name, loss, tau), np.linalg.norm(exact)
            bias = np.linalg.norm(found.mean - exact) / norm
            error, deviation = np.linalg.norm(found.error) / norm, found.variance**0.5 / norm
            lines.append(
                f"{name:25s} {tau:3.1f}  {loss:9s} {bias:7.4f}  {error:8.4f}  {deviation:9.3f}"
            )
    return "\n".join(lines)


def random_logits(scale=1.0, rows=64, seed=3):
    return scale * jax.random.normal(jax.random.key(seed), (rows, 6))


# --- values -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "temperature"), [case for case in CASES if case[0] in HARD])
def test_hard_weights_are_exactly_one_hot_at_the_choices(name, temperature):
    for scale in (0.01, 1.0, 40.0):
        logits, key = random_logits(scale), jax.random.key(1)
        weights, choices = evaluate(getattr(estimators, name), logits, key, temperature)[1]
        assert weights.dtype == jnp.float32
        assert choices.shape == (64,)
        assert choices.dtype == jnp.int32
        np.testing.assert_array_equal(weights, np.eye(6)[np.asarray(choices)])


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_soft_weights_are_a_mixture_and_have_no_choices(name, temperature):
    for scale in (0.01, 1.0, 40.0):
        logits, key = random_logits(scale), jax.random.key(1)
        weights, choices = evaluate(getattr(estimators, name), logits, key, temperature)[1]
        assert choices is None
        assert weights.shape == (64, 6)
        assert (np.asarray(weights) >= 0).all()
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1, rtol=2e-6)


@pytest.mark.parametrize(
    "name", ["gumbel_straight_through", "sampled_straight_through", "gumbel_rao", "reinmax"]
)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_frequencies_of_the_choices_are_softmax_of_the_logits(name, temperature):
    for seed, scale in enumerate((0.0, 1.0, 2.0)):
        logits = np.asarray(random_logits(scale, rows=1, seed=seed))
        estimator = getattr(estimators, name)
        selection = draws(estimator, "linear", temperature, logits=logits, seed=seed)[1]
        expected = special.softmax(logits[0].astype(np.float64)) * DRAWS
        observed = np.bincount(selection.choices, minlength=6)
        assert stats.chisquare(observed, expected * DRAWS / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("name", NOISY)
def test_neurons_and_keys_draw_independently(name):
    """Two equal rows agree as often as independent draws do, and so do two keys."""

    def chosen(seed):
        selection = draws(getattr(estimators, name), "linear", 1.0, logits=np.zeros(6), seed=seed)[
            1
        ]
        return np.argmax(selection.weights, -1)

    a, b = chosen(0), chosen(1)
    np.testing.assert_array_equal(a, chosen(0))
    deviation = (5 / 36 / (DRAWS / 2)) ** 0.5
    assert abs(np.mean(a == b) - 1 / 6) < 5 * deviation
    assert abs(np.mean(a[::2] == a[1::2]) - 1 / 6) < 5 * deviation


def test_the_choice_is_the_argmax_of_the_logits_without_noise():
    logits = random_logits()
    for name in ("straight_through", "deterministic"):
        choices = getattr(estimators, name)(logits, None, 0.7).choices
        np.testing.assert_array_equal(choices, np.argmax(logits, -1))


def test_of_equal_logits_the_first_is_the_deterministic_choice():
    logits = jnp.array([[0.0, 2.0, 2.0, 1.0], [3.0, 3.0, 3.0, 3.0]])
    np.testing.assert_array_equal(estimators.deterministic(logits).choices, [1, 0])


def test_deterministic_has_one_hot_weights_and_no_gradient():
    logits = random_logits()
    weights, choices = estimators.deterministic(logits)
    np.testing.assert_array_equal(weights, np.eye(6)[np.asarray(choices)])
    gradient = jax.grad(lambda logits: estimators.deterministic(logits).weights[:, 0].sum())(logits)
    np.testing.assert_array_equal(gradient, np.zeros((64, 6)))


def test_soft_mixture_at_temperature_1_is_the_expectation_of_the_hard_sample():
    logits = random_logits()
    expected = special.softmax(np.asarray(logits, np.float64), axis=-1)
    weights = estimators.soft_mixture(logits, None, 1.0).weights
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_gumbel_estimators_share_their_noise():
    """The hard choice is the largest soft weight of the same key, at every temperature."""
    logits = random_logits()
    for tau in TEMPERATURES:
        hard = estimators.gumbel_straight_through(logits, jax.random.key(5), tau)
        soft = estimators.gumbel_softmax(logits, jax.random.key(5), tau)
        np.testing.assert_array_equal(hard.choices, np.argmax(soft.weights, -1))


# --- gradients ----------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", ["linear", "quadratic"])
def test_noise_free_gradients_are_the_analytic_ones(loss, temperature):
    p = special.softmax(LOGITS / temperature)
    for name, y in (("straight_through", VALUES[LOGITS.argmax()]), ("soft_mixture", p @ VALUES)):
        s = slope(loss, y) * VALUES
        expected = p * (s - p @ s) / temperature
        for seed in (0, 1):
            found, _ = draws(getattr(estimators, name), loss, temperature, seed=seed)
            np.testing.assert_allclose(found, np.tile(expected, (DRAWS, 1)), rtol=1e-4, atol=1e-6)


def test_soft_mixture_at_temperature_1_is_exact_for_linear_losses_only():
    found = measure("soft_mixture", "linear", 1.0).mean
    np.testing.assert_allclose(found, exact_gradient("linear"), atol=1e-6)
    quadratic = measure("soft_mixture", "quadratic", 1.0).mean
    assert np.abs(quadratic - exact_gradient("quadratic")).max() > 0.01


def reinmax_expectation(loss, logits, values, temperature):
    """Σ_k π_k · (gradient when k is drawn): the gradient depends on the key only through k."""
    found, selection = draws(estimators.reinmax, loss, temperature, logits=logits, values=values)
    choices = np.asarray(selection.choices)
    outcomes = []
    for k in range(6):
        drawn = found[choices == k]
        assert len(drawn) > 0
        np.testing.assert_array_equal(drawn, np.tile(drawn[:1], (len(drawn), 1)))
        outcomes.append(drawn[0])
    return special.softmax(logits) @ np.array(outcomes)


@pytest.mark.parametrize("loss", ["linear", "quadratic"])
def test_reinmax_at_temperature_1_is_exact_in_expectation(loss):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        logits, values = rng.normal(size=6), rng.normal(size=6)
        np.testing.assert_allclose(
            reinmax_expectation(loss, logits, values, 1.0),
            exact_gradient(loss, logits, values),
            atol=1e-5,
        )


def test_reinmax_is_biased_for_cubic_losses_and_away_from_temperature_1():
    for loss, temperature in (("cubic", 1.0), ("linear", 2.0)):
        expectation = reinmax_expectation(loss, LOGITS, VALUES, temperature)
        assert np.abs(expectation - exact_gradient(loss)).max() > 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", ["linear", "quadratic"])
@pytest.mark.parametrize("name", ["gumbel_straight_through", "gumbel_softmax"])
def test_gumbel_gradients_agree_with_a_numpy_simulation(name, loss, temperature):
    reference = simulated(loss, temperature, hard=name == "gumbel_straight_through")
    found = measure(name, loss, temperature)
    assert_same_mean(found, reference, (name, loss, temperature))
    assert found.variance == pytest.approx(reference.variance, rel=0.1)


@pytest.mark.parametrize("temperature", [0.25, *TEMPERATURES])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["gumbel_straight_through", "gumbel_rao"])
def test_gumbel_gradients_of_two_functions_agree_with_an_integral(name, loss, temperature):
    """For K = 2 the difference of two Gumbels is logistic, so the mean is an integral over it."""
    logits, values = np.array([0.5, -0.4]), np.array([-0.7, 1.2])

    def integrand(noise):
        difference = logits[0] - logits[1] + noise
        p = special.expit(difference / temperature)
        gain = slope(loss, values[0 if difference > 0 else 1]) * (values[0] - values[1])
        return stats.logistic.pdf(noise) * p * (1 - p) * gain / temperature

    kink = logits[1] - logits[0]
    parts = ((-np.inf, kink), (kink, np.inf))
    expected = sum(integrate.quad(integrand, *part)[0] for part in parts)
    estimator = getattr(estimators, name)
    found = measured(draws(estimator, loss, temperature, logits=logits, values=values)[0])
    np.testing.assert_allclose(found.mean[0], -found.mean[1], atol=1e-6)
    assert abs(found.mean[0] - expected) < 5 * found.error[0]


def test_bias_of_gumbel_straight_through_falls_and_its_variance_grows_with_lower_temperature():
    """It shrinks the gradient of a linear loss: its scale is below 1 and rises as τ falls."""
    exact = exact_gradient("linear")
    found = [measure("gumbel_straight_through", "linear", tau) for tau in (2.0, 1.0, 0.5)]
    scales = [measurement.mean @ exact / (exact @ exact) for measurement in found]
    assert scales[0] < scales[1] < scales[2] < 1
    variances = [measurement.variance for measurement in found]
    assert variances[0] < variances[1] < variances[2]
    for measurement in found:
        assert bias_in_errors(measurement, "linear") > 5


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("loss", ["linear", "quadratic"])
def test_gumbel_rao_has_the_mean_of_straight_through_and_a_smaller_variance(loss, temperature):
    plain = measure("gumbel_straight_through", loss, temperature)
    averaged = measure("gumbel_rao", loss, temperature)
    assert_same_mean(averaged, plain, (loss, temperature))
    assert averaged.variance < 0.95 * plain.variance


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_variance_of_gumbel_rao_falls_with_the_samples_from_that_of_straight_through(temperature):
    plain = measure("gumbel_straight_through", "quadratic", temperature)
    found = []
    for samples in WITH_SAMPLES:
        estimator = WITH_SAMPLES[samples]
        found.append(measured(draws(estimator, "quadratic", temperature)[0]))
        assert_same_mean(found[-1], plain, samples)
    variances = [measurement.variance for measurement in found]
    assert variances[0] == pytest.approx(plain.variance, rel=0.1)
    assert variances[1] < 0.95 * variances[0]
    assert variances[2] < 0.99 * variances[1]


@jax.jit
def choices_and_spreads(logits, key, temperature):
    """choices [N], and p_j (1 − p_j) of the relaxed weights p behind them, [N, K].

    The latter is τ times the diagonal of the Jacobian of gumbel_rao with one sample.
    """
    weights, pullback = jax.vjp(
        lambda logits: WITH_SAMPLES[1](logits, key, temperature).weights, logits
    )
    basis = jnp.broadcast_to(jnp.eye(6)[:, None], (6, *logits.shape))
    jacobian = jax.vmap(pullback)(basis)[0]
    return jnp.argmax(weights, -1), temperature * jnp.diagonal(jacobian, axis1=0, axis2=2)


def test_conditional_gumbels_have_the_distribution_of_plain_ones():
    """With one sample, jointly with the choice: the relaxed weights are those of the plain draw."""
    temperature, draws = 0.7, 20_000
    rows = jnp.asarray(np.tile(LOGITS, (draws, 1)), jnp.float32)
    choices, found = map(np.asarray, choices_and_spreads(rows, jax.random.key(0), temperature))
    relaxed = np.asarray(estimators.gumbel_softmax(rows, jax.random.key(1), temperature).weights)
    expected, winners = relaxed * (1 - relaxed), relaxed.argmax(-1)
    for j in range(6):
        assert stats.ks_2samp(found[:, j], expected[:, j]).pvalue > 1e-3
        for k in (2, 3):  # a frequent choice and the rarest
            joint = stats.ks_2samp(found[choices == k, j], expected[winners == k, j])
            assert joint.pvalue > 1e-3, (j, k)


def test_argmax_of_the_conditional_gumbels_is_the_choice():
    """The largest p_j has the largest p_j (1 − p_j), the choice's: checked where p is not a tie."""
    rows = random_logits(rows=20_000)
    choices, found = map(np.asarray, choices_and_spreads(rows, jax.random.key(0), 1.0))
    largest = np.sort(found, -1)[:, -2:]
    clear = largest[:, 1] - largest[:, 0] > 1e-4
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(found.argmax(-1)[clear], choices[clear])


def test_measured_bias_and_variance_are_those_of_theory():
    """The table of all; which are unbiased for what, beyond and within 5 standard errors."""
    table = bias_and_variance_table()
    print("\n" + table)
    assert len(table.splitlines()) == 1 + 2 * len(CASES)
    unbiased = [("reinmax", "linear", 1.0), ("reinmax", "quadratic", 1.0)]
    for name, tau in CASES:
        for loss in ("linear", "quadratic"):
            varies = name != "sampled_straight_through" or loss != "linear"
            if varies and name not in ("straight_through", "soft_mixture"):
                biased = bias_in_errors(measure(name, loss, tau), loss) > 5
                assert biased == ((name, loss, tau) not in unbiased), (name, loss, tau)


def test_a_sample_with_the_gradient_of_the_softmax_is_exact_for_linear_losses():
    """Without variance at any τ, without bias at τ = 1."""
    gradients, _ = draws(estimators.sampled_straight_through, "linear", 1.0)
    np.testing.assert_allclose(gradients, np.tile(exact_gradient("linear"), (DRAWS, 1)), rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_at_extreme_logits(name):
    for scale in (1e2, 1e4, 1e8):
        logits, key = random_logits(scale), jax.random.key(0)
        assert np.isfinite(evaluate(getattr(estimators, name), logits, key, 1.0)[0]).all()


def test_gumbel_rao_is_finite_when_an_exponential_draw_is_exactly_0(monkeypatch):
    """Which happens once in 2^23 float32 draws: every few hundred steps of a wide layer."""
    drawn = []

    def zeros(key, shape, dtype):
        drawn.append(shape)
        return jnp.zeros(shape, dtype)

    monkeypatch.setattr(jax.random, "exponential", zeros)
    fresh = functools.partial(estimators.gumbel_rao)  # not the program compiled before
    assert np.isfinite(evaluate(fresh, random_logits(), jax.random.key(0), 1.0)[0]).all()
    assert drawn == [(16, 64, 6)]


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_logits_are_handled_in_float32(name):
    """Value and gradient are those of the same logits in float32."""
    narrow = random_logits().astype(jnp.bfloat16)
    calls = [
        evaluate(getattr(estimators, name), logits, jax.random.key(0), 1.3)
        for logits in (narrow, narrow.astype(jnp.float32))
    ]
    (gradient, selection), (expected, wide) = calls
    assert selection.weights.dtype == jnp.float32
    np.testing.assert_allclose(selection.weights, wide.weights, rtol=1e-6)
    assert gradient.dtype == jnp.bfloat16
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(np.asarray(gradient, np.float32), expected, rtol=2**-8, atol=1e-6)


# --- errors -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_bad_temperature_raises_naming_the_estimator_and_the_value(name, bad):
    for temperature in (bad, jnp.float32(bad), np.float32(bad)):
        with pytest.raises(ValueError, match=rf"{name}: temperature must be .*, got {bad}"):
            getattr(estimators, name)(random_logits(), jax.random.key(0), temperature)


@pytest.mark.parametrize("name", ALL)
def test_a_traced_temperature_is_not_checked_and_counts(name):
    estimator, logits, key = getattr(estimators, name), random_logits(), jax.random.key(0)
    assert evaluate(estimator, logits, key, -1.0)[0].shape == (64, 6)
    warm, hot = (evaluate(estimator, logits, key, tau)[0] for tau in (1.5, 3.0))
    assert np.abs(warm - hot).max() > 0.01


def test_reinmax_below_temperature_1_raises():
    with pytest.raises(ValueError, match=r"reinmax: temperature must be .* 1, got 0\.9"):
        estimators.reinmax(random_logits(), jax.random.key(0), 0.9)


@pytest.mark.parametrize("name", NOISY)
def test_a_missing_key_raises_naming_the_estimator_and_the_remedy(name):
    with pytest.raises(ValueError, match=f"{name} draws noise and got no key: pass rngs="):
        getattr(estimators, name)(random_logits(), None, 1.0)


@pytest.mark.parametrize("samples", [0, -3])
def test_gumbel_rao_without_samples_raises(samples):
    with pytest.raises(ValueError, match=f"num_samples must be at least 1, got {samples}"):
        estimators.gumbel_rao(random_logits(), jax.random.key(0), 1.0, num_samples=samples)


@pytest.mark.parametrize("name", [*ALL, "deterministic"])
@pytest.mark.parametrize("logits", [jnp.zeros(6), jnp.zeros((2, 3, 6)), jnp.zeros((2, 6), int)])
def test_logits_that_are_no_float_matrix_raise_naming_dtype_and_shape(name, logits):
    with pytest.raises(
        (TypeError, ValueError), match=rf"{name}: logits must be .* {logits.dtype}\["
    ):
        getattr(estimators, name)(logits, jax.random.key(0), 1.0)


@pytest.mark.parametrize("logits", [None, [[0.0, 1.0]], "relu", jnp.zeros((2, 6), complex)])
def test_logits_of_another_type_raise_naming_them(logits):
    message = "soft_mixture: logits must be a real floating-point array, got"
    with pytest.raises(TypeError, match=message):
        estimators.soft_mixture(logits, None, 1.0)


@pytest.mark.parametrize("temperature", [None, "1", True, 1j, [1.0], jnp.ones(2)])
def test_a_temperature_of_another_type_raises_naming_it(temperature):
    with pytest.raises(TypeError, match="soft_mixture: temperature must be a number > 0, got"):
        estimators.soft_mixture(random_logits(), None, temperature)
