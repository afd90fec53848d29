"""Convolutions, batch statistics and text in the one training loop; the optimiser's options."""

import dataclasses
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import evaluate, figures, report, run_folder
from experiments.config import Config
from experiments.data import DataError, tasks, text
from experiments.data.augment import MARGIN, shift_and_mirror
from experiments.data.tasks import Split, Task
from experiments.objective import CLASSIFICATION, NEXT_CHARACTER
from experiments.presets import default_config
from experiments.training import evaluation, models, networks, step
from experiments.training.draws import draw
from experiments.training.optimizer import learning_rate
from experiments.training.state import PhaseState, TrainState, start_phase, trained
from experiments.training.train import train_and_evaluate
from smartmixed_jax import SelectiveActivation, fix_choices

KEY = jax.random.key(0)


def image_task(count=40, size=8) -> Task:
    """Images whose class is the colour that is brightest."""
    splits = {}
    for number, name in enumerate(("train", "validation", "test")):
        key, noise = jax.random.split(jax.random.fold_in(KEY, number))
        labels = jax.random.randint(key, (count,), 0, 3)
        bright = 100 * jax.nn.one_hot(labels, 3)[:, None, None]
        images = bright + jax.random.uniform(noise, (count, size, size, 3), maxval=150.0)
        splits[name] = Split(images.astype(jnp.uint8), labels)
    return Task(
        name="cifar10",
        splits=splits,
        objective=CLASSIFICATION,
        out_features=3,
        scale=255.0,
        class_names=("red", "green", "blue"),
        source="made up",
    )


def text_task(length=200) -> Task:
    """A text that repeats itself."""
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(length) % 5, 9).astype(np.uint8)
    split = Split(jnp.asarray(windows[:, :-1]), jnp.asarray(windows[:, 1:]))
    splits = dict.fromkeys(("train", "validation", "test"), split)
    return Task("tiny_shakespeare", splits, NEXT_CHARACTER, 5, scale=None, source="made up")


def config_of(network: str, **changes) -> Config:
    task = "tiny_shakespeare" if network == "transformer" else "cifar10"
    settings = {"network": network, "selective_epochs": 2, "mixed_epochs": 2, "batch_size": 16}
    return dataclasses.replace(default_config(task=task), **(settings | changes))


@pytest.fixture
def small(monkeypatch):
    """Networks of the same kinds that train in a second."""

    def conv(shape, out, **options):
        return models.ConvNet(shape, out, channels=(4, 8), hidden=8, **options)

    def resnet(shape, out, **options):
        return models.ResNet(out, blocks=1, widths=(4, 8), **options)

    def transformer(shape, vocabulary, **options):
        size = {"features": 16, "layers": 2, "heads": 2, "expansion": 2}
        return models.Transformer(vocabulary, *shape, **size, **options)

    for name, build in (("conv", conv), ("resnet20", resnet), ("transformer", transformer)):
        monkeypatch.setitem(models.NETWORKS, name, models.NETWORKS[name]._replace(build=build))


def start(config: Config, task: Task):
    return start_phase(networks.build_model(config, task), config, task, 0)


def run(config, task, program, state, non_trainable, number=0) -> tuple[TrainState, dict]:
    splits = task.splits["train"], task.splits["validation"]
    draws = draw(program, [config.seed], number, len(splits[0].labels))
    state = jax.tree.map(jnp.copy, state)
    return step.run_epoch(program, state, non_trainable, *splits, draws, jnp.int32(number))


def task_of(network: str) -> Task:
    return text_task() if network == "transformer" else image_task()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", ["conv", "resnet20", "transformer"])
