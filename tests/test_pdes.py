"""Equations to solve: derivatives, references, what a run makes of them, and the user's own."""

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments import run
from experiments.config import Config
from experiments.data import pdes
from experiments.data.pdes import EQUATIONS, Equation, partial
from experiments.data.tasks import load_task
from experiments.objective import EQUATION
from experiments.presets import default_config
from experiments.run_folder import read_finished, read_run
from experiments.training import networks, step
from experiments.training.draws import draw
from experiments.training.state import start_phase
from experiments.training.train import train_and_evaluate
from smartmixed_jax import fix_choices


def inside(equation: Equation, count: int = 50) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.uniform(equation.low, equation.high, (count, len(equation.low)))


def test_partial_derivatives():
    x = jax.random.normal(jax.random.key(0), (20, 3))

    def u(x):
        return x[:, 0] ** 3 * jnp.sin(x[:, 1]) + x[:, 2]

    for axes, expected in {
        (0,): 3 * x[:, 0] ** 2 * jnp.sin(x[:, 1]),
        (0, 0): 6 * x[:, 0] * jnp.sin(x[:, 1]),
        (0, 1): 3 * x[:, 0] ** 2 * jnp.cos(x[:, 1]),
        (1, 1, 1): -(x[:, 0] ** 3) * jnp.cos(x[:, 1]),
        (2,): jnp.ones(20),
    }.items():
        np.testing.assert_allclose(partial(u, *axes)(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_reference_solves_the_equation(name):
    """By central differences of the reference, in float64."""
    equation = EQUATIONS[name]
    x, step = inside(equation), 1e-4
    x[:, 1] = 0.1 + 0.8 * x[:, 1] if name != "helmholtz" else x[:, 1]
    x = np.clip(x, np.array(equation.low) + 0.01, np.array(equation.high) - 0.01)

    def difference(axis, order):
        shift = np.zeros_like(x)
        shift[:, axis] = step
        above, here, below = (equation.reference(x + sign * shift) for sign in (1, 0, -1))
        return (above - below) / (2 * step) if order == 1 else (above - 2 * here + below) / step**2

    u = equation.reference(x)
    first, second = difference(0, 1), difference(0, 2)
    expected = {
        "burgers": lambda: difference(1, 1) + u * first - pdes.VISCOSITY * second,
        "allen_cahn": lambda: difference(1, 1) - pdes.DIFFUSION * second - 5 * (u - u**3),
        "helmholtz": lambda: second + difference(1, 2) + u - (1 - 17 * np.pi**2) * u,
        "convection": lambda: difference(1, 1) + pdes.SPEED * first,
    }[name]()
    scale = np.abs(difference(1, 1)).max() + np.abs(second).max() * 1e-3
    smooth = np.abs(second) < 50  # not in the shock, where differences are too coarse
    assert smooth.sum() > 20
    assert np.abs(expected[smooth]).max() < 1e-3 * scale


@pytest.mark.parametrize("name", ["helmholtz", "convection"])
def test_the_residual_of_the_solution_is_0(name):
    equation = EQUATIONS[name]
    exact = {
        "helmholtz": lambda x: jnp.sin(jnp.pi * x[:, 0]) * jnp.sin(4 * jnp.pi * x[:, 1]),
        "convection": lambda x: jnp.sin(x[:, 0] - pdes.SPEED * x[:, 1]),
    }[name]
    x = inside(equation).astype(np.float32)
    np.testing.assert_allclose(exact(x), equation.reference(x.astype(np.float64)), atol=1e-4)
    assert np.abs(equation.residual(exact, x)).max() < 0.01
    assert np.abs(equation.residual(lambda x: exact(x) + x[:, 1], x)).max() > 0.05


@pytest.mark.parametrize("name", EQUATIONS)
def test_what_is_known_of_the_solution_holds_for_any_network(name):
    equation = EQUATIONS[name]
    x = inside(equation)
    for axis, end in [(0, 0), (0, 1), (1, 0), *([(1, 1)] if name == "helmholtz" else [])]:
        if (name, axis, end) == ("convection", 0, 1):
            continue  # what flows out
        border = x.copy()
        border[:, axis] = (equation.low, equation.high)[end][axis]
        found = equation.solution(jnp.float32(border), jnp.full(len(x), 7.0))
        np.testing.assert_allclose(found, equation.reference(border), atol=2e-5)


def test_references_are_as_accurate_as_they_say():
    x = inside(EQUATIONS["burgers"], 500)
    np.testing.assert_allclose(
        pdes.burgers_reference(x), pdes.burgers_reference(x, 300), atol=1e-13
    )
    coarse = pdes._allen_cahn_spline(1000)(x[:, 0], x[:, 1], grid=False)
    difference = pdes.allen_cahn_reference(x) - coarse
    assert np.linalg.norm(difference) < 1e-7 * np.linalg.norm(coarse)


def config_of(name: str, **changes) -> Config:
    small = {"hidden": (8, 8), "batch_size": 32, "points": 64}
    return dataclasses.replace(default_config(task=f"pde:{name}"), **(small | changes))


@pytest.mark.parametrize("draws", [1, 4])
def test_outputs_are_the_solution_and_the_residual_of_the_network(draws):
    """In phase 1, with one set of draws for all derivatives, and with the choices fixed."""
    config = config_of("burgers", draws=draws)
    task, equation = load_task(config), EQUATIONS["burgers"]
    model = networks.build_model(config, task)
    x = task.splits["train"].inputs[:32]
    key = jax.random.key(3)

    def found(model):
        return networks.apply(config, task.scale, model, x, key)

    def u(x):  # one row's coordinates moved: the others keep their draws
        scaled = (2 * x - jnp.array([0.0, 1.0])) / jnp.array([2.0, 1.0])
        n = model(scaled, rngs=nnx.Rngs(selection=key))[:, 0]
        return equation.solution(x, n)

    step = 1e-2
    shift = jnp.array([0.0, step])
    np.testing.assert_allclose(found(model)[:, 0], u(x), rtol=1e-5, atol=1e-6)
    by_time = (u(x + shift) - u(x - shift)) / (2 * step)
    exactly = partial(u, 1)(x)
    np.testing.assert_allclose(exactly, by_time, atol=2e-2)
    np.testing.assert_allclose(found(model)[:, 1], equation.residual(u, x), rtol=1e-4, atol=1e-4)
    quiet = nnx.view(model, deterministic=True)
    np.testing.assert_allclose(found(quiet), found(fix_choices(model)), rtol=1e-4, atol=1e-4)
    assert float(jnp.abs(found(quiet)[:, 1] - found(model)[:, 1]).max()) > 1e-3


def test_the_loss_is_the_residual_or_the_weighted_error():
    outputs = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    labels = jnp.array([[0.0, 0.0], [5.0, 10.0]])
    losses, scores = EQUATION.losses_and_scores(outputs, labels)
    assert losses.tolist() == [4.0, 40.0]
    assert scores.tolist() == [4.0, 4.0]
    results = EQUATION.results("test", 1.0, 0.5, np.array([[2.0, 1.0], [0.0, 1.0]]))
    assert results["test_relative_error"] == 0.5


@pytest.mark.parametrize("method", ["two_phase", "uniform:tanh"])
def test_a_run_trains_refines_and_is_told(tmp_path, capsys, method):
    words = "--task pde:burgers --hidden 8 --points 200 --batch-size 50 --selective-epochs 1"
    words += f" --mixed-epochs 2 --refine-epochs 1 --steps-per-epoch 20 --method {method}"
    assert run.main([*words.split(), "--run-dir", str(tmp_path / "run")]) == 0
    assert "relative L2 error" in capsys.readouterr().out
    first, *_, last = read_finished(tmp_path / "run").summary["phases"]
    assert last["validation_loss"] < first["validation_loss"]
    assert 0 < last["test_relative_error"] < 10
    data = read_run(tmp_path / "run")
    assert data.fit is not None
    assert np.abs(data.fit["plane_fit"][:, 0]).max() < 1e-5  # at the border
    assert (tmp_path / "run" / "figures" / "fit.png").exists()


# The user's

FILE = """
import jax.numpy as jnp
import numpy as np
from experiments.data.pdes import Equation, partial

def growth(u, x):
    return partial(u, 0)(x) - u(x)

def start(rng):
    return np.zeros((4, 1)), np.ones(4)

known = Equation((0.0,), (1.0,), growth, lambda x: np.exp(x[:, 0]), conditions=start)
unknown = Equation((0.0,), (1.0,), growth, conditions=start)
built_in = Equation((0.0,), (1.0,), growth, solution=lambda x, n: 1 + x[:, 0] * n)
no_box = Equation((1.0,), (1.0,), growth)
two_boxes = Equation((0.0,), (1.0, 1.0), growth)
wide = Equation((0.0,), (1.0,), lambda u, x: x)
broken = Equation((0.0,), (1.0,), lambda u, x: partial(u, 0)(x) + missing)
scalar = Equation((0.0,), (1.0,), growth, lambda x: 1.0)
narrow = Equation((0.0,), (1.0,), growth, conditions=lambda rng: (np.zeros(4), np.ones(4)))
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_equations.py").write_text(FILE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield "my_equations"
    sys.modules.pop("my_equations", None)


@pytest.mark.parametrize("name", ["known", "unknown", "built_in"])
def test_an_equation_of_ones_own(mine, tmp_path, name):
    """Of one coordinate; its condition fitted or built in; with and without a known solution."""
    changes = {"selective_epochs": 2, "mixed_epochs": 6, "refine_epochs": 1, "steps_per_epoch": 30}
    config = config_of(f"{mine}:{name}", run_dir=str(tmp_path / "run"), **changes)
    folder = train_and_evaluate(config, show_progress=False)
    _, task, summary = read_finished(folder)
    result = task.objective.compared(summary["phases"][-1])
    assert 0 < result < 0.02
    assert (task.objective.score_name == "relative L2 error") == (name == "known")
    assert (read_run(folder).fit is not None) == (name == "known")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("heat", "pde:heat: unknown equation; known: burgers, "),
        ("my_equations:number", "is a int, expected an Equation"),
        ("my_equations:missing", "missing"),
        ("my_equations:no_box", "expected two corners of a box"),
        ("my_equations:two_boxes", "expected two corners of a box"),
        ("my_equations:wide", r"the residual is \[5, 1\] at x \[5, 1\], expected \[5\]"),
        ("my_equations:broken", "pde:my_equations:broken: .*missing"),
        ("my_equations:scalar", r"the reference is \[\] at x"),
        ("my_equations:narrow", r"the conditions are x \[4\] and u \[4\], expected \[C, 1\]"),
    ],
)
def test_what_is_no_equation_is_one_line(mine, tmp_path, name, told, capsys):
    words = ["--task", f"pde:{name}", "--run-dir", str(tmp_path / "run")]
    assert run.main(words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert re.search(told, line), line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", pdes.EQUATIONS)
def test_the_calls_of_a_network_stay_one_in_the_loop_of_the_steps(name):
    """XLA merges equal calls only where it has not moved parts of them out of the loop."""
    config = dataclasses.replace(default_config(task=f"pde:{name}"), hidden=(8, 8))
    task = load_task(config)
    model = networks.switch(networks.build_model(config, task), config, task)
    phase = start_phase(model, config, task, 1)
    draws = draw(phase.program, [0], 0, task.train_size)
    common = (phase.program, phase.state, phase.non_trainable, task.train, draws, jnp.int32(0))
    loop = step.run_steps.lower(*common, 0, 9).compile().as_text()
    alone = step.run_step.lower(*common, jnp.int32(0)).compile().as_text()
    assert loop.count(" dot(") == alone.count(" dot(") > 0
