"""The training loop: batches, masks, groups, schedules, the switch, recompilation."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.config import Config
from experiments.data.tasks import Split, Task, load_task
from experiments.objective import CLASSIFICATION, DOUBLE_SOFTMAX
from experiments.presets import default_config
from experiments.recipes import AS_IT_WAS
from experiments.training import evaluation, networks, step
from experiments.training.draws import draw
from experiments.training.optimizer import learning_rate, optimizer, scales
from experiments.training.program import Program
from experiments.training.state import start_phase, trained
from experiments.training.train import layer_records
from smartmixed_jax import (
    PAPER_POOL,
    MixedActivation,
    SelectionLogits,
    apply_choices,
    covered,
    fix_choices,
    summarize,
)


def tiny(**changes) -> Config:
    """digits, two small layers, two epochs a phase, the paper's phase 1: noisy, τ falling."""
    settings = {"hidden": (24, 16), "selective_epochs": 2, "mixed_epochs": 2, "batch_size": 200}
    settings = settings | AS_IT_WAS
    return dataclasses.replace(default_config("recommended", "digits"), **(settings | changes))


@pytest.fixture(scope="module")
def digits() -> Task:
    return load_task(tiny())


def start(config: Config, task: Task):
    return start_phase(networks.build_model(config, task), config, task, 0)


def epoch(config, task, program, state, non_trainable, number=0):
    splits = task.splits["train"], task.splits["validation"]
    draws = draw(program, [config.seed], number, len(splits[0].labels))
    return step.run_epoch(program, state, non_trainable, *splits, draws, jnp.int32(number))


def flat(task, split):
    """The inputs of a split as an MLP sees them."""
    inputs = task.splits[split].inputs
    return inputs.reshape(len(inputs), -1).astype(jnp.float32) / task.scale


def copy(state):
    return jax.tree.map(jnp.copy, state)


def test_an_epoch_visits_every_example_once(digits):
    config = tiny()
    program, *_ = start(config, digits)
    size = len(digits.splits["train"].labels)
    orders = [np.asarray(draw(program, [0], number, size).indices) for number in (0, 1)]
    for order in orders:
        assert order.shape == (math.ceil(size / 200), 200)
        assert sorted(order[order >= 0].tolist()) == list(range(size))
        assert (order[:-1] >= 0).all()
    assert not np.array_equal(*orders)


def test_the_mixed_phase_goes_on_with_new_batches_and_uniform_sees_the_same(digits):
    config = tiny()
    size = len(digits.splits["train"].labels)
    uniform = tiny(method="uniform:relu")
    selective, *_ = start(config, digits)
    whole, *_ = start(uniform, digits)
    mixed = dataclasses.replace(selective, phase_index=1)
    for number in range(4):
        program, own = (selective, number) if number < 2 else (mixed, number - 2)
        np.testing.assert_array_equal(
            draw(program, [5], own, size).indices,
            draw(whole, [5], number, size).indices,
        )


def test_padding_of_the_last_batch_changes_nothing(digits):
    """One epoch of one padded batch equals one optimiser step on the bare examples."""
    config = tiny(method="uniform:tanh", batch_size=200, clip=0.0)
    few = Split(*(part[:130] for part in digits.splits["train"]))
    task = dataclasses.replace(digits, splits={**digits.splits, "train": few})
    program, state, non_trainable = start(config, task)
    params = copy(state.params)
    before = trained(params)
    after, metrics = epoch(config, task, program, state, non_trainable)

    def loss(own):
        model = program.model({**params, **own}, non_trainable)
        outputs = model(few.inputs.reshape(130, -1).astype(jnp.float32) / task.scale)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, few.labels))

    value, gradients = jax.value_and_grad(loss)(before)
    transform = optimizer(program)
    updates, _ = transform.update(gradients, transform.init(before), before)
    expected = optax.apply_updates(before, updates)
    np.testing.assert_allclose(metrics["train_loss"], value, rtol=1e-5)
    # Adam divides a gradient by its own size: compare where that is not rounding noise.
    for new, old, want, gradient in zip(
        *map(jax.tree.leaves, (trained(after.params), before, expected, gradients)), strict=True
    ):
        clear = np.abs(gradient) > 1e-5
        assert clear.any()
        np.testing.assert_allclose((new - old)[clear], (want - old)[clear], rtol=1e-2)


