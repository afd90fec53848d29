"""Phase 1 as the options of `recommended` make it: estimators, noise, draws, start, switch."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import report
from experiments.config import ESTIMATORS, Config
from experiments.data.tasks import Task, load_task
from experiments.names import refuse_without_effect
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.recipes import AS_IT_WAS, search
from experiments.run_folder import read_finished, read_metrics
from experiments.training import networks
from experiments.training.optimizer import carry_moments, optimizer, scales
from experiments.training.program import Program
from experiments.training.train import train_and_evaluate
from smartmixed_jax import estimators, fix_choices


def tiny(**changes) -> Config:
    settings = {"hidden": (16,), "selective_epochs": 2, "mixed_epochs": 1}
    base = dataclasses.replace(default_config(task="digits"), **(AS_IT_WAS | settings))
    return dataclasses.replace(base, **changes)


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task(tiny())


QUIET = {
    "estimator": "sampled_straight_through",
    "draws": 0,
    "noise": 1.0,
    "final_noise": 0.0,
    "start": "tanh",
    "start_probability": 0.6,
    "logit_learning_rate": 0.1,
    "clip_together": False,
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_reached_by_its_name(digits, name):
    (layer,) = networks.build_model(tiny(estimator=name), digits).activations
    assert layer.estimator is getattr(estimators, name)


def test_the_layers_get_draws_and_start(digits):
    (layer,) = networks.build_model(tiny(**QUIET), digits).activations
    assert layer.draws == "example"
    probabilities = jax.nn.softmax(layer.selection_logits[...])
    np.testing.assert_allclose(probabilities[:, 2], 0.6, rtol=1e-5)
    assert networks.build_model(tiny(**(QUIET | {"draws": 8})), digits).activations[0].draws == 8


@pytest.mark.parametrize(
    ("draws", "batch_size", "expected"),
    [(16, 128, 16), (16, 100, 20), (16, 12, "example"), (16, 127, "example"), (1, 7, 1), (0, 1, 1)],
)
def test_draws_divide_the_batch(digits, draws, batch_size, expected):
    config = tiny(**(QUIET | {"draws": draws, "batch_size": batch_size}))
    assert networks.build_model(config, digits).activations[0].draws == expected


def test_the_noise_falls_linearly_and_is_no_input_where_it_is_1():
    program = Program(None, tiny(**QUIET), 0, 10, CLASSIFICATION)
    found = [float(scales(program, step)["noise"]) for step in (0, 9.5, 19)]
    np.testing.assert_allclose(found, [1, 0.5, 0], atol=1e-6)
    assert scales(dataclasses.replace(program, config=tiny()), 0).keys() == {"temperature"}


def updates_of(config: Config, steps: int = 1) -> dict:
    """The sums of some updates of two weights and two logits, whose gradients are 3."""
    program = Program(None, config, 0, 10, CLASSIFICATION)
    params = {"weights": {"w": jnp.zeros(2)}, "selection": {"l": jnp.zeros(2)}}
    gradients = jax.tree.map(lambda leaf: leaf + 3.0, params)
    state, total = optimizer(program).init(params), params
    for _ in range(steps):
        updates, state = optimizer(program).update(gradients, state, params)
        total = optax.apply_updates(total, updates)
    return {"total": total, "state": state}


def test_a_clip_of_the_weights_alone_leaves_the_logits_gradients():
    found = updates_of(tiny(clip=0.5, clip_together=False, learning_rate=1.0))["state"]
    moments = {round(float(m[0]), 6) for m in jax.tree.leaves(found) if m.shape == (2,)}
    # Adam's first moments are 0.1 times the gradients: 0.5/√2 of the clipped weights, and 3.
    assert {0.035355, 0.3} <= moments


def test_logits_wait_for_the_end_of_their_warm_up():
    config = tiny(logit_warmup=0.25, logit_learning_rate=0.1)  # 5 of 20 steps
    before, after = (updates_of(config, steps)["total"] for steps in (5, 6))
    np.testing.assert_array_equal(before["selection"]["l"], 0)
    np.testing.assert_allclose(after["selection"]["l"], -0.1, rtol=1e-4)
    assert (np.asarray(before["weights"]["w"]) < 0).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"draws": 4}, "draws = 4: expected 1 for gumbel_straight_through: sampled_straight_"),
        ({"draws": -1}, "draws = -1: expected at least 0"),
        ({"estimator": "gumbel"}, "estimator = 'gumbel': expected one of gumbel_straight_through"),
        ({"estimator": "reinmax", "noise": 0.5}, "noise = 0.5: expected 1 for reinmax"),
        ({"noise": -1.0}, "noise = -1.0: expected at least 0"),
        ({"start": "swish"}, "start = 'swish': no function of the pool paper"),
        ({"start_probability": 1.0}, r"start_probability = 1.0: expected in \(0, 1\)"),
        ({"logit_warmup": 1.0}, r"logit_warmup = 1.0: expected in \[0, 1\)"),
    ],
)
def test_what_does_not_fit_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"start": "none", "start_probability": 0.5}, "start_probability"),
        ({"start": "none", "drop_worse": False}, "drop_worse"),
        ({"pool": "tanh,sin", "start_probability": 0.5}, "start_probability"),
        ({"estimator": "straight_through", "noise": 0.5}, "noise"),
        ({"method": "uniform:relu", "estimator": "reinmax"}, "estimator"),
        ({"clip": 0.0, "clip_together": False}, "clip_together"),
        ({"carry_weights": False, "carry_moments": False}, "carry_moments"),
        ({"select_epoch": "lowest_loss", "carry_moments": False}, "carry_moments"),
        ({"method": "uniform:relu", "carry_moments": False}, "carry_moments"),
    ],
)
def test_options_without_effect_are_refused(changes, field):
    with pytest.raises(ValueError, match=f"{field} = .* has no effect"):
        refuse_without_effect([dataclasses.replace(default_config(task="digits"), **changes)])


# The switch


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_moments_go_on_and_schedules_start_at_0(rule, together):
    config = tiny(optimizer=rule, clip_together=together, clip=1.0, weight_decay=0.01)
    program = Program(None, config, 1, 10, CLASSIFICATION)
    fresh = optimizer(program).init({"weights": {"w": jnp.ones(2)}, "selection": {}})
    before = updates_of(config, steps=3)["state"]
    found = carry_moments(before, fresh)
    assert jax.tree.structure(found) == jax.tree.structure(fresh)
    moments = [leaf for leaf in jax.tree.leaves(found) if leaf.shape == (2,)]
    expected = [
        leaf for leaf in jax.tree.leaves(before[-1].inner_states["weights"]) if leaf.shape == (2,)
    ]
    assert len(moments) == (2 if rule == "adam" else 1)
    np.testing.assert_array_equal(moments, expected)
    counts = [int(leaf) for leaf in jax.tree.leaves(found) if leaf.shape == ()]
    # The schedules' are 0; Adam's own says how far its moments are: 3 for the weights.
    assert sorted(counts) == ([0, 0, 3] if rule == "adam" else [0, 0])


def rows_of(config: Config, folder: Path) -> np.ndarray:
    folder = train_and_evaluate(
        dataclasses.replace(config, run_dir=str(folder)), show_progress=False
    )
    return np.array([[r["train_loss"], r["validation_loss"]] for r in read_metrics(folder)])


@pytest.mark.parametrize(
    "changes", [{"learning_rate": 5e-3}, {"optimizer": "sgd", "learning_rate": 0.05}]
)
def test_a_run_in_which_no_neuron_moves_is_the_uniform_run(tmp_path, changes):
    base = dataclasses.replace(
        default_config(task="digits"), hidden=(24,), selective_epochs=2, mixed_epochs=3, **changes
    )
    learned = dataclasses.replace(base, logit_learning_rate=1e-6)
    carried = rows_of(learned, tmp_path / "carried")
    reinitialized = rows_of(
        dataclasses.replace(learned, carry_moments=False), tmp_path / "reinitialized"
    )
    uniform = rows_of(dataclasses.replace(base, method="uniform:relu"), tmp_path / "uniform")
    np.testing.assert_allclose(carried, uniform, rtol=2e-4)
    assert (np.abs(reinitialized[2] / uniform[2] - 1) > 2e-3).all()  # the first epoch of phase 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    config = tiny(**QUIET, drop_worse=True, run_dir=str(tmp_path_factory.mktemp("quiet") / "run"))
    return train_and_evaluate(config, show_progress=False)


def test_a_run_says_what_its_choices_are_worth(finished):
    rows = read_metrics(finished)
    assert [row["noise"] for row in rows[:2]] == pytest.approx([11 / 21, 0], abs=0.01)
    beside = read_finished(finished).summary["switch"]["beside_start"]
    assert beside["kept"] == min(beside["learned"], beside["start"])
    assert 0 < beside["moved"] <= 16
    described = report.describe(finished)
    assert f"{beside['moved']} neurons chose another function than tanh; validation" in described
    assert ("back to tanh" in described) == bool(beside["dropped"])


def toy_loss(wanted):
    """How far the tables are from the wanted choices, layer by layer."""

    def loss(model):
        layers = networks.fixed_layers(model).values()
        tables = [np.asarray(layer.table.choices) for layer in layers]
        return float(sum((t != w).sum() for t, w in zip(tables, wanted, strict=True)))

    return loss


def test_layers_that_do_not_help_are_dropped_and_the_others_kept(digits):
    config = tiny(hidden=(6, 6, 6), start="relu", drop_worse=True)
    model = networks.build_model(config, digits)
    for layer in model.activations:
        layer.selection_logits[...] = 9 * jax.nn.one_hot(jnp.arange(6), 6)
    learned = [np.arange(6)] * 3
    relu = [np.zeros(6)] * 3
    wanted = [learned[0], relu[1], np.array([0, 1, 0, 3, 0, 0])]  # helps, harms, helps no more
    found = networks.compare_with_start(model, config, toy_loss(wanted))
    assert found["moved"] == 15
    assert (found["learned"], found["start"]) == (5 + 3, 5 + 2)
    assert found["dropped"] == ["activations.1", "activations.2"]
    assert found["kept"] == 2
    switched = networks.switch(model, config, digits, found["dropped"])
    tables = [layer.table.choices for layer in switched.activations]
    assert tables == [tuple(range(6)), (0,) * 6, (0,) * 6]
    assert fix_choices(model).activations[1].table.choices == tuple(range(6))


def test_where_nothing_helps_everything_returns_to_start(digits):
    config = tiny(hidden=(6,), start="relu")
    model = networks.build_model(config, digits)
    model.activations[0].selection_logits[...] = 9 * jax.nn.one_hot(jnp.arange(6), 6)
    found = networks.compare_with_start(model, config, toy_loss([np.zeros(6)]))
    assert found["dropped"] == ["activations.0"]
    assert found["kept"] == found["start"] == 0


# The search


def test_a_stage_of_the_search_prints_variants_beside_the_first(monkeypatch, capsys, tmp_path):
    small = {"hidden": (8,), "selective_epochs": 1, "mixed_epochs": 1, "steps_per_epoch": 3}
    monkeypatch.chdir(tmp_path)
    stage = search.STAGES["functions_noise"]
    variants = {name: stage.variants[name] for name in ("as it was", "sampled, 16 draws")}
    monkeypatch.setitem(
        search.STAGES,
        "functions_noise",
        stage._replace(tasks=stage.tasks[:1], variants=variants, common=small),
    )
    assert search.main(["functions_noise", "--seeds", "0", "1", "2"]) == 0
    *_, first, second = capsys.readouterr().out.strip().splitlines()
    assert first.split()[:3] == ["as", "it", "was"]
    assert " 1 " in first
    assert second.startswith("sampled, 16 draws")
    assert second.count("[") == 1


@pytest.mark.parametrize("name", search.STAGES)
def test_every_variant_of_the_search_is_a_config_whose_options_have_effect(name):
    stage = search.STAGES[name]
    for config in search.configs(stage, stage.tasks[0], [0], None):
        assert config.task == stage.tasks[0]
