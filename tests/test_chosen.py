"""What was chosen: planted effects are found, made data without one show none."""

import dataclasses
import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from synthetic_runs import write_run

from experiments import evaluate, run_folder, statistics
from experiments.chosen import __main__ as chosen
from experiments.chosen import association
from experiments.chosen.association import agreement, match_neurons, settled_epoch, wiring
from experiments.chosen.units import dead_and_saturated, flat_shares
from experiments.config import Config
from experiments.evaluate import TrainedRun, load_run, load_switched
from experiments.objective import CLASSIFICATION, REGRESSION
from experiments.presets import default_config
from experiments.run_folder import TaskRecord
from experiments.training import networks
from experiments.training.train import train_and_evaluate
from smartmixed_jax import FunctionTable

# Shares


def test_shares_have_intervals_over_seeds():
    choices = np.array([[0, 0, 1, 2], [0, 1, 1, 2], [0, 2, 2, 2]])
    found = association.share_intervals(choices, 4)
    mean, low, high = statistics.interval([0.25, 0.5, 0.0])
    assert low < 0
    assert found[1] == pytest.approx([mean, 0, high])
    assert found[3] == [0, 0, 0]
    assert association.share_intervals(choices[:1], 4) == [[0.5], [0.25], [0.25], [0]]


def test_shares_settle_where_they_last_left_those_of_the_end():
    counts = np.array([[50, 50], [90, 10], [70, 30], [88, 12], [90, 10]])
    assert settled_epoch(counts) == 4
    assert settled_epoch(counts, 0.01) == 5
    assert settled_epoch(counts, 0.2) == 2
    assert settled_epoch(counts, 1.0) == 1
    assert settled_epoch(counts[-1:]) == 1


# Agreement


def drawn_network(rng, widths=(5, 30, 20, 10)):
    return [
        (rng.normal(size=pair), rng.normal(size=pair[1])) for pair in itertools.pairwise(widths)
    ]


def shuffled(network, rng, noise=0.0):
    """The same network with its neurons in another order, and the order of every layer."""
    orders, shuffled = [], []
    for kernel, bias in network:
        kernel = kernel[orders[-1]] if orders else kernel
        orders.append(rng.permutation(len(bias)))
        kernel = kernel[:, orders[-1]] * rng.uniform(0.5, 2, len(bias))  # lengths do not matter
        kernel = kernel + noise * rng.normal(size=kernel.shape)
        shuffled.append((kernel, bias[orders[-1]]))
    return shuffled, orders


def test_neurons_are_matched_through_all_layers():
    rng = np.random.default_rng(0)
    network = drawn_network(rng)
    for noise in (0.0, 0.05):
        other, orders = shuffled(network, rng, noise)
        found = match_neurons(network, other)
        for match, order in zip(found, orders, strict=True):
            np.testing.assert_array_equal(order[match], np.arange(len(order)))


def test_agreement_of_matched_neurons_is_found():
    rng = np.random.default_rng(1)
    network = drawn_network(rng)
    (one, first), (two, second) = (shuffled(network, rng, 0.05) for _ in range(2))
    all_matches = association.matches_of_pairs([network, one, two])
    for matches, *orders in zip(all_matches, first, second, strict=True):
        choices = rng.integers(4, size=len(orders[0]))
        seeds = np.stack([choices, *(choices[order] for order in orders)])
        found = agreement(seeds, matches)
        assert (found.share, found.p_value) == (1, 1 / 1000)
        shares = np.bincount(choices) / len(choices)
        assert found.chance == pytest.approx(np.sum(shares**2))
        assert agreement(seeds, matches) == found


def test_agreement_without_an_effect_is_chance():
    """Of three seeds that share nothing, but all lean to one function."""
    rng, p_values, distance = np.random.default_rng(2), [], []
    pairs = list(itertools.combinations(range(3), 2))
    for _ in range(200):
        choices = rng.choice(3, p=[0.6, 0.3, 0.1], size=(3, 40))
        found = agreement(choices, {pair: rng.permutation(40) for pair in pairs}, resamples=99)
        p_values.append(found.p_value)
        distance.append(found.share - found.chance)
    low, high = stats.binom.interval(1 - 1e-5, 200, 0.05)
    assert low <= np.sum(np.array(p_values) <= 0.05) <= high
    assert abs(np.mean(distance)) < 5 * stats.sem(distance)


# Weights between functions


