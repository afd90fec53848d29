"""What a task trains for, and how its results are told."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.objective import (
    CLASSIFICATION,
    NEXT_CHARACTER,
    OBJECTIVES,
    REGRESSION,
    with_double_softmax,
)


def test_classes_are_scored_by_the_largest_output():
    outputs = jnp.array([[0.0, 0.0], [math.log(3), 0.0]], jnp.bfloat16)
    losses, scores = CLASSIFICATION.losses_and_scores(outputs, jnp.array([1, 0], jnp.uint8))
    np.testing.assert_allclose(losses, [math.log(2), math.log(4 / 3)], rtol=1e-2)
    np.testing.assert_array_equal(scores, [0, 1])
    assert losses.dtype == scores.dtype == jnp.float32


def test_a_text_has_the_means_over_its_characters():
    outputs = jnp.array([[[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 0.0]]])
    labels = jnp.array([[0, 1, 1, 1]], jnp.uint8)
    losses, scores = NEXT_CHARACTER.losses_and_scores(outputs, labels)
    single, _ = CLASSIFICATION.losses_and_scores(outputs[0], labels[0])
    np.testing.assert_allclose(losses, [single.mean()], rtol=1e-6)
    np.testing.assert_array_equal(scores, [0.5])


def test_values_are_scored_by_their_squared_error():
    losses, scores = REGRESSION.losses_and_scores(
        jnp.array([[1.0], [3.0]]), jnp.array([[0], [5.0]])
    )
    np.testing.assert_array_equal(losses, [1, 4])
    assert losses is scores
    assert not REGRESSION.has_score


def test_results_hold_the_number_by_which_runs_are_compared():
    labels = np.array([[1.0], [3.0]])
    for objective in OBJECTIVES.values():
        phase = objective.results("test", 0.25, 0.5, labels)
        expected = {"%": 50.0, "MSE / Var y": 0.5, "of the solution": 0.1**0.5}
        expected["dB"] = 10 * math.log10(2)
        assert objective.compared(phase) == pytest.approx(expected.get(objective.unit, 0.25))
    assert REGRESSION.results("test", 0.5, 0.5, 2 * labels)["test_normalized_error"] == 0.125


@pytest.mark.parametrize(
    ("objective", "better", "worse"),
    [
        (CLASSIFICATION, {"validation_score": 0.9}, {"validation_score": 0.8}),
        (REGRESSION, {"validation_score": 0.1}, {"validation_score": 0.2}),
        (NEXT_CHARACTER, {"validation_loss": 1.8}, {"validation_loss": 1.9}),
    ],
)
def test_the_better_validation_result_is_the_smaller_error(objective, better, worse):
    assert objective.validation_error(better) < objective.validation_error(worse)


def test_numbers_are_written_with_their_unit():
    assert CLASSIFICATION.label == "test accuracy (%)"
    assert REGRESSION.label == "normalised test error, MSE / Var y"
    assert (CLASSIFICATION.format(98.446), REGRESSION.format(1.2e-6)) == ("98.45", "1.20e-06")
    assert CLASSIFICATION.format_metric(0.98446) == "98.45 %"
    assert REGRESSION.format_metric(0.012345) == "0.01235"


def test_objectives_are_found_by_name_and_serve_as_keys():
    assert len(set(OBJECTIVES.values())) == len(OBJECTIVES)
    assert all(objective.name == name for name, objective in OBJECTIVES.items())
    twice = with_double_softmax(NEXT_CHARACTER)
    assert twice.loss is not NEXT_CHARACTER.loss
    assert twice.label == NEXT_CHARACTER.label
    with pytest.raises(ValueError, match="double_softmax = True: expected False for regression"):
        with_double_softmax(REGRESSION)