def test_a_network_learns_in_both_phases(network):
    config = config_of(
        network, steps_per_epoch=20, optimizer="adam", learning_rate=1e-2, warmup=0.0
    )
    task = task_of(network)
    program, state, non_trainable = start(config, task)
    losses = []
    for number in range(2):
        state, metrics = run(config, task, program, state, non_trainable, number)
        losses.append(float(metrics["train_loss"]))
    assert losses[-1] < 0.8 * losses[0]
    assert len(metrics["layers"]) == len(networks.build_model(config, task).activations)

    model = program.model(PhaseState(program, state, non_trainable).selected, non_trainable)
    fixed = networks.switch(model, config, task)
    mixed, state, non_trainable = start_phase(fixed, config, task, 1)
    state, metrics = run(config, task, mixed, state, non_trainable)
    assert metrics["layers"] == {}
    assert float(metrics["train_loss"]) < losses[-1] + 0.1
    loss, score, outputs = evaluation.evaluate(
        mixed, state.params, non_trainable, task.splits["test"], KEY, {}
    )
    labels = task.splits["test"].labels
    assert outputs.shape == (*labels.shape, task.out_features)
    expected = optax.softmax_cross_entropy_with_integer_labels(outputs, labels.astype(jnp.int32))
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert float(score) == pytest.approx(float((outputs.argmax(-1) == labels).mean()), rel=1e-5)


@pytest.mark.optimized
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", ["conv", "resnet20", "transformer"])
def test_a_network_switches_to_the_bit(network):
    task, config = task_of(network), config_of(network)
    model = networks.build_model(config, task)
    for number, layer in enumerate(model.activations):
        logits = layer.selection_logits
        logits[...] = jax.random.normal(jax.random.fold_in(KEY, number), logits.shape)
    models = (nnx.view(model, deterministic=True), networks.switch(model, config, task))
    inputs = task.splits["test"].inputs[:16]
    program, *_ = start_phase(model, config, task, 0)

    def outputs(model):
        quiet = nnx.view(model, use_running_average=True, raise_if_not_found=False)
        return jax.jit(lambda x: evaluation.apply(program, quiet, x, KEY))(inputs)

    np.testing.assert_array_equal(*map(outputs, models))


@pytest.mark.usefixtures("small")
def test_an_epoch_by_steps_is_the_epoch_at_once(monkeypatch):
    task, config = image_task(), config_of("resnet20", batch_size=16)
    program, state, non_trainable = start(config, task)
    by_steps, one = run(config, task, program, state, non_trainable)
    monkeypatch.setattr(step, "steps_function", lambda program: step.run_steps)
    at_once, other = run(config, task, program, state, non_trainable)
    pairs = zip(*map(jax.tree.leaves, ((at_once, one), (by_steps, other))), strict=True)
    for left, right in pairs:
        np.testing.assert_allclose(left, right, rtol=2e-3, atol=1e-4)


@pytest.mark.usefixtures("small")
def test_several_runs_by_steps_are_each_run_alone():
    task, config = image_task(), config_of("resnet20", batch_size=16, augment=False)
    configs = [dataclasses.replace(config, seed=seed) for seed in (0, 1)]
    started = [start(own, task) for own in configs]
    alone = [
        run(own, task, *phase)[1]["step_losses"]
        for own, phase in zip(configs, started, strict=True)
    ]
    program = dataclasses.replace(started[0][0], runs=2)
    states, rests = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts)
        for parts in zip(*[phase[1:] for phase in started], strict=True)
    )
    splits = task.splits["train"], task.splits["validation"]
    draws = draw(program, [0, 1], 0, len(splits[0].labels))
    _, metrics = step.run_epoch(program, states, rests, *splits, draws, jnp.int32(0))
    np.testing.assert_allclose(metrics["step_losses"], np.stack(alone), rtol=2e-3)