def test_ratios_are_means_of_absolute_weights():
    rng = np.random.default_rng(3)
    kernels = rng.normal(size=(2, 6, 5)) * np.array([1, 10])[:, None, None]
    choices, following = rng.integers(2, size=(2, 6)), rng.integers(3, size=(2, 5))
    following[0, following[0] == 2] = 0
    found = wiring(kernels, choices, following, 4, resamples=19)
    for a, b in itertools.product(range(4), repeat=2):
        ratios = []
        for kernel, start, end in zip(np.abs(kernels), choices, following, strict=True):
            if (start == a).any() and (end == b).any():
                ratios.append(kernel[start == a][:, end == b].mean() / kernel.mean())
        expected = np.mean(ratios) if ratios else np.nan
        np.testing.assert_allclose(found.ratio[a, b], expected, rtol=1e-5)
        assert np.isnan(found.p_value[a, b]) == np.isnan(expected)


@pytest.mark.parametrize("factor", [1.6, 0.5])
def test_larger_or_smaller_weights_between_two_functions_are_found_and_nothing_else(factor):
    rng = np.random.default_rng(4)
    choices, following = rng.integers(3, size=(4, 24)), rng.integers(3, size=(4, 20))
    kernels = rng.normal(size=(4, 24, 20))
    between = (choices == 1)[:, :, None] * (following == 2)[:, None]
    found = wiring(np.where(between, factor, 1) * kernels, choices, following, 3)
    adjusted = statistics.holm(found.p_value.ravel()).reshape(3, 3)
    assert (found.ratio[1, 2] - 1) * (factor - 1) > 0.1
    assert adjusted[1, 2] <= 0.05
    others = np.delete(adjusted.ravel(), 5)
    assert (others > 0.05).all()


def test_weights_that_do_not_know_the_functions_show_nothing():
    """Also where neurons differ much in the size of all their weights."""
    rng, false = np.random.default_rng(5), 0
    for _ in range(80):
        choices, following = rng.integers(2, size=(2, 12)), rng.integers(2, size=(2, 10))
        kernels = rng.normal(size=(2, 12, 10)) * rng.gamma(1.0, size=(2, 12, 1))
        found = wiring(kernels, choices, following, 2, resamples=199)
        false += statistics.holm(found.p_value.ravel()).min() <= 0.05
    assert 0 < false <= stats.binom.ppf(1 - 1e-5, 80, 0.05)


# Dead and saturated units


def untrained(config: Config, task: TaskRecord, *choices: list[int]) -> TrainedRun:
    network = networks.mixed_model(config, task, choices)
    network.eval()
    return TrainedRun(config, task, network, {})


def test_planted_dead_and_saturated_neurons_are_found():
    config = dataclasses.replace(
        default_config(task="function:product_sine"), hidden=(6, 4), batch_size=32, seed=3
    )
    names = config.activation_pool.names
    relu, tanh, identity = (names.index(name) for name in ("relu", "tanh", "identity"))
    task = TaskRecord(config.task, REGRESSION, (3,), 1)
    run = untrained(config, task, [relu, relu, tanh, tanh, identity, relu], [identity] * 4)
    first = run.network.layers[0]
    kernel = np.zeros((3, 6), np.float32)
    kernel[0] = [1, 1, 60, 0.1, 1, 1]
    first.kernel[...] = kernel
    first.bias[...] = np.array([-5, 0, 0, 0, 0, 5], np.float32)
    inputs = np.random.default_rng(0).uniform(-2, 2, (100, 3)).astype(np.float32)
    inputs[:5, 0] = 0.01  # where tanh is not flat
    found = dead_and_saturated(run, inputs)
    assert list(found) == ["activations.0", "activations.1"]
    assert found["activations.0"].dead.tolist() == [True, *[False] * 5]
    assert found["activations.0"].saturated.tolist() == [False, False, True, *[False] * 3]
    assert not np.any(found["activations.1"])
    flat = flat_shares(run, inputs)["activations.0"]
    assert flat[1] == np.mean(inputs[:, 0] < 0)
    assert flat[2] == np.mean(1 - np.tanh(60 * inputs[:, 0]) ** 2 < 0.005)
    assert flat[[3, 4, 5]].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"inputs are \[100, 2\], expected \['M', 3\]"):
        flat_shares(run, inputs[:, :2])


def test_a_channel_is_judged_at_all_places():
    config = dataclasses.replace(
        default_config(task="cifar10"), network="conv", batch_size=4, pool="paper"
    )
    task = TaskRecord(config.task, CLASSIFICATION, (8, 8, 3), 10, scale=255.0)
    relu = config.activation_pool.names.index("relu")
    run = untrained(config, task, [relu] * 32, [relu] * 64, [relu] * 256)
    inputs = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    places = run.network.convs[0](inputs / np.float32(255))
    flat = flat_shares(run, inputs)["activations.0"]
    np.testing.assert_allclose(flat, np.mean(np.asarray(places) < 0, (0, 1, 2)), atol=1e-3)