def test_methods_of_a_seed_start_from_the_same_weights(digits):
    weights = [
        jax.tree.leaves(start(tiny(method=method, seed=seed), digits)[1].params["weights"])
        for method, seed in (("two_phase", 0), ("uniform:selu", 0), ("two_phase", 1))
    ]
    assert all(map(np.array_equal, weights[0], weights[1]))
    assert not np.array_equal(weights[0][1], weights[2][1])


@pytest.mark.parametrize("group", ["weights", "selection"])
def test_weights_and_logits_are_separate_groups(digits, group):
    rates = {"weights": "learning_rate", "selection": "logit_learning_rate"}
    config = tiny(**{rates[group]: 1e-30})
    program, state, non_trainable = start(config, digits)
    before = copy(state.params)
    state, _ = epoch(config, digits, program, state, non_trainable)
    moved = {
        name: max(
            float(jnp.max(jnp.abs(new - old)))
            for new, old in zip(
                *map(jax.tree.leaves, (state.params[name], before[name])), strict=True
            )
        )
        for name in trained(before)
    }
    assert moved.pop(group) < 1e-20
    assert min(moved.values()) > 1e-4


def test_the_clip_is_over_everything():
    config = tiny(clip=0.5, learning_rate=1.0)
    program = Program(None, config, 0, 10, CLASSIFICATION)
    params = {"weights": {"w": jnp.zeros(2)}, "selection": {"l": jnp.zeros(2)}}
    gradients = jax.tree.map(lambda leaf: leaf + 3.0, params)
    clip = optimizer(program).init(params)
    _, state = optimizer(program).update(gradients, clip, params)
    first_moments = [
        leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,) and float(leaf[0]) > 0
    ]
    # Adam's first moment after a step is 0.1 times the clipped gradient, of norm 0.5 over 4 values.
    np.testing.assert_allclose(sorted({round(float(m[0]), 6) for m in first_moments})[-1], 0.025)


def test_schedules_start_and_end_where_they_say(digits):
    config = tiny(schedule="cosine", temperature=2.0, final_temperature=0.5)
    program, *_ = start(config, digits)
    mixed = dataclasses.replace(program, phase_index=1)
    steps = 2 * program.steps
    assert float(scales(program, 0)["temperature"]) == 2.0
    assert float(scales(program, steps - 1)["temperature"]) == pytest.approx(0.5)
    rate = config.learning_rate
    assert float(learning_rate(program, 0)) == pytest.approx(rate)
    # One cosine over both phases: half the rate at the switch, 0 at the end.
    assert float(learning_rate(program, steps)) == pytest.approx(rate / 2, rel=1e-4)
    assert float(learning_rate(mixed, 0)) == pytest.approx(rate / 2, rel=1e-4)
    assert float(learning_rate(mixed, steps)) == pytest.approx(0, abs=1e-8)
    restart = dataclasses.replace(
        mixed, config=dataclasses.replace(program.config, schedule="cosine_restart")
    )
    assert float(learning_rate(restart, 0)) == pytest.approx(rate)
    constant = dataclasses.replace(
        mixed, config=dataclasses.replace(program.config, schedule="constant")
    )
    assert float(learning_rate(constant, steps)) == pytest.approx(rate)


def test_published_loss_is_a_softmax_of_a_softmax(digits):
    outputs = jnp.array([[0.0, 0.0, 0.0], [80.0, 0.0, 0.0]])
    losses, right = DOUBLE_SOFTMAX.losses_and_scores(outputs, jnp.array([2, 0]))
    np.testing.assert_allclose(losses, [math.log(3), math.log(1 + 2 / math.e)], rtol=1e-6)
    np.testing.assert_array_equal(right, [0, 1])
    # With ten classes it starts near ln 10 and cannot fall below ln(1 + 9/e) = 1.4612.
    published = dataclasses.replace(
        default_config("published", "digits"), selective_epochs=1, hidden=(32, 16)
    )
    digits = load_task(published)
    program, state, non_trainable = start(published, digits)
    _, metrics = epoch(published, digits, program, state, non_trainable)
    assert 2.30 <= float(metrics["step_losses"][0]) <= 2.31
    assert float(metrics["step_losses"].min()) >= 1.461