@pytest.mark.usefixtures("small")
def test_batch_statistics_move_in_training_and_not_in_evaluation():
    task, config = image_task(), config_of("resnet20")
    program, state, non_trainable = start(config, task)
    before = jax.tree.leaves(state.params["statistics"])
    assert before
    after, _ = run(config, task, program, state, non_trainable)
    moved = jax.tree.leaves(after.params["statistics"])
    assert not any(map(np.array_equal, before, moved))
    split = task.splits["test"]
    *_, outputs = evaluation.evaluate(program, after.params, non_trainable, split, KEY, {})
    reverse = Split(*(part[::-1] for part in split))
    *_, reversed_outputs = evaluation.evaluate(
        program, after.params, non_trainable, reverse, KEY, {}
    )
    # In other batches the same image has the same outputs.
    np.testing.assert_allclose(outputs, reversed_outputs[::-1], rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_short_batches_are_filled_with_other_examples():
    """40 images in batches of 16: what fills the last one is drawn, and not counted twice."""
    program, *_ = start(config_of("resnet20", batch_size=16), image_task())
    order = np.asarray(draw(program, [0], 0, 40).indices)
    filled = order[-1, 8:]
    assert (filled < 0).all()
    assert len(set((~filled).tolist())) == 8
    assert set((~filled).tolist()) <= set(range(40))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", ["conv", "resnet20", "transformer"])
def test_methods_start_from_the_same_weights(network):
    task = task_of(network)
    methods = ("two_phase", "uniform:relu")
    states = [start(config_of(network, method=method), task)[1].params for method in methods]
    for part in ("weights", "statistics"):
        pairs = zip(*(jax.tree.leaves(params[part]) for params in states), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.usefixtures("small")
def test_a_uniform_network_as_a_mixed_one_computes_the_same():
    task, config = image_task(), config_of("resnet20", method="uniform:tanh")
    x = task.splits["test"].inputs.astype(jnp.float32) / 255
    one, other = networks.build_model(config, task), networks.uniform_as_mixed(config, task)
    np.testing.assert_allclose(one(x), other(x), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("small")
def test_controls_and_new_weights_keep_every_layers_place():
    task, config = image_task(), config_of("resnet20", carry_weights=False, control="majority")
    model: networks.Network = networks.build_model(config, task)
    learned = fix_choices(model)
    switched = networks.switch(model, config, task)
    for before, after in zip(learned.activations, switched.activations, strict=True):
        assert len(before.table) == len(after.table)
        assert len(set(after.table.choices)) == 1
    assert not np.array_equal(model.convs[0].kernel[...], switched.convs[0].kernel[...])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("network", ["resnet20", "transformer"])
def test_a_run_leaves_its_report_and_figures_and_resumes_to_the_bit(tmp_path, monkeypatch, network):
    config = config_of(network, steps_per_epoch=2, checkpoint_seconds=0.0)

    def load(config):
        return task_of(network)

    whole, broken = (dataclasses.replace(config, run_dir=str(tmp_path / n)) for n in ("a", "b"))
    train_and_evaluate(whole, load=load, show_progress=False)
    append = run_folder.Rows.append

    def interrupt(folder, row):
        append(folder, row)
        if row["epoch"] in (1, 3):
            raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(run_folder.Rows, "append", interrupt)
            train_and_evaluate(broken, load=load, show_progress=False)
        with open(tmp_path / "b" / "metrics.jsonl", "a") as file:
            file.write('{"epoch": 9}\n')  # what the checkpoint does not know is dropped
    train_and_evaluate(broken, load=load, show_progress=False)
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in run_folder.read_metrics(f)]
        for f in (tmp_path / "a", tmp_path / "b")
    ]
    assert rows[0] == rows[1]

    # A trained network is given back, here the resumed one, and its scores with it.
    monkeypatch.setattr(evaluate, "load_task", load)
    given = evaluate.load_run(tmp_path / "b")
    phase = run_folder.read_finished(tmp_path / "b").summary["phases"][-1]
    results = evaluate.score_test(given)
    assert results == {key: phase[key] for key in results}
    split = task_of(network).splits["test"]
    right = given.outputs(split.inputs).argmax(-1) == split.labels
    assert float(jnp.mean(right)) == pytest.approx(results["test_score"], abs=0.02)

    described = report.describe(tmp_path / "a")
    assert f"two_phase, {network}, seed 0" in described
    compared = report.compare([tmp_path / "a"])
    if network == "transformer":
        assert "test loss, nats per character" in compared
        loss = json.loads((tmp_path / "a" / "summary.json").read_text())["phases"][-1]["test_loss"]
        assert f"{loss:.3f}" in compared
    pictures = figures.draw_figures(tmp_path / "a")
    assert {"shares.png", "choice_map.png", "curves.png"} <= {path.name for path in pictures}


# Augmentation


def test_augmentation_shifts_and_mirrors_images_of_their_own():
    rows = jnp.arange(1, 65).reshape(8, 8)
    images = jnp.broadcast_to(rows[None, ..., None], (200, 8, 8, 1)).astype(jnp.uint8)
    seen = {np.asarray(image).tobytes() for image in shift_and_mirror(KEY, images)}
    places = 2 * MARGIN + 1
    padded = np.pad(np.asarray(rows), MARGIN)
    crops = [padded[i : i + 8, j : j + 8] for i in range(places) for j in range(places)]
    possible = {flip.astype(np.uint8).tobytes() for crop in crops for flip in (crop, crop[:, ::-1])}
    assert seen <= possible
    assert len(seen) > 80


@pytest.mark.usefixtures("small")
def test_augmentation_changes_training_and_is_the_same_for_all_methods(monkeypatch):
    task = image_task()
    draws = [
        draw(start(config_of("conv", method=method), task)[0], [0], 1, 40).augmentation
        for method in ("two_phase", "uniform:relu")
    ]
    np.testing.assert_array_equal(*map(jax.random.key_data, draws))
    losses = []
    for augment in (True, False):
        config = config_of("conv", augment=augment, method="uniform:relu")
        _, metrics = run(config, task, *start(config, task))
        losses.append(float(metrics["train_loss"]))
    assert losses[0] != losses[1]


# The optimiser


def test_warm_up_rises_to_the_schedule_over_both_phases():
    config = config_of("conv", warmup=5 / 12, learning_rate=1.0)
    program = start(config, image_task())[0]
    plain = dataclasses.replace(program, config=dataclasses.replace(config, warmup=0.0))
    rates = [float(learning_rate(program, step)) for step in range(6)]
    full = [float(learning_rate(plain, step)) for step in range(6)]
    np.testing.assert_allclose(rates, np.multiply(full, [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]), rtol=1e-6)
    second = dataclasses.replace(program, phase_index=1)
    assert float(learning_rate(second, 0)) == float(
        learning_rate(dataclasses.replace(plain, phase_index=1), 0)
    )


@pytest.mark.optimized
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_shrinks_kernels_only(optimizer):
    """One step at a rate that moves nothing but what decays: the difference to no decay."""
    task, after = image_task(), []
    for decay in (0.0, 0.5):
        config = config_of(
            "resnet20",
            optimizer=optimizer,
            weight_decay=decay,
            steps_per_epoch=1,
            warmup=0.0,
            schedule="constant",
            learning_rate=1e-2,
            augment=False,
        )
        program, state, non_trainable = start(config, task)
        before = trained(state.params)["weights"]
        state, _ = run(config, task, program, state, non_trainable)
        after.append(state.params)
    paths = jax.tree_util.tree_leaves_with_path(before)
    values = [jax.tree.leaves(params["weights"]) for params in after]
    factor = {"adam": 1, "sgd": 1.9}[optimizer]  # Nesterov's first step counts a gradient 1.9-fold
    for (path, old), plain, decayed in zip(paths, *values, strict=True):
        expected = -0.5e-2 * factor * old if old.ndim > 1 else jnp.zeros_like(old)
        np.testing.assert_allclose(
            decayed - plain, expected, atol=2e-6, err_msg=jax.tree_util.keystr(path)
        )
    np.testing.assert_array_equal(*(jax.tree.leaves(p["selection"])[0] for p in after))


@pytest.mark.parametrize(
    ("task", "network", "fitting"),
    [
        ("tiny_shakespeare", "mlp", "transformer or MODULE:NAME"),
        ("mnist", "transformer", "mlp or conv or resnet20 or MODULE:NAME"),
        ("function:product_sine", "conv", "mlp or MODULE:NAME"),
        ("mnist", "perceptron", "mlp or conv or resnet20 or MODULE:NAME"),
    ],
)
def test_a_network_must_fit_its_task(tmp_path, task, network, fitting):
    config = dataclasses.replace(
        default_config(task=task), network=network, run_dir=str(tmp_path / "run")
    )

    def load(config):
        if task.startswith("function:"):
            return tasks.load_task(config)
        made_up = text_task() if task == "tiny_shakespeare" else image_task()
        return dataclasses.replace(made_up, name=task)

    with pytest.raises(ValueError, match=f"network = '{network}': expected {fitting} for {task}"):
        train_and_evaluate(config, load=load)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["augment", "double_softmax"])
