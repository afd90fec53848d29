"""summarize, selection_logits and switch_report on logits with known answers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from smartmixed_jax import (
    MLP,
    PAPER_POOL,
    ActivationPool,
    SelectiveActivation,
    fix_choices,
    summarize,
    switch_report,
)
from smartmixed_jax.summary import UNDECIDED, selection_logits, summarize_logits

pytestmark = pytest.mark.usefixtures("strict")

PAIR = ActivationPool({"tanh": jnp.tanh, "sin": jnp.sin})
X = jnp.linspace(-2, 2, 12).reshape(3, 4)


def from_probabilities(rows):
    return np.log(np.asarray(rows, np.float32))


def selective_mlp(hidden=(8, 8), seed=0):
    model = MLP(4, hidden, 2, rngs=nnx.Rngs(seed))
    for index, layer in enumerate(model.activations):
        layer.selection_logits[...] = 2 * jax.random.normal(
            jax.random.key(index), layer.selection_logits.shape
        )
    return model


def test_summary_of_known_probabilities():
    rows = [[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]
    found = summarize_logits(from_probabilities(rows), PAIR)
    assert found["features"] == 4
    assert found["counts"] == {"tanh": 3, "sin": 1}
    assert found["shares"] == {"tanh": 0.75, "sin": 0.25}
    assert found["max_probability"] == pytest.approx((0.5 + 0.9 + 0.8 + 0.7) / 4, rel=1e-5)
    entropies = [-sum(p * math.log(p) for p in row) for row in rows]
    assert found["entropy"] == pytest.approx(sum(entropies) / 4, rel=1e-5)


def test_undecided_is_the_share_of_neurons_below_one_half():
    rows = [[0.4, 0.3, 0.1, 0.1, 0.05, 0.05], [0.6, 0.2, 0.05, 0.05, 0.05, 0.05]] * 2
    rows += [[1 / 6] * 6]
    assert UNDECIDED == 0.5
    found = summarize_logits(from_probabilities(rows), PAPER_POOL)
    assert found["undecided"] == pytest.approx(3 / 5)


@pytest.mark.parametrize("shift", [-50.0, 0.0, 300.0])
def test_extremes_of_entropy_and_probability(shift):
    """Uniform logits and certain ones; a constant added to all changes nothing."""
    uniform = summarize_logits(np.full((3, 6), shift, np.float32), PAPER_POOL)
    assert uniform["entropy"] == pytest.approx(math.log(6), rel=1e-6)
    assert uniform["max_probability"] == pytest.approx(1 / 6, rel=1e-6)
    assert (uniform["undecided"], uniform["counts"]["relu"]) == (1.0, 3)
    certain = summarize_logits(shift + 1e4 * np.eye(6, dtype=np.float32), PAPER_POOL)
    assert certain["entropy"] == pytest.approx(0, abs=1e-12)
    assert certain["max_probability"] == 1.0
    assert certain["undecided"] == 0.0
    assert certain["counts"] == dict.fromkeys(PAPER_POOL.names, 1)


def test_bfloat16_logits_are_summarized():
    logits = jnp.asarray([[0.0, 2.0], [1.0, 0.0]], jnp.bfloat16)
    found = summarize_logits(np.asarray(logits), PAIR)
    assert found["counts"] == {"tanh": 1, "sin": 1}
    expected = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    assert found["max_probability"] == pytest.approx(expected, rel=1e-5)


def test_every_layer_is_summarized_by_path_and_its_counts_sum_to_its_features():
    hidden = (3,) * 11 + (5,)
    found = summarize(selective_mlp(hidden))
    assert list(found) == [f"activations.{index}" for index in range(12)]
    for summary, features in zip(found.values(), hidden, strict=True):
        assert summary["features"] == sum(summary["counts"].values()) == features
        assert sum(summary["shares"].values()) == pytest.approx(1)
        assert list(summary["counts"]) == list(PAPER_POOL.names)
    assert summarize(nnx.Linear(2, 2, rngs=nnx.Rngs(0))) == {}


def test_groups_are_counted_by_neurons_and_their_logits_are_what_the_layer_holds():
    act = SelectiveActivation(5, PAIR, groups=(0, 0, 0, 0, 1), rngs=nnx.Rngs(0))
    act.selection_logits[...] = jnp.asarray(from_probabilities([[0.4, 0.6], [0.9, 0.1]]))
    found = summarize(act)[""]
    assert (found["features"], found["counts"]) == (5, {"tanh": 1, "sin": 4})
    assert found["shares"] == {"tanh": 0.2, "sin": 0.8}
    assert found["max_probability"] == pytest.approx((4 * 0.6 + 0.9) / 5, rel=1e-5)
    assert summarize(fix_choices(act))[""]["counts"] == found["counts"]
    np.testing.assert_array_equal(selection_logits(act)[""], act.selection_logits[...])


def test_a_fixed_model_has_the_counts_of_the_selective_one_and_is_certain():
    model = selective_mlp()
    before, after = summarize(model), summarize(fix_choices(model))
    assert list(before) == list(after)
    for path, fixed in after.items():
        assert fixed["counts"] == before[path]["counts"]
        assert fixed["shares"] == before[path]["shares"]
        assert (fixed["max_probability"], fixed["entropy"], fixed["undecided"]) == (1, 0, 0)


def test_selection_logits_are_those_of_the_layers_by_path():
    model = selective_mlp()
    found = selection_logits(model)
    assert list(found) == ["activations.0", "activations.1"]
    for logits, layer in zip(found.values(), model.activations, strict=True):
        assert isinstance(logits, np.ndarray)
        np.testing.assert_array_equal(logits, layer.selection_logits[...])
    assert selection_logits(fix_choices(model)) == {}
    act = SelectiveActivation(3, PAIR, rngs=nnx.Rngs(0))
    assert [logits.shape for logits in selection_logits(act).values()] == [(3, 2)]


def score(model, rngs):
    return float(jnp.mean(model(X, rngs=rngs) ** 2))


def test_switch_report_scores_the_same_weights_in_four_ways():
    model = selective_mlp()
    report = switch_report(model, score, nnx.Rngs(selection=1))
    assert list(report) == ["noise", "argmax", "expectation", "fixed"]
    assert report["argmax"] == report["fixed"]
    assert report["fixed"] == score(fix_choices(model), None)
    assert report["noise"] == score(model, nnx.Rngs(selection=1))
    assert len({report[name] for name in ("noise", "argmax", "expectation")}) == 3
    assert not model.activations[0].deterministic


def test_the_expectation_of_a_switch_report_is_the_soft_mixture():
    act = SelectiveActivation(4, PAIR, temperature=0.1, rngs=nnx.Rngs(0))
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    act.selection_logits[...] = jnp.asarray(from_probabilities(p))
    report = switch_report(act, score, nnx.Rngs(0))
    y = p[:, 0] * np.tanh(X) + p[:, 1] * np.sin(X)
    assert report["expectation"] == pytest.approx(np.mean(np.asarray(y) ** 2), rel=1e-5)


def test_switch_report_scores_argmax_and_fixed_alike_beside_dropout_and_batch_norm():
    """In training mode too: dropout and batch statistics are those of evaluation in all four."""

    class Net(nnx.Module):
        def __init__(self, *, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.act = SelectiveActivation(4, rngs=rngs)
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x, rngs=None):
            return self.dropout(self.act(self.norm(x), rngs=rngs), rngs=rngs)

    model = Net(rngs=nnx.Rngs(0))
    model.train()
    mean = np.asarray(model.norm.mean[...])
    report = switch_report(model, score, nnx.Rngs(selection=1, dropout=2))
    assert report["argmax"] == report["fixed"]
    np.testing.assert_array_equal(model.norm.mean[...], mean)
    assert (model.dropout.deterministic, model.norm.use_running_average) == (False, False)


def test_a_switch_report_of_a_fixed_model_raises():
    with pytest.raises(ValueError, match="MLP holds no SelectiveActivation"):
        switch_report(fix_choices(selective_mlp()), score, nnx.Rngs(0))
