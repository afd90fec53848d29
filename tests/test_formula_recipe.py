"""Formulas of runs: networks made smaller, runs that are read, the recipe."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from test_tables import trees, write

from experiments import evaluate, pruning
from experiments.data.encoding import encoding_of, input_units
from experiments.data.functions import sample
from experiments.presets import default_config
from experiments.recipes import formula as recipe
from experiments.training.train import train_and_evaluate

SHORT = dict(hidden=(4,), selective_epochs=1, mixed_epochs=2, steps_per_epoch=10)


def tiny(task, folder, **changes):
    config = dataclasses.replace(default_config(task=task), **(SHORT | changes))
    return train_and_evaluate(dataclasses.replace(config, run_dir=str(folder)), show_progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of product_sine."""
    return tiny("function:product_sine", tmp_path_factory.mktemp("formula") / "run")


def test_a_run_of_a_function_is_read_with_its_arguments(folder, capsys):
    assert evaluate.main([str(folder), "--formula"]) == 0
    printed = capsys.readouterr().out
    found = evaluate.read_formula(evaluate.load_run(folder))
    assert found.names == ("x1", "x2", "x3")
    assert printed.startswith(f"{found}\n{found.neurons} neurons, ")
    assert found.error < 0.2
    assert evaluate.main([str(folder), "--formula", "--data", "x.csv"]) == 1
    assert "expected no --data" in capsys.readouterr().err


def test_the_formula_of_a_table_is_in_the_units_of_its_columns(tmp_path):
    path = write(tmp_path / "trees.csv", trees(200))
    folder = tiny(f"table:{path}", tmp_path / "run", target="volume")
    run = evaluate.load_run(folder)
    found = evaluate.read_formula(run)
    encoding = encoding_of(run.task.extras["columns"])
    assert {"girth", "height", "kind_oak"} <= set(found.names)
    inputs = np.asarray(evaluate.load_data(run).splits["train"].inputs)
    _, mean, scale = input_units(encoding)
    said = (found(inputs * scale + mean) - encoding.target.mean) / encoding.target.scale
    outputs = run.outputs(inputs)
    assert np.sqrt(np.mean((said - outputs) ** 2)) / outputs.std() == pytest.approx(
        found.error, rel=0.05
    )
    assert found.error < 0.1


def test_what_cannot_be_read_is_a_value_error(folder):
    run = evaluate.load_run(folder)
    images = run._replace(task=run.task._replace(shape=(8, 8, 1)))
    with pytest.raises(ValueError, match="no numbers"):
        evaluate.read_formula(images)
    uniform = run._replace(network=nnx.Linear(3, 1, rngs=nnx.Rngs(0)), tables={})
    with pytest.raises(ValueError, match="must be an MLP"):
        evaluate.read_formula(uniform)
    with pytest.raises(ValueError, match="expected an mlp that chose"):
        recipe.smaller(uniform)


def test_the_recipe_prints_the_formula_of_the_best_seed_by_validation(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    whole = recipe.configs

    def short(target, seeds):
        return [dataclasses.replace(config, **SHORT) for config in whole(target, seeds)]

    assert {config.hidden for config in whole("rosenbrock", 2)} == {(8, 8)}
    monkeypatch.setattr(recipe, "configs", short)
    monkeypatch.setattr(pruning, "STEPS", (3, 3))
    assert recipe.main(["--targets", "product_sine", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    readings = [recipe.read(config) for config in short("product_sine", 2)]
    best = min(readings, key=lambda reading: reading.validation)
    assert "product_sine = x1 * x2 + sin(2 * x3)\n" + str(best.formula) in printed
    assert f"seed {best.seed}; of seeds 0 to 1:" in printed
    samples = sample("product_sine", best.seed).test
    said = best.formula(samples.inputs)
    expected = np.sqrt(np.mean((said - samples.values) ** 2) / samples.values.var())
    assert best.test == pytest.approx(expected, rel=1e-5)