def test_an_option_that_a_task_has_no_use_for_is_refused(option):
    config = dataclasses.replace(default_config(task="function:ratio"), **{option: True})
    with pytest.raises(ValueError, match=f"{option} = True: expected False for"):
        tasks.load_task(config)


# Text

PART = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n"


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """The published file, cut short, and its checksum."""
    whole = PART * 20
    monkeypatch.setattr(text, "SHA256", hashlib.sha256(whole.encode()).hexdigest())
    (tmp_path / text.FILE).write_text(whole)
    return tmp_path


def test_a_raw_text_is_split_in_its_order(raw):
    corpus = text.load_text("tiny_shakespeare", raw)
    parts = ["".join(corpus.vocabulary[i] for i in corpus.splits[name]) for name in text.SHARES]
    assert "".join(parts) == PART * 20
    shares = [len(part) / len(PART * 20) for part in parts]
    assert shares == pytest.approx([0.9, 0.05, 0.05], abs=0.01)
    assert corpus.vocabulary == "".join(sorted(set(PART)))


def test_a_damaged_text_is_one_line(raw):
    (raw / text.FILE).write_text("something else")
    with pytest.raises(DataError, match=r"input\.txt \(14 bytes\) is damaged or another text"):
        text.load_text("tiny_shakespeare", raw)