def test_evaluation_counts_every_example_once(digits):
    config = tiny(method="uniform:relu", batch_size=128)
    program, state, non_trainable = start(config, digits)
    split = digits.splits["validation"]
    assert len(split.labels) % 128
    loss, score, outputs = evaluation.evaluate(
        program, state.params, non_trainable, split, jax.random.key(0), {}
    )
    model = program.model(state.params, non_trainable)
    expected = np.asarray(model(flat(digits, "validation")), np.float64)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    labels = np.asarray(split.labels)
    assert float(score) == pytest.approx((expected.argmax(-1) == labels).mean())
    log = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
    assert float(loss) == pytest.approx(-log[np.arange(len(labels)), labels].mean(), rel=1e-5)


@pytest.mark.parametrize("noise", [False, True])
def test_evaluation_noise_is_on_only_where_the_preset_says(digits, noise):
    config = tiny(evaluation_noise=noise)
    program, state, non_trainable = start(config, digits)
    losses = {
        float(
            evaluation.evaluate(
                program,
                state.params,
                non_trainable,
                digits.splits["validation"],
                jax.random.key(number),
                {},
            )[0]
        )
        for number in range(3)
    }
    assert len(losses) == (3 if noise else 1)


def test_the_best_state_is_that_of_the_lowest_validation_loss(digits):
    config = tiny(method="uniform:relu")
    program, state, non_trainable = start(config, digits)
    state, first = epoch(config, digits, program, state, non_trainable, 0)
    kept = copy(state.params)
    worse = copy(state)._replace(params=jax.tree.map(lambda leaf: 30 * leaf, state.params))
    worse, second = epoch(config, digits, program, worse, non_trainable, 1)
    assert float(second["validation_loss"]) > float(first["validation_loss"])
    assert (int(worse.best_epoch), float(worse.best_loss)) == (1, float(first["validation_loss"]))
    assert all(map(np.array_equal, jax.tree.leaves(worse.best_params), jax.tree.leaves(kept)))
    better, third = epoch(config, digits, program, worse._replace(params=kept), non_trainable, 2)
    assert int(better.best_epoch) == 3
    assert float(better.best_loss) == float(third["validation_loss"])
    assert all(
        map(np.array_equal, jax.tree.leaves(better.best_params), jax.tree.leaves(better.params))
    )


# The switch


def after_training(config, task):
    program, state, non_trainable = start(config, task)
    for number in range(config.selective_epochs):
        state, metrics = epoch(config, task, program, state, non_trainable, number)
    return program, state, non_trainable, metrics


@pytest.mark.parametrize("preset", ["recommended", "described"])
def test_the_switch_keeps_the_weights_and_the_loss_falls_on(digits, preset):
    config = dataclasses.replace(
        default_config(preset, "digits"),
        hidden=(48, 32),
        selective_epochs=6,
        mixed_epochs=12,
        logit_learning_rate=0.05,
    )
    program, state, non_trainable, noisy = after_training(config, digits)
    model = program.model(state.params, non_trainable)
    mixed = networks.switch(model, config, digits)
    for layer, old in zip(mixed.layers, model.layers, strict=True):
        assert layer.kernel[...] is old.kernel[...]
        assert layer.bias[...] is old.bias[...]
    program, state, non_trainable = start_phase(mixed, config, digits, 1)
    _, quiet = epoch(config, digits, program, state, non_trainable)
    assert float(quiet["train_loss"]) <= float(noisy["train_loss"])


@pytest.mark.optimized
@pytest.mark.parametrize("preset", ["recommended", "described"])
def test_the_switch_keeps_the_outputs_to_the_bit(digits, preset):
    config = dataclasses.replace(default_config(preset, "digits"), hidden=(48, 32))
    model = networks.build_model(config, digits)
    for number, layer in enumerate(model.activations):
        logits = layer.selection_logits
        logits[...] = jax.random.normal(jax.random.key(number), logits.shape)

    def outputs(network):
        graphdef, leaves = nnx.split(network)
        inputs = flat(digits, "test")
        return np.asarray(jax.jit(lambda x: nnx.merge(graphdef, leaves)(x))(inputs))

    before = outputs(nnx.view(model, deterministic=True))
    after = outputs(networks.switch(model, config, digits))
    np.testing.assert_array_equal(before.view(np.int32), after.view(np.int32))


