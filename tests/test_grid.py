"""The grid's command line, and the compilation cache that every program turns on."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import grid
from experiments.names import run_name
from experiments.presets import default_config
from experiments.run_folder import RunError, is_complete
from experiments.shards import WHOLE
from experiments.training.compilation import keep_compilations

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--hidden", "16", "12", "--selective-epochs", "1", "--mixed-epochs", "1"]


def test_every_seed_with_every_method_and_control():
    base = default_config("recommended", "digits")
    configs = grid.plan_grid(base, [3, 4], ["two_phase", "uniform:relu"], ["learned", "random"])
    assert [(c.variant, c.seed) for c in configs] == [
        (variant, seed)
        for variant in ("two_phase", "two_phase-random", "uniform:relu")
        for seed in (3, 4)
    ]
    assert {
        dataclasses.replace(c, seed=0, method="two_phase", control="learned") for c in configs
    } == {base}
    assert len(grid.plan_grid(base, [0, 0, 1], ["two_phase", "two_phase"], ["learned"])) == 2
    placed = grid.plan_grid(
        dataclasses.replace(base, run_dir="there"), [0, 1], ["two_phase"], ["learned"]
    )
    assert [c.run_dir for c in placed] == [f"there/{run_name(c)}" for c in placed]


def test_options_of_a_run_are_taken_in_any_order():
    arguments = ["--hidden", "64", "32", "--seeds", "1", "2", "--task=mnist", "--at-once", "4"]
    configs, at_once, shard = grid.parse_arguments([*arguments, "--batch-size", "32"])
    assert (at_once, shard) == (4, WHOLE)
    expected = dataclasses.replace(
        default_config("recommended", "mnist"), hidden=(64, 32), batch_size=32
    )
    assert configs == [dataclasses.replace(expected, seed=seed) for seed in (1, 2)]


def test_fields_without_effect_on_a_run_keep_their_presets_values_there():
    base = dataclasses.replace(default_config(), temperature=1.0, batch_size=32)
    two_phase, uniform = grid.plan_grid(base, [0], ["two_phase", "uniform:relu"], ["learned"])
    assert (two_phase.temperature, two_phase.batch_size) == (1.0, 32)
    assert uniform == dataclasses.replace(
        default_config(), method="uniform:relu", control="learned", batch_size=32
    )


def test_fields_without_effect_on_every_run_are_refused():
    base = dataclasses.replace(default_config(), temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature = 1\.0 has no effect: a uniform network"):
        grid.plan_grid(base, [0], ["uniform:relu", "uniform:tanh"], ["learned"])
    with pytest.raises(ValueError, match="control = shuffled has no effect: no method is two_ph"):
        grid.plan_grid(default_config(), [0], ["uniform:relu"], ["shuffled"])


def test_the_command_trains_and_compares(tmp_path, capsys):
    arguments = ["--seeds", "0", "1", "--methods", "two_phase", "uniform:relu", *SMALL]
    arguments += ["--control", "learned", "majority", "--run-dir", str(tmp_path)]
    assert grid.main(arguments) == 0
    text = capsys.readouterr().out
    for line in ("two_phase-majority", "uniform:relu", "seed 1", "best uniform, by validation"):
        assert line in text
    assert sum(map(is_complete, tmp_path.iterdir())) == 6


def test_runs_that_stopped_are_named_and_the_others_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        grid, "train_all", lambda configs, **_: [RunError("the loss is nan") for _ in configs]
    )
    assert grid.main(["--seeds", "0", "1", "--run-dir", str(tmp_path)]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert errors[1].startswith(f"error: {tmp_path}/")
    assert errors[1].endswith("seed1: the loss is nan")


# The compilation cache


@pytest.fixture
def cache_config(monkeypatch, tmp_path):
    """JAX's settings as a user has them who decided nothing, put back afterwards."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (True, None, 1.0), strict=True):
        jax.config.update(name, value)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)


def test_compilations_are_kept_in_the_users_cache(cache_config, tmp_path, monkeypatch):
    keep_compilations()
    folder = tmp_path / "smartmixed-jax" / "compiled"
    assert cache_config.jax_compilation_cache_dir == str(folder)
    assert folder.is_dir()
    assert 0 < cache_config.jax_persistent_cache_min_compile_time_secs < 0.2
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    keep_compilations()
    expected = tmp_path / "home" / ".cache" / "smartmixed-jax" / "compiled"
    assert cache_config.jax_compilation_cache_dir == str(expected)


def test_what_the_user_decided_about_the_cache_stays(cache_config, tmp_path, monkeypatch):
    jax.config.update("jax_compilation_cache_dir", "mine")
    keep_compilations()
    assert cache_config.jax_compilation_cache_dir == "mine"
    assert cache_config.jax_persistent_cache_min_compile_time_secs == 1.0
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    keep_compilations()
    assert cache_config.jax_compilation_cache_dir is None
    jax.config.update("jax_enable_compilation_cache", True)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1.0")
    keep_compilations()
    assert cache_config.jax_compilation_cache_dir is not None
    assert cache_config.jax_persistent_cache_min_compile_time_secs == 1.0
    assert list(tmp_path.iterdir()) == [tmp_path / "smartmixed-jax"]


def test_a_home_that_cannot_be_written_stops_nothing(cache_config, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_compilations()
    assert cache_config.jax_compilation_cache_dir is None


def test_the_second_start_compiles_nothing_new(tmp_path):
    """And importing the programs makes no folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def start(code: str) -> set[str]:
        command = [sys.executable, "-W", "error", "-c", code]
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True)
        return {path.name for path in (tmp_path / "cache").rglob("*-cache")}

    kept = set()
    programs = "from experiments import demo, grid, run\nfrom experiments.recipes import mnist"
    folder = str(tmp_path / "cache" / "smartmixed-jax")
    for place in ("first", "second"):
        arguments = ["--seeds", "0", *SMALL, "--run-dir", str(tmp_path / place)]
        untouched = f"import os\nassert os.path.exists({folder!r}) == {place == 'second'}"
        call = f"{programs}\n{untouched}\nassert grid.main({arguments!r}) == 0"
        before, kept = kept, start(call)
        assert is_complete(next((tmp_path / place).iterdir()))
    assert before
    # What compiles in about the time from which on it is kept may be kept the second time only.
    assert any(name.startswith("jit_run_steps") for name in before)
    assert {name for name in kept - before if name.startswith("jit_run_steps")} == set()
