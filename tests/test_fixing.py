"""Choices that are fixed before phase 1 ends: the criteria, the whole network or layer by layer."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.config import ESTIMATORS, Config
from experiments.names import refuse_without_effect
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.run_folder import read_metrics
from experiments.training.fixing import FAR, choices_to_compare, fix_settled
from experiments.training.program import Program
from experiments.training.train import train_and_evaluate
from smartmixed_jax import SelectionLogits, estimators

NEVER = 100


def tiny(**changes) -> Config:
    settings = {"hidden": (16, 16), "selective_epochs": 4, "mixed_epochs": 1, "start": "tanh"}
    return dataclasses.replace(default_config(task="digits"), **(settings | changes))


def logits_of(*largest: float) -> nnx.State:
    """Two neurons per layer, whose preferred function 1 has that probability."""
    layers = {}
    for number, probability in enumerate(largest):
        rest = (1 - probability) / 5
        row = jnp.log(jnp.full((2, 6), rest).at[:, 1].set(probability))
        layers[number] = {"selection_logits": SelectionLogits(row)}
    return nnx.State(layers)


def fixed(selection, config, *, epoch, best=NEVER, before=None) -> list[bool]:
    """Which layers are fixed after the epoch, from 1."""
    program = Program(None, config, 0, 10, CLASSIFICATION)
    before = choices_to_compare(program.config, selection) if before is None else before
    found = fix_settled(program, selection, before, jnp.int32(epoch - 1), jnp.int32(best))
    layers = zip(jax.tree.leaves(selection), jax.tree.leaves(found), strict=True)
    answers = []
    for logits, now in layers:
        far = FAR * jax.nn.one_hot(jnp.argmax(logits, -1), 6)
        assert np.array_equal(now, far) or np.array_equal(now, logits)
        answers.append(np.array_equal(now, far))
    return answers


def test_at_the_end_nothing_is_fixed_before():
    assert fixed(logits_of(0.99, 0.99), tiny(), epoch=4) == [False, False]


def test_layer_by_layer_they_are_fixed_in_equal_parts_of_phase_1():
    config = tiny(layer_by_layer=True)
    found = [fixed(logits_of(0.2, 0.2), config, epoch=epoch) for epoch in (1, 2, 3, 4)]
    assert found == [[False, False], [True, False], [True, False], [True, True]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [False, False]),
        ({"layer_by_layer": True}, [True, False]),
        ({"layer_by_layer": True, "fix_patience": 3}, [False, False]),
    ],
)
def test_decided_layers(changes, expected):
    config = tiny(**({"fix_when": "decided", "fix_patience": 2} | changes))
    assert fixed(logits_of(0.6, 0.4), config, epoch=2) == expected
    assert fixed(logits_of(0.6, 0.6), config, epoch=3) == [True, True]


def test_the_share_of_the_decided_counts():
    half = logits_of(0.6)
    half[0]["selection_logits"][...] = half[0]["selection_logits"][...].at[1].set(0.0)
    config = tiny(fix_when="decided", fix_patience=1)
    assert fixed(half, config, epoch=1) == [False]
    assert fixed(half, dataclasses.replace(config, fix_share=0.5), epoch=1) == [True]


def test_stable_layers():
    config = tiny(fix_when="stable", fix_patience=1, layer_by_layer=True)
    before = [jnp.array([1, 1]), jnp.array([1, 0])]
    assert fixed(logits_of(0.4, 0.4), config, epoch=1, before=before) == [True, False]
    together = dataclasses.replace(config, layer_by_layer=False)
    assert fixed(logits_of(0.4, 0.4), together, epoch=1, before=before) == [False, False]


def test_a_plateau_of_the_validation_loss():
    config = tiny(fix_when="plateau", fix_patience=2)
    found = [fixed(logits_of(0.2), config, epoch=epoch, best=2) for epoch in (2, 3, 4)]
    assert found == [[False], [False], [True]]


def test_phase_2_has_nothing_to_fix():
    program = Program(None, tiny(fix_when="stable"), 1, 10, CLASSIFICATION)
    empty = nnx.State({})
    assert choices_to_compare(program.config, empty) == []
    assert fix_settled(program, empty, [], jnp.int32(0), jnp.int32(0)) is empty


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fixed_logits_draw_their_choice_and_have_no_gradient(name):
    estimator = getattr(estimators, name)
    logits = FAR * jax.nn.one_hot(jnp.arange(6), 6)

    def total(logits):
        weights = estimator(logits, jax.random.key(0), 2.0).weights
        return jnp.sum(weights * jnp.arange(36.0).reshape(6, 6)), weights

    gradient, weights = jax.grad(total, has_aux=True)(logits)
    np.testing.assert_array_equal(np.argmax(weights, -1), np.arange(6))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("by_steps", [False, True])
def test_a_run_trains_on_with_what_was_fixed(tmp_path, by_steps, monkeypatch):
    if by_steps:
        from experiments.training import step

        monkeypatch.setattr(step, "steps_function", lambda program: step.run_steps_from_host)
    config = tiny(fix_when="stable", fix_share=0.01, fix_patience=2, run_dir=str(tmp_path / "run"))
    folder = train_and_evaluate(config, show_progress=False)
    rows = read_metrics(folder)
    undecided = [row["layers"]["activations.0"]["max_probability"] for row in rows]
    assert undecided[0] < 1
    assert undecided[1:] == [1.0] * 4
    counts = [json.dumps(row["layers"]["activations.1"]["counts"]) for row in rows[1:]]
    assert len(set(counts)) == 1
    assert [row["phase"] for row in rows] == ["selective"] * 4 + ["mixed"]
    (switched,) = {row["layers"]["activations.0"]["undecided"] for row in rows[1:]}
    assert switched == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fix_when": "never"}, "fix_when = 'never': expected one of 'end', 'decided', 'sta"),
        ({"fix_when": "stable", "fix_share": 1.5}, r"fix_share = 1.5: expected in \(0, 1\]"),
        ({"fix_when": "stable", "fix_patience": 0}, "fix_patience = 0: expected at least 1"),
        ({"fix_when": "plateau", "layer_by_layer": True}, "layer_by_layer = True: expected False"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"fix_share": 0.5}, "fix_share"),
        ({"fix_when": "plateau", "fix_share": 0.5}, "fix_share"),
        ({"fix_patience": 5}, "fix_patience"),
        ({"method": "uniform:relu", "fix_when": "stable", "start": "auto"}, "fix_when"),
    ],
)
def test_options_without_effect_are_refused(changes, field):
    with pytest.raises(ValueError, match=f"{field} = .* has no effect"):
        refuse_without_effect([tiny(**changes)])