def test_published_switch_reinitializes_without_the_clamp(digits):
    config = dataclasses.replace(
        default_config("published", "digits"), hidden=(24, 16), selective_epochs=1
    )
    program, state, non_trainable, _ = after_training(config, digits)
    model = program.model(state.params, non_trainable)
    clamped = model.activations[0].pool.functions[0]
    np.testing.assert_array_equal(clamped(jnp.array([-20.0, 5.0, 20.0])), [0, 5, 10])
    mixed = networks.switch(model, config, digits)
    assert mixed.activations[0].table.pool == config.activation_pool
    learned = np.argmax(np.asarray(model.activations[0].logits[...]), -1)
    np.testing.assert_array_equal(mixed.activations[0].table.choices, learned)
    initial = networks.build_model(config, digits)
    for new, old, first in zip(mixed.layers, model.layers, initial.layers, strict=True):
        assert not np.array_equal(new.kernel[...], old.kernel[...])
        assert not np.array_equal(new.kernel[...], first.kernel[...])


@pytest.mark.parametrize("kind", ["shuffled", "random", "majority"])
def test_controls_change_the_choices_as_they_say(digits, kind):
    config = tiny(hidden=(60, 60), control=kind)
    model = networks.build_model(config, digits)
    for activation in model.activations:
        activation.logits[...] = jax.random.normal(jax.random.key(1), (60, 6)) + jnp.arange(6.0)
    learned = [activation.table for activation in fix_choices(model).activations]
    mixed = networks.switch(model, config, digits)
    for table, activation in zip(learned, mixed.activations, strict=True):
        assert isinstance(activation, MixedActivation)
        control = activation.table
        assert control.choices != table.choices
        if kind == "shuffled":
            assert control.counts() == table.counts()
        if kind == "majority":
            assert max(control.counts().values()) == 60
            assert set(control.names) == {max(table.counts(), key=table.counts().get)}
        if kind == "random":
            assert min(control.counts().values()) > 0
    tables = [activation.table for activation in mixed.activations]
    assert tables[0] != tables[1] or kind == "majority"


def test_nothing_recompiles_within_a_phase_nor_for_another_seed(digits):
    step.run_steps.clear_cache()
    step.end_epoch.clear_cache()
    config = tiny(initialization="torch", hidden=(20, 12))
    for seed in (0, 1):
        config = dataclasses.replace(config, seed=seed)
        program, state, non_trainable = start(config, digits)
        for number in range(3):
            state, metrics = epoch(config, digits, program, state, non_trainable, number)
    assert float(metrics["temperature"]) != config.temperature
    assert step.run_steps._cache_size() == step.end_epoch._cache_size() == 1


def test_layers_and_steps_draw_their_own_noise(digits):
    config = tiny(hidden=(64, 64))
    program, state, non_trainable = start(config, digits)
    state.params["selection"] = jax.tree.map(jnp.zeros_like, state.params["selection"])
    draws = []
    original = program.model(state.params, non_trainable)
    keys = draw(program, [0], 0, 500).noise
    for number in range(2):
        rngs = nnx.Rngs(selection=keys[number])
        for activation in original.activations:
            logits = activation.logits[...]
            draws.append(activation.estimator(logits, rngs.selection(), 1.0).choices)
    for first in range(4):
        for second in range(first):
            assert not np.array_equal(draws[first], draws[second])


def test_selection_logits_are_the_second_group(digits):
    _, state, _ = start(tiny(), digits)
    leaves = jax.tree.leaves(
        state.params["selection"], is_leaf=lambda leaf: isinstance(leaf, nnx.Variable)
    )
    assert len(leaves) == 2
    assert all(isinstance(leaf, SelectionLogits) for leaf in leaves)
    assert [leaf.shape for leaf in leaves] == [(24, 6), (16, 6)]