# Real runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Three seeds with random choices: nothing can agree."""
    root = tmp_path_factory.mktemp("chosen")
    folders = []
    for seed in range(3):
        config = dataclasses.replace(
            default_config(task="function:product_sine"),
            hidden=(16, 12),
            control="random",
            selective_epochs=2,
            mixed_epochs=1,
            steps_per_epoch=5,
            seed=seed,
            run_dir=str(root / f"seed{seed}"),
        )
        folders.append(train_and_evaluate(config, show_progress=False))
    return folders


def as_seed(folder: Path, target: Path, seed: int) -> Path:
    """A run's folder under another seed."""
    shutil.copytree(folder, target)
    finished = run_folder.read_finished(folder)
    config = dataclasses.replace(finished.config, seed=seed, run_dir=str(target))
    run_folder.write_config(target, config)
    run_folder.write_summary(target, finished.summary)
    return target


def printed(capsys, *arguments) -> str:
    assert chosen.main([*map(str, arguments)]) == 0
    return capsys.readouterr().out


def cells(text: str, title: str, row: str) -> list[str]:
    """Of a row of the table that begins with a title."""
    lines = text[text.index(title) :].splitlines()
    return next(line for line in lines if line.startswith(row)).split()[len(row.split()) :]


def test_random_choices_of_real_runs_show_no_agreement(runs, capsys):
    text = printed(capsys, *runs, "--resamples", "99")
    assert text.startswith("two_phase-random: seeds 0, 1, 2\n")
    for layer in ("layer 1", "layer 2"):
        *_, p_value = cells(text, "agreement between seeds", layer)
        assert float(p_value) > 0.05
    assert "(p " not in text[text.index("weights between") : text.index("neurons (%)")]
    first = [run_folder.read_choices(folder)["activations.0"] for folder in runs]
    shares = [np.mean(layer.choices == 0) for layer in first]
    neurons, mean, *ends = cells(text, "share of neurons", "layer 1")[:4]
    assert (neurons, mean) == ("16", f"{100 * np.mean(shares):.0f}")
    assert len(ends) == 2
    assert "no checkpoint of the switch" not in text


def test_planted_agreement_of_real_runs_is_found(runs, tmp_path, capsys):
    copies = [as_seed(runs[0], tmp_path / str(seed), seed) for seed in (7, 8)]
    text = printed(capsys, runs[0], *copies)
    for layer in ("layer 1", "layer 2"):
        agree, _, chance, _, p_value = cells(text, "agreement between seeds", layer)
        assert agree == "100.0"
        assert float(chance) < 40
        assert float(p_value) == 0.002
    assert cells(text, "settled", "layer 1")[0] == cells(text, "settled", "layer 1")[2]


def test_the_network_at_the_switch_is_that_with_which_phase_2_began(runs):
    summary = run_folder.read_finished(runs[1]).summary
    switched, trained = load_switched(runs[1]), load_run(runs[1])
    split = evaluate.load_data(trained).splits["validation"]
    for run, expected in (
        (switched, summary["switch"]["start"]),
        (trained, summary["phases"][-1]["validation_score"]),
    ):
        _, scores = run.task.objective.losses_and_scores(run.outputs(split.inputs), split.labels)
        assert float(np.mean(scores)) == pytest.approx(expected, rel=1e-5)
    assert switched.tables == trained.tables
    assert isinstance(next(iter(trained.tables.values())), FunctionTable)


def test_without_a_checkpoint_of_the_switch_the_table_says_so(runs, tmp_path, capsys):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    shutil.rmtree(folder / "checkpoints" / "2")
    assert load_switched(folder) is None
    text = printed(capsys, folder, runs[1], "--resamples", "9")
    assert "no checkpoint of the switch: 1 of 2 runs" in text
    assert "dead at the switch" in text


def test_shares_need_no_network(tmp_path, capsys):
    """Of a network whose weights the other tables do not know, and of uniform ones beside it."""
    short = dict(selective_epochs=2, mixed_epochs=1)
    folders = [
        write_run(tmp_path / "a", "cifar10", **short),
        write_run(tmp_path / "b", "cifar10", control="shuffled", **short),
        write_run(tmp_path / "c", "cifar10", method="uniform:relu", **short),
    ]
    text = printed(capsys, *folders, "--no-networks")
    assert text.count("share of neurons (%)") == 2
    assert "stem" in text
    assert "uniform" not in text
    assert "agreement" not in text
    assert chosen.main([str(folders[2])]) == 1
    assert "expected a run whose neurons choose" in capsys.readouterr().err
    assert load_switched(folders[2]) is None
    assert chosen.main([str(folders[0]), "--resamples", "0"]) == 1
    assert "--resamples 0: expected 1 or more" in capsys.readouterr().err
    (folders[0] / "choices.json").unlink()
    assert chosen.main([str(folders[0])]) == 1
    assert "choices.json is missing" in capsys.readouterr().err
