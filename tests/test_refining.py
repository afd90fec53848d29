"""The last phase: L-BFGS on all examples, of chosen and of uniform networks, resumed, at once."""

import dataclasses
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments import evaluate
from experiments.config import Config
from experiments.data.tasks import load_task
from experiments.names import refuse_without_effect, run_name
from experiments.presets import default_config
from experiments.run_folder import read_finished, read_metrics
from experiments.training import networks, parallel, step
from experiments.training.train import train_and_evaluate

STEPS = 5


def tiny(folder: Path, task: str = "function:ratio", **changes) -> Config:
    settings = {
        "hidden": (8,),
        "selective_epochs": 1,
        "mixed_epochs": 2,
        "refine_epochs": 3,
        "steps_per_epoch": STEPS,
        "checkpoint_seconds": 0.0,
    }
    config = dataclasses.replace(default_config(task=task), **(settings | changes))
    return dataclasses.replace(config, run_dir=str(folder / run_name(config)))


def train(config: Config) -> Path:
    return train_and_evaluate(config, show_progress=False)


def rows(folder: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


def test_its_steps_are_compiled_once(tmp_path):
    step.run_steps.clear_cache()
    train(tiny(tmp_path, method="uniform:tanh"))
    assert step.run_steps._cache_size() == 2  # the uniform phase and this one


def test_it_is_lbfgs_on_the_mean_loss_of_all_examples(tmp_path):
    config = tiny(tmp_path, method="uniform:tanh", refine_epochs=1)
    refined = train(config)
    unrefined = train(tiny(tmp_path, method="uniform:tanh", refine_epochs=0))
    task, run = load_task(config), evaluate.load_run(unrefined)
    graphdef, params, rest = nnx.split(run.network, nnx.Param, ...)
    inputs, labels = task.splits["train"]

    def loss(params):
        outputs = networks.apply(
            config, task.scale, nnx.merge(graphdef, params, rest), inputs, jax.random.key(0)
        )
        return jnp.mean((outputs - labels) ** 2)

    rule = optax.lbfgs(memory_size=20)
    state, losses = rule.init(params), []
    for _ in range(STEPS):
        value, gradients = jax.value_and_grad(loss)(params)
        updates, state = rule.update(
            gradients, state, params, value=value, grad=gradients, value_fn=loss
        )
        params = optax.apply_updates(params, updates)
        losses.append(float(loss(params)))
    (row,) = [row for row in rows(refined) if row["phase"] == "refined"]
    np.testing.assert_allclose(row["train_loss"], np.mean(losses), rtol=1e-3)
    assert losses[-1] < 0.9 * float(row["first_step_loss"]) < losses[0]


@pytest.mark.parametrize("method", ["two_phase", "uniform:tanh"])
def test_its_phases_are_told_and_resumed_to_the_bit(tmp_path, method):
    config = tiny(tmp_path, method=method)
    folder = train(config)
    told = [(row["epoch"], row["phase"]) for row in rows(folder)]
    names = ["selective", "mixed", "mixed"] if method == "two_phase" else ["uniform"] * 3
    assert told == list(enumerate(names + ["refined"] * 3, 1))
    summary = read_finished(folder).summary
    assert [phase["name"] for phase in summary["phases"]] == [*dict.fromkeys(names), "refined"]
    losses = [phase["validation_loss"] for phase in summary["phases"]]
    assert losses[-1] < losses[-2]

    again = dataclasses.replace(config, run_dir=str(tmp_path / "again"))
    shutil.copytree(folder, again.run_dir)
    for name in ("summary.json", "checkpoints/6"):  # as if killed in the middle of the last phase
        path = Path(again.run_dir) / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train(again)
    assert rows(Path(again.run_dir)) == rows(folder)
    assert read_finished(Path(again.run_dir)).summary["phases"] == summary["phases"]


def test_a_refined_run_is_loaded_as_it_was_tested(tmp_path):
    folder = train(tiny(tmp_path))
    found = evaluate.score_test(evaluate.load_run(folder))
    expected = read_finished(folder).summary["phases"][-1]
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5)


def test_runs_at_once_are_refined_as_each_alone(tmp_path):
    changes = [{"seed": 1}, {"seed": 2, "control": "shuffled"}]
    uniform = [{"method": "uniform:tanh"}, {"method": "uniform:sin"}]
    for group in (changes, uniform):
        alone = [train(tiny(tmp_path / "alone", **each)) for each in group]
        together = parallel.train_all(
            [tiny(tmp_path / "together", **each) for each in group],
            at_once=8,
            show_progress=False,
        )
        for one, other in zip(alone, together, strict=True):
            for a, b in zip(rows(one), rows(other), strict=True):
                assert a["phase"] == b["phase"]
                np.testing.assert_allclose(a["validation_loss"], b["validation_loss"], rtol=2e-2)


def test_the_schedules_of_the_other_phases_do_not_know_of_it(tmp_path):
    found = [train(tiny(tmp_path, refine_epochs=epochs, warmup=0.3)) for epochs in (0, 2)]
    plain, refined = map(rows, found)
    assert refined[: len(plain)] == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "cifar10", "network": "conv"}, "refine_epochs = 1: expected 0 but for an mlp"),
        ({"stream": True}, "stream = True: expected False with refine_epochs"),
        ({"refine_epochs": -1}, "refine_epochs = -1: expected at least 0"),
    ],
)
def test_what_cannot_be_refined_is_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(default_config(), **({"refine_epochs": 1} | changes))


def test_refining_has_an_effect_on_every_method():
    for method in ("two_phase", "uniform:relu"):
        config = dataclasses.replace(default_config(), method=method, refine_epochs=1)
        refuse_without_effect([config])