# Precision


@pytest.mark.parametrize("method", ["two_phase", "uniform:tanh"])
def test_bfloat16_computes_hidden_layers_and_nothing_else(digits, method):
    config = tiny(method=method, dtype="bfloat16", learning_rate=1e-2)
    model = networks.build_model(config, digits)
    if method == "two_phase":
        mixed = networks.switch(model, config, digits)
        models = [model, mixed, networks.choices_as_data(mixed)]
    else:
        models = [model, networks.uniform_as_mixed(config, digits)]
    for own in models:
        hidden = own.layers[0](flat(digits, "train")[:3])
        assert hidden.dtype == jnp.bfloat16
        rngs = {"rngs": nnx.Rngs(0)} if own is model and method == "two_phase" else {}
        assert own.activations[0](hidden, **rngs).dtype == jnp.bfloat16
        phase_index = int(method == "two_phase" and own is not model)
        program, state, non_trainable = start_phase(own, config, digits, phase_index)
        dtypes = {leaf.dtype for leaf in jax.tree.leaves(state)}
        assert dtypes == {jnp.dtype("float32"), jnp.dtype("int32")}

    program, state, non_trainable = start(config, digits)
    splits = digits.splits["train"], digits.splits["validation"]
    draws = draw(program, [0], 0, len(splits[0].labels))
    steps = step.run_steps.lower(program, state, non_trainable, splits[0], draws, 0, 0, 1)
    end = step.end_epoch.lower(program, state, non_trainable, splits[1], draws.evaluation, 0)
    text = steps.as_text() + end.as_text()
    # Without the library's own products, the sums for the logits, which ask for full precision.
    lines = "\n".join(line for line in text.splitlines() if "HIGHEST" not in line)
    products = re.findall(r"dot_general.*-> tensor<(?:\d+x)+(\w+)>", lines)
    # Forward and backward of the output layer alone are float32, in training and validation.
    assert products.count("f32") == 4
    assert products.count("bf16") >= 7
    losses = []
    for number in range(4):
        state, metrics = epoch(config, digits, program, state, non_trainable, number)
        losses.append(float(metrics["train_loss"]))
    assert metrics["train_loss"].dtype == jnp.float32
    assert losses[-1] < 0.8 * losses[0]


def test_the_summary_of_an_epoch_is_the_librarys(digits):
    program, state, non_trainable = start(tiny(logit_learning_rate=0.3), digits)
    state, metrics = epoch(tiny(), digits, program, state, non_trainable)
    expected = summarize(program.model(state.params, non_trainable))
    records = layer_records(jax.device_get(metrics["layers"]), PAPER_POOL.names)
    assert list(records) == list(expected)
    for path, record in records.items():
        assert record["counts"] == expected[path]["counts"]
        assert record["shares"] == expected[path]["shares"]
        assert record.keys() == expected[path].keys()
        for name in ("max_probability", "entropy", "undecided"):
            assert record[name] == pytest.approx(expected[path][name], rel=1e-5)
    assert 0 < records["activations.0"]["undecided"] < 1


def test_a_clamped_pool_keeps_the_fast_form_and_its_values():
    pool = PAPER_POOL.map(lambda name, function: networks.Clamped(function, 10.0))
    assert covered(pool) == (0, 1, 2, 3, 4, 5)
    x = jnp.linspace(-2000, 2000, 4001)[:, None] / jnp.array([1.0, 100.0])
    for k, function in enumerate(pool.functions):
        y, slope = jax.jvp(lambda x: apply_choices(x, (k, k), pool), (x,), (jnp.ones_like(x),))  # noqa: B023
        expected, derivative = jax.jvp(function, (x,), (jnp.ones_like(x),))
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
        inside = (np.abs(np.abs(expected) - 10) > 1e-5) & (x != 0)
        np.testing.assert_allclose(slope[inside], derivative[inside], rtol=1e-6, atol=1e-6)
    unknown = networks.Clamped(jnp.sin, 10.0)
    assert unknown.coefficients is None
    assert networks.Clamped(jax.nn.silu, 10.0).coefficients is None
