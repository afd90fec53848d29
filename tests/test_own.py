"""What users bring: tasks, functions, arrays, networks and pools of their own, and config files."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import figures, run_folder
from experiments.config import Config, to_json
from experiments.data.sources import DataError
from experiments.data.tasks import find_kind, load_task
from experiments.evaluate import load_run, score_test
from experiments.pools import find_pool
from experiments.presets import default_config
from experiments.run_folder import read_finished
from experiments.training.networks import build_model, require_fit
from experiments.training.parallel import train_all
from experiments.training.train import train_and_evaluate
from smartmixed_jax import PAPER_POOL

MODULE = (Path(__file__).parent / "users_models" / "things.py").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the module `things`."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "things.py").write_text(MODULE)
    (folder / "broken.py").write_text("import nothing_of_that_name\n")
    (folder / "faulty.py").write_text("1 / 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        yield folder
    for name in ("things", "broken", "faulty"):
        sys.modules.pop(name, None)


SMALL = dict(selective_epochs=2, mixed_epochs=2, steps_per_epoch=4, batch_size=16)


def small(task: str, **changes) -> Config:
    return dataclasses.replace(default_config(task=task), **(SMALL | {"hidden": (8,)} | changes))


def own(**changes) -> Config:
    options = {"network": "things:Net", "pool": "things:POOL", "hidden": (), "task": "things:waves"}
    return small(checkpoint_seconds=0.0, **(options | changes))


# Runs


def rows_of(folder: Path) -> list[dict]:
    rows = run_folder.read_metrics(folder)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def whole(folder) -> Config:
    """Task, objective, network and pool of the user's, in one run."""
    config = own(run_dir=str(folder / "whole"))
    train_and_evaluate(config, show_progress=False)
    return config


def test_a_run_of_what_is_the_users_leaves_everything(whole):
    folder = Path(whole.run_dir)
    config, task, summary = read_finished(folder)
    assert config == whole
    assert task.objective.name == "things:MAE"
    assert task == load_task(whole).record()
    switch = summary["switch"]
    assert switch["argmax"] == switch["fixed"] == switch["start"]
    layers = run_folder.read_choices(folder)
    assert {path: len(layer.choices) for path, layer in layers.items()} == {
        "act": 7,
        "block.act": 8,
    }
    assert all(set(row["layers"]) == set(layers) for row in rows_of(folder))
    assert {"shares.png", "choice_map.png"} <= {p.name for p in figures.draw_figures(folder)}


def test_its_network_is_given_back(whole):
    run, phase = load_run(whole.run_dir), read_finished(Path(whole.run_dir)).summary["phases"][-1]
    results = score_test(run)
    assert results == {key: phase[key] for key in results}
    assert set(run.tables) == {"act", "block.act"}
    test = load_task(whole).splits["test"]
    error = np.abs(run.outputs(test.inputs) - test.labels).mean()
    assert error == pytest.approx(phase["test_score"], rel=1e-5)


def test_it_resumes_to_the_bit_from_every_epoch(whole, folder, monkeypatch):
    config = dataclasses.replace(whole, run_dir=str(folder / "broken"))
    append, stops = run_folder.Rows.append, [1, 2, 3, 4]

    def interrupt(place, row):
        append(place, row)
        if row["epoch"] == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.Rows, "append", interrupt)
    while stops:
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, show_progress=False)
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    train_and_evaluate(config, show_progress=False)
    assert rows_of(folder / "broken") == rows_of(folder / "whole")