def test_without_text_and_network_one_line_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"no prepared TFDS folder or input\.txt.*set TFDS"):
        text.load_text("tiny_shakespeare", tmp_path, cache_dir=tmp_path, download=False)
    with pytest.raises(DataError, match="unknown text 'moby_dick'"):
        text.load_text("moby_dick", tmp_path)


def test_a_text_task_has_every_place_to_train_and_every_character_once_to_test(raw, monkeypatch):
    config = dataclasses.replace(default_config(task="tiny_shakespeare"), data_dir=str(raw))
    monkeypatch.setattr(tasks, "CONTEXT", 16)
    task, corpus = tasks.load_task(config), text.load_text("tiny_shakespeare", raw)
    train_split, test_split = task.splits["train"], task.splits["test"]
    assert len(train_split.inputs) == len(corpus.splits["train"]) - 16
    np.testing.assert_array_equal(train_split.inputs[:, 1:], train_split.labels[:, :-1])
    predicted = np.asarray(test_split.labels).reshape(-1)
    np.testing.assert_array_equal(predicted, corpus.splits["test"][1 : len(predicted) + 1])
    assert len(corpus.splits["test"]) - len(predicted) <= 16


def test_text_reaches_a_selective_layer_per_hidden_unit():
    config = default_config(task="tiny_shakespeare")
    model = networks.build_model(config, text_task())
    assert [type(layer) for layer in model.activations] == [SelectiveActivation] * 4
    assert [layer.features for layer in model.activations] == [512] * 4
