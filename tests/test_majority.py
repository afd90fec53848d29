"""One function per layer: the majority of what was chosen, and the network that trains with it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from synthetic_runs import write_run

from experiments import run, run_folder
from experiments.chosen import __main__ as command
from experiments.config import Config
from experiments.data.tasks import load_task
from experiments.evaluate import load_run
from experiments.names import run_name
from experiments.presets import default_config
from experiments.run_folder import LayerChoices, read_finished, read_metrics
from experiments.training import networks
from experiments.training.train import train_and_evaluate
from smartmixed_jax import MLP, PAPER_POOL, FunctionTable, MixedActivation, fix_choices
from smartmixed_jax.models import uniform
from smartmixed_jax.summary import majority, selection_logits

TWELVE = tuple(8 for _ in range(12))


def test_the_majority_of_logits_and_of_tables_by_the_path_of_the_layer():
    model = MLP(4, (5, 4), 2, rngs=nnx.Rngs(0))
    for layer, wanted in zip(model.activations, ([1, 1, 3, 3, 3], [0, 5, 5, 0]), strict=True):
        layer.selection_logits[...] = 3.0 * jnp.eye(6)[jnp.asarray(wanted)]
    expected = {"activations.0": "leaky_relu", "activations.1": "relu"}  # of equals the first
    assert majority(model) == expected
    assert majority(fix_choices(model)) == expected


def test_a_network_by_hand_has_the_functions_of_the_majority():
    """As docs/your_model.md builds it."""
    model = MLP(4, (8, 8), 2, rngs=nnx.Rngs(0))
    names = majority(model)
    functions = iter([PAPER_POOL.functions[PAPER_POOL.index(name)] for name in names.values()])
    fresh = MLP(4, (8, 8), 2, activation=lambda features, rngs: next(functions), rngs=nnx.Rngs(1))
    tables = [FunctionTable(PAPER_POOL, [PAPER_POOL.index(name)] * 8) for name in names.values()]
    x = jnp.linspace(-2, 2, 12).reshape(3, 4)
    mixed = MLP(4, (8, 8), 2, activation=uniform(jnp.tanh), rngs=nnx.Rngs(1))
    mixed.activations = nnx.List([MixedActivation(table) for table in tables])
    np.testing.assert_allclose(fresh(x), mixed(x), rtol=1e-5, atol=1e-6)


# In the program


def layered(names: str, **changes) -> Config:
    config = dataclasses.replace(default_config("recommended", "digits"), method=f"layers:{names}")
    return dataclasses.replace(config, **changes)


def tables(config: Config) -> dict[str, dict[str, int]]:
    model = networks.build_model(config, load_task(config))
    return {path: layer.table.counts() for path, layer in networks.fixed_layers(model).items()}


def test_every_layer_has_its_function_and_the_weights_are_those_of_a_selective_network():
    names = ["tanh", "relu"] * 5 + ["elu", "selu"]
    config = layered(",".join(names), hidden=TWELVE)
    found = tables(config)
    for number, name in enumerate(names):  # also of layers 10 and 11, which sort behind layer 1
        assert {n: count for n, count in found[f"activations.{number}"].items() if count} == {
            name: 8
        }
    task = load_task(config)
    selective = networks.build_model(dataclasses.replace(config, method="two_phase"), task)
    model = networks.build_model(config, task)
    for one, other in zip(model.layers, selective.layers, strict=True):
        np.testing.assert_array_equal(one.kernel[...], other.kernel[...])
    assert not selection_logits(model)


def test_equal_layers_are_the_uniform_network():
    config = layered("tanh,tanh", hidden=(8, 8))
    task = load_task(config)
    x = task.splits["test"].inputs[:7].reshape(7, -1).astype(jnp.float32)
    other = networks.build_model(dataclasses.replace(config, method="uniform:tanh"), task)
    np.testing.assert_allclose(
        networks.build_model(config, task)(x), other(x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ("relu", "method = 'layers:relu': 1 functions, expected 2, for layer 1, layer 2"),
        ("relu,sin", "method = 'layers:relu,sin': no function 'sin' in the pool paper: relu, "),
        ("", "method = 'layers:': no function '' in the pool paper"),
    ],
)
def test_a_list_that_does_not_fit_is_one_line(tmp_path, capsys, names, line):
    options = [
        "--method",
        f"layers:{names}",
        "--hidden",
        "8",
        "8",
        "--run-dir",
        str(tmp_path / "a"),
    ]
    assert run.main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1
    assert not (tmp_path / "a").exists()


def test_folders_of_long_lists_have_short_names_of_their_own():
    deep = [
        layered(",".join(["leaky_relu"] * 23 + [last]), hidden=(8,) * 24)
        for last in ("elu", "relu")
    ]
    names = {run_name(config) for config in deep}
    assert len(names) == 2
    assert all(len(name) < 120 and "layers-seed0-" in name for name in names)


def test_the_majority_of_finished_runs_is_a_config_that_trains_from_scratch(tmp_path, capsys):
    short = {"selective_epochs": 2, "mixed_epochs": 2, "hidden": (6, 4), "noise": 0.5}
    short |= {"estimator": "sampled_straight_through"}  # without effect on what has no choices
    chosen_by_seed = [([2, 2, 0, 0, 0, 4], [5, 5, 1, 1]), ([4, 4, 4, 4, 0, 1], [5, 1, 5, 0])]
    folders = []
    for seed, layers in enumerate(chosen_by_seed):
        folder = tmp_path / f"seed{seed}"
        write_run(folder, "digits", seed=seed, **short)
        summary = read_finished(folder).summary
        record = {
            f"activations.{number}": LayerChoices(PAPER_POOL.names, np.array(choices))
            for number, choices in enumerate(layers)
        }
        run_folder.write_choices(folder, record)
        summary = run_folder.read_config(folder) and run_folder._parse_summary(
            folder / "summary.json"
        )
        run_folder.write_summary(folder, summary)
        folders.append(str(folder))
    file = tmp_path / "majority.json"
    assert command.main([*folders, "--majority", str(file)]) == 0
    assert capsys.readouterr().out.startswith("layers:elu,selu\n")

    trained = tmp_path / "trained"
    options = ["--config", str(file), "--seed", "3", "--run-dir", str(trained)]
    train_and_evaluate(run.parse(options), show_progress=False)
    config, _, summary = read_finished(trained)
    assert (config.method, config.seed, config.hidden) == ("layers:elu,selu", 3, (6, 4))
    assert [row["phase"] for row in read_metrics(trained)] == ["uniform"] * 4
    assert [phase["name"] for phase in summary["phases"]] == ["uniform"]
    found = {path: set(table.names) for path, table in load_run(trained).tables.items()}
    assert found == {"activations.0": {"elu"}, "activations.1": {"selu"}}


def test_runs_that_differ_in_more_than_the_seed_have_no_one_majority(tmp_path, capsys):
    short = {"selective_epochs": 2, "mixed_epochs": 2, "hidden": (6,)}
    write_run(tmp_path / "a", "digits", **short)
    write_run(tmp_path / "b", "digits", control="shuffled", **short)
    folders = [str(tmp_path / name) for name in "ab"]
    assert command.main([*folders, "--majority", str(tmp_path / "m.json")]) == 1
    assert "runs that differ in the seed alone, got two_phase, two_phase-shuffled" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "m.json").exists()