def test_every_step_has_noise_of_its_own(folder):
    """Dropout and choices of streams that the model keeps."""
    from experiments.training.user_network import call

    model, x = build_model(own(), load_task(own())), np.ones((3, 6, 2), np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    outputs = [np.asarray(call(model, x, key)) for key in (*keys, keys[0])]
    np.testing.assert_array_equal(outputs[0], outputs[3])
    assert len({output.tobytes() for output in outputs}) == 3


def test_the_methods_of_a_seed_start_from_equal_weights(folder):
    config = own()
    models = [
        build_model(dataclasses.replace(config, method=method), load_task(config))
        for method in ("two_phase", "uniform:sin")
    ]
    for layer in ("first", "second", "last"):
        kernels = [getattr(model, layer).kernel[...] for model in models]
        np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize("at_once", [1, 2])
def test_methods_and_controls_train_alone_and_together(folder, at_once):
    configs = [
        own(network="things:WithRngs", run_dir=str(folder / f"{at_once}-{name}-{seed}"), seed=seed)
        for name in ("shuffled", "uniform")
        for seed in (0, 1)
    ]
    configs = [
        dataclasses.replace(config, control="shuffled")
        if "shuffled" in config.run_dir
        else dataclasses.replace(config, method="uniform:sin")
        for config in configs
    ]
    folders = train_all(configs, at_once=at_once, show_progress=False)
    losses = [read_finished(place).summary["phases"][-1]["test_loss"] for place in folders]
    assert np.isfinite(losses).all()
    assert len(set(losses)) == 4
    if at_once == 2:
        alone = [
            read_finished(Path(str(place).replace("/2-", "/1-"))).summary["phases"][-1]["test_loss"]
            for place in folders
        ]
        np.testing.assert_allclose(losses, alone, rtol=1e-4)
        # Trained as mixed networks, all uniform methods in one program; given back as uniform ones.
        run = load_run(folders[-1])
        assert run.tables == {}
        assert score_test(run)["test_loss"] == pytest.approx(losses[-1], rel=1e-4)


def test_a_function_of_the_users_is_fitted_on_its_range(folder):
    config = small("function:things:bump", range=(0.0, 6.0), run_dir=str(folder / "bump"))
    place = train_and_evaluate(config, show_progress=False)
    task = load_task(config)
    for part, (low, high) in {"train": (0, 6), "outside": (-1.5, 7.5)}.items():
        inputs = np.asarray(task.splits[part].inputs)
        assert low <= inputs.min() <= low + 0.1
        assert high - 0.1 <= inputs.max() <= high
    fit = np.load(place / "fit.npz")
    np.testing.assert_allclose(fit["line_true"][0], np.exp(-(fit["line_x"] ** 2)), atol=1e-6)
    assert (fit["center"], fit["inside"]) == (3, 3)
    assert "plane_x" not in fit
    assert any(path.name == "fit.png" for path in figures.draw_figures(place))


def test_a_function_that_ends_at_its_range_is_not_tested_outside(folder):
    task = load_task(small("function:things:root", range=(0.0, 2.0)))
    assert "outside" not in task.splits
    fit = task.tabulate_fit(lambda points: points[:, 0])
    assert (fit["line_x"].min(), fit["line_x"].max()) == (0, 2)
    assert all(np.isfinite(array).all() for array in fit.values())


# Pools


def test_a_pool_may_be_a_list_of_functions():
    assert find_pool("tanh, relu").names == ("tanh", "relu")
    assert find_pool("sin,relu") is find_pool("sin,relu")
    assert find_pool(",".join(PAPER_POOL.names)) == PAPER_POOL
    config = dataclasses.replace(default_config(), pool="tanh,sin", method="uniform:sin")
    assert config.activation_pool.names == ("tanh", "sin")


def test_a_run_folder_is_read_where_the_module_is_not(tmp_path):
    config = dataclasses.replace(default_config(), pool="nowhere:POOL", method="uniform:swish")
    (tmp_path / "config.json").write_text(to_json(config))
    assert run_folder._parse_config(tmp_path / "config.json") == config


# What is refused, before anything is written


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "nowhere:make"},
            "no module nowhere in .*; the other tasks are mnist, .*table:FILE",
        ),
        ({"task": "things:"}, "task = 'things:': expected one of mnist, .*MODULE:NAME"),
        ({"task": "things.py:waves"}, "expected MODULE:NAME, such as my_module:build"),
        ({"task": "things:wafes"}, "things has no wafes; it has .*waves"),
        ({"task": "broken:make"}, "broken fails to import .*nothing_of_that_name"),
        ({"task": "faulty:make"}, r"faulty fails to import \(ZeroDivisionError: division by zero"),
        ({"task": "things:NUMBER"}, "is a int, expected a function"),
        ({"task": "things:two"}, "takes a, b, expected nothing, or seed"),
        ({"task": "things:failing"}, r"fails \(RuntimeError: no power\)"),
        ({"task": "things:no_task"}, "the function returns int, expected a Task"),
        ({"task": "things:half"}, r"splits are \['train'\], expected train, validation and test"),
        ({"task": "things:nan"}, "inputs of test, row 0, column .*: nan is no finite"),
        ({"task": "things:ragged"}, "inputs of the splits differ"),
        ({"task": "things:lengths"}, r"test has inputs \[3, 6, 2\] and labels \[20, 1\]"),
        ({"task": "things:classes"}, "labels are float32 in .*, expected classes 0 to 0"),
        ({"task": "things:broadcast"}, r"labels are \['M', 2\] and out_features = 1, expected"),
        ({"task": "things:unnamed"}, "2 class_names for 1 classes"),
        ({"task": "things:arrays"}, "things:arrays': Object of type ndarray is not JSON serializa"),
        ({"task": "things:vague"}, r"the loss for outputs \[3, 1\] .* is \[\], expected a number"),
        ({"task": "things:hidden_objective"}, "the objective 'mae' is made inside the function"),
        ({"task": "function:things:scalar"}, r"returns float64 \[\] for 1 arrays"),
        ({"task": "function:things:text"}, r"returns <U1 \[4000\] for 1 arrays"),
        ({"task": "function:things:root"}, "is nan at x1 = -.*, x2 = .*on the range -2 to 2"),
        ({"task": "function:things:by_math"}, "fails on arrays .*np.sin, not math.sin"),
        ({"task": "function:things:star"}, r"takes \(\*x\), expected one argument for each"),
        ({"task": "function:things:NUMBER"}, "is 3, expected a function"),
        ({"network": "nowhere:Net"}, "network = 'nowhere:Net': no module nowhere"),
        ({"network": "things:number"}, "returns int, expected an nnx.Module"),
        ({"network": "things:breaks"}, r"fails as a function of .*RuntimeError: too deep"),
        ({"network": "things:two"}, "fails as a function of input_shape, .*TypeError"),
        ({"network": "things:plain"}, "holds no selective layer"),
        ({"network": "things:own_layers"}, "the layer act is not as activation"),
        ({"network": "things:wide"}, r"returns float32 \[2, 2\] for .*, expected floats \[2, 1\]"),
        ({"network": "things:narrow"}, r"fails on inputs \[2, 6, 2\]"),
        ({"dtype": "bfloat16"}, "dtype = 'bfloat16': expected float32 for a network of the"),
        ({"network": "mlp2"}, "network = 'mlp2': expected mlp or MODULE:NAME"),
        ({"pool": "relu,swish"}, "no function 'swish'; known: relu, .*; or a pool: paper"),
        ({"pool": "relu,relu"}, "expected each function once"),
        ({"pool": "things:NUMBER"}, "is a int, expected ActivationPool"),
        ({"pool": "nowhere:POOL"}, "pool = 'nowhere:POOL': no module nowhere"),
        (
            {"method": "uniform:tanh"},
            "method = 'uniform:tanh': expected .*uniform:relu, uniform:si",
        ),
        ({"target": "y"}, "target = 'y' has no effect on things:waves"),
        ({"task": "digits", "range": (0.0, 1.0)}, "range = .* has no effect on digits"),
        ({"range": (1.0, 1.0)}, "range = .*: expected two finite numbers, the lower first"),
        ({"test_fraction": 0.0}, r"test_fraction = 0\.0: expected in \(0, 1\)"),
    ],
)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(folder, tmp_path, changes, message):
    with pytest.raises((ValueError, DataError), match=message) as caught:
        config = own(**({"run_dir": str(tmp_path / "run")} | changes_of(changes)))
        find_kind(config.task)
        train_and_evaluate(config, show_progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def changes_of(changes: dict) -> dict:
    if changes.get("task", "").startswith(("function:", "digits")):
        return {"network": "mlp", "pool": "paper"} | changes
    return changes


def test_values_without_an_axis_are_given_one(folder):
    """Else outputs [B, 1] less labels [B] would be [B, B]."""
    assert load_task(small("things:flat")).splits["train"].labels.shape == (60, 1)


def test_a_factory_may_name_its_arguments_otherwise(folder):
    config = own(network="things:positional")
    require_fit(config, load_task(config))
