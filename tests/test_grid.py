"""The grid's command line, and the compilation cache that every program turns on."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments import grid, run, run_folder
from experiments.config_options import words_of
from experiments.names import computation, run_name
from experiments.objective import CLASSIFICATION
from experiments.presets import default_config
from experiments.remaining import Remaining, duration
from experiments.run_folder import RunError, folder_of, is_complete, read_finished
from experiments.shards import WHOLE
from experiments.training.compilation import keep_compilations

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--hidden", "16", "12", "--selective-epochs", "1", "--mixed-epochs", "1"]


def test_every_seed_with_every_method_and_control():
    base = default_config("recommended", "digits")
    configs = grid.plan_grid([base], [3, 4], ["two_phase", "uniform:relu"], ["learned", "random"])
    assert [(c.variant, c.seed) for c in configs] == [
        (variant, seed)
        for variant in ("two_phase", "two_phase-random", "uniform:relu")
        for seed in (3, 4)
    ]
    assert {
        dataclasses.replace(c, seed=0, method="two_phase", control="learned") for c in configs
    } == {base}
    assert len(grid.plan_grid([base], [0, 0, 1], ["two_phase", "two_phase"], ["learned"])) == 2
    placed = grid.plan_grid(
        [dataclasses.replace(base, run_dir="there")], [0, 1], ["two_phase"], ["learned"]
    )
    assert [c.run_dir for c in placed] == [f"there/{run_name(c)}" for c in placed]


def test_options_of_a_run_are_taken_in_any_order():
    arguments = ["--hidden", "64", "32", "--seeds", "1", "2", "--task=mnist", "--at-once", "4"]
    configs, at_once, shard, only_list, *_ = grid.parse_arguments(
        [*arguments, "--batch-size", "32"]
    )
    assert (at_once, shard, only_list) == (4, WHOLE, False)
    expected = dataclasses.replace(
        default_config("recommended", "mnist"), hidden=(64, 32), batch_size=32
    )
    assert configs == [dataclasses.replace(expected, seed=seed) for seed in (1, 2)]


def test_fields_without_effect_on_a_run_keep_their_presets_values_there():
    base = dataclasses.replace(default_config(), temperature=1.0, batch_size=32)
    two_phase, uniform = grid.plan_grid([base], [0], ["two_phase", "uniform:relu"], ["learned"])
    assert (two_phase.temperature, two_phase.batch_size) == (1.0, 32)
    assert uniform == dataclasses.replace(
        default_config(), method="uniform:relu", control="learned", batch_size=32
    )


def test_fields_without_effect_on_every_run_are_refused():
    base = dataclasses.replace(default_config(), temperature=1.0)
    with pytest.raises(ValueError, match=r"temperature = 1\.0 has no effect: a uniform network"):
        grid.plan_grid([base], [0], ["uniform:relu", "uniform:tanh"], ["learned"])
    with pytest.raises(ValueError, match="control = shuffled has no effect: no method is two_ph"):
        grid.plan_grid([default_config()], [0], ["uniform:relu"], ["shuffled"])


def test_starts_are_learned_runs_beside_the_others():
    base = default_config(task="function:ratio")
    found = grid.plan_grid(
        [base], [0, 1], ["two_phase", "uniform:relu"], ["learned", "shuffled"], ["sin", "gauss"]
    )
    starts = [c for c in found if c.start != base.start]
    assert [(c.start, c.seed) for c in starts] == [
        ("sin", 0),
        ("sin", 1),
        ("gauss", 0),
        ("gauss", 1),
    ]
    assert {(c.method, c.control, c.start_probability) for c in starts} == {
        ("two_phase", "learned", 0.5)
    }
    assert len(found) == 6 + 4
    with pytest.raises(ValueError, match="starts = sin has no effect: no method is two_phase"):
        grid.plan_grid([base], [0], ["uniform:relu"], ["learned"], ["sin"])
    with pytest.raises(ValueError, match="start = 'sine': no function of the pool"):
        grid.plan_grid([base], [0], ["two_phase"], ["learned"], ["sine"])


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


# Several architectures and presets


def planned(text):
    return grid.parse_arguments(text.split()).configs


def test_architectures_presets_methods_and_seeds_are_crossed():
    configs = planned(
        "--architectures 4 1 --presets published recommended --methods two_phase uniform:relu "
        "prelu --control learned random --seeds 0 1"
    )
    variants = ("two_phase", "two_phase-random", "uniform:relu", "prelu")
    assert [(c.architecture, c.preset, c.variant, c.seed) for c in configs] == [
        (architecture, preset, variant, seed)
        for architecture in (4, 1)
        for preset in ("published", "recommended")
        for variant in variants
        for seed in (0, 1)
    ]
    for config in configs:
        preset = default_config(config.preset)
        assert config.learning_rate == preset.learning_rate
        assert config.hidden == ()
    assert len({folder_of(config) for config in configs}) == len(configs)


def test_what_computes_the_same_under_two_presets_is_trained_once():
    configs = planned(
        "--presets published described --methods two_phase uniform:relu prelu --seeds 0 --clip 2"
    )
    assert [(c.preset, c.method, c.clip) for c in configs] == [
        ("published", "two_phase", 2),
        ("published", "uniform:relu", 2),
        ("published", "prelu", 2),
        ("described", "two_phase", 2),
    ]
    base = default_config("published")
    for change in ({"learning_rate": 1e-2}, {"seed": 1}, {"method": "uniform:tanh"}):
        uniform = dataclasses.replace(base, method="uniform:relu")
        assert computation(dataclasses.replace(uniform, **change)) != computation(uniform)
    ours = dataclasses.replace(default_config(), method="uniform:relu")
    assert computation(ours) != computation(dataclasses.replace(base, method="uniform:relu"))


def test_a_list_takes_the_place_of_the_hidden_widths_of_a_task():
    configs = planned("--task function:ratio --architectures 1 --seeds 0")
    assert [config.widths for config in configs] == [(512,)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--presets published --preset described", "--preset: a grid takes --presets"),
        ("--architectures 1 --architecture 3", "--architecture: a grid takes --architectures"),
        ("--architectures 1 --hidden 8", "--hidden: a grid takes --architectures"),
        ("--presets ours", "argument --presets: invalid choice: 'ours'"),
    ],
)
def test_two_options_that_say_the_same_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        planned(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--architectures 19", "architecture = 19: expected 1 to 18"),
        ("--task cifar10 --architectures 1 9", "architecture = 9 has no effect: only the network"),
        ("--methods prelu --control shuffled", "control = shuffled has no effect"),
        ("--methods prelu --temperature 1", "temperature = 1.0 has no effect: a uniform network"),
        ("--methods prelu --network some.module:Net", "method = 'prelu': expected one of two_ph"),
    ],
)
def test_what_has_no_meaning_is_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        planned(arguments)


TINY = "--task digits --architectures 1 4 --presets published described --seeds 0 1 --batch-size "
TINY += "512 --selective-epochs 1 --mixed-epochs 1 --methods two_phase uniform:relu prelu"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a grid of two architectures and two presets, and what it printed."""
    folder = tmp_path_factory.mktemp("grid")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert grid.main([*TINY.split(), "--run-dir", str(folder)]) == 0
    return folder, out.getvalue()


def test_every_cell_says_what_is_left(trained):
    _, out = trained
    told = re.findall(r"^(\d+) of 16 cells done, (\d+) left(.*)$", out, re.MULTILINE)
    assert [(int(done), int(left)) for done, left, _ in told] == [(n, 16 - n) for n in range(17)]
    times = [rest for _, _, rest in told]
    assert times[0] == ": how long is known after the first"
    assert all(re.fullmatch(r": about \d+ (s|min)", time) for time in times[1:-1])
    assert times[-1] == ""


def test_the_comparison_is_over_the_architectures(trained):
    _, out = trained
    for line in ("published: test accuracy (%)", "described: ranks", "test accuracy (%), 4: 256"):
        assert line in out


def test_a_cell_of_another_process_has_the_same_numbers(trained, tmp_path):
    """One cell by itself, as experiments.run trains it: equal to the bit."""
    folder, _ = trained
    for name in ("described-arch1-two_phase-seed1-*", "published-arch4-prelu-seed0-*"):
        (cell,) = folder.glob(name)
        config = read_finished(cell).config
        again = dataclasses.replace(config, run_dir=str(tmp_path / cell.name))
        where = ["--seed", str(again.seed), "--run-dir", again.run_dir]
        assert run.main([*words_of(again), *where]) == 0
        one, other = (read_finished(place) for place in (cell, tmp_path / cell.name))
        assert one.summary["phases"] == other.summary["phases"]


def test_a_grid_goes_on_where_cells_are_missing_and_lists_them(trained, tmp_path, capsys):
    folder, _ = trained
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    (lost,) = part.glob("described-arch1-two_phase-seed1-*")
    shutil.rmtree(lost)
    arguments = [*TINY.split(), "--run-dir", str(part)]
    left = {path: path.stat().st_mtime_ns for path in part.glob("*/[!.]*")}
    assert grid.main([*arguments, "--list"]) == 0
    listed = capsys.readouterr().out
    assert re.search(r"15 of 16 cells done, 1 left: about \d+ s", listed)
    assert re.search(rf"^{lost.name} +not begun +\d+ s$", listed, re.MULTILINE)
    assert not lost.exists()
    assert grid.main([*arguments, "--list", "--shard", "0/2"]) == 0
    assert " of 8 cells done" in capsys.readouterr().out
    assert grid.main(arguments) == 0
    out = capsys.readouterr().out
    assert re.findall(r"\d+ of 16 cells done, \d+ left", out) == [
        "15 of 16 cells done, 1 left",
        "16 of 16 cells done, 0 left",
    ]
    assert {path: path.stat().st_mtime_ns for path in left} == left
    whole = read_finished(folder / lost.name).summary["phases"]
    assert read_finished(lost).summary["phases"] == whole


# What is left


def cell(root, method="two_phase", architecture=4, seconds=None, **changes):
    """A config, and its folder as of a finished run that took so many seconds, if any."""
    config = dataclasses.replace(
        default_config(), method=method, architecture=architecture, **changes
    )
    config = dataclasses.replace(config, run_dir=str(root / run_name(config)))
    if seconds is not None:
        finish(config, seconds)
    return config


def finish(config, seconds):
    folder = folder_of(config)
    folder.mkdir(parents=True)
    run_folder.write_config(folder, config)
    run_folder.write_task(folder, run_folder.TaskRecord("digits", CLASSIFICATION, (64,), 10))
    phase = {"validation_score": 0.5, "test_score": 0.5}
    run_folder.write_summary(folder, {"phases": [phase], "seconds": seconds})


def test_a_cell_takes_as_long_as_the_finished_ones_of_its_kind(tmp_path):
    configs = [
        cell(tmp_path, seconds=100.0),
        cell(tmp_path, seconds=140.0, seed=1),
        cell(tmp_path, seed=2),
        cell(tmp_path, "uniform:relu"),
        cell(tmp_path, architecture=1),
    ]
    left = Remaining(configs)
    assert left.line() == "2 of 5 cells done, 3 left: about 7 min"
    assert left.seconds(configs[2]) == 120
    assert left.seconds(configs[3]) == pytest.approx(120)  # by epochs and widths of all
    assert left.seconds(configs[4]) == pytest.approx(120 * 512 / 384)
    finish(configs[4], 6000.0)
    assert left.ended([configs[4]])
    assert not left.ended(configs[:2])
    assert left.seconds(configs[2]) == 120


def test_the_clock_counts_where_it_says_more_than_the_training(tmp_path):
    now = [10.0]
    configs = [cell(tmp_path, seed=seed) for seed in range(6)]
    left = Remaining(configs, clock=lambda: now[0])
    assert left.line() == "0 of 6 cells done, 6 left: how long is known after the first"
    finish(configs[0], 5.0)
    now[0] += 60  # with compilation
    left.ended(configs[:1])
    assert left.line() == "1 of 6 cells done, 5 left: about 5 min"
    finish(configs[1], 240.0)  # resumed: most of it was before
    now[0] += 20
    left.ended(configs[1:2])
    assert left.seconds(configs[2]) == 150
    for config in configs[2:4]:  # two at once
        finish(config, 30.0)
    now[0] += 120
    left.ended(configs[2:4])
    assert left.seconds(configs[4]) == (60 + 240 + 60 + 60) / 4
    left.ended(configs[4:5])  # no folder: it stopped
    assert left.line() == "4 of 6 cells done, 1 left, 1 stopped: about 2 min"


def test_the_epochs_that_are_done_are_not_left(tmp_path):
    done, begun = cell(tmp_path, seconds=120.0), cell(tmp_path, seed=1)
    folder_of(begun).mkdir(parents=True)
    rows = run_folder.Rows(folder_of(begun))
    for epoch in range(1, 31):
        rows.append({"epoch": epoch})
    left = Remaining([done, begun])
    assert left.seconds(begun) == 90
    assert left.rows()[1]["state"] == "30 of 120 epochs"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(4.4, "4 s"), (100, "2 min"), (12_000, "3 h 20 min"), (187_000, "2 d 4 h")],
)
def test_durations_are_written_in_two_units_at_most(seconds, told):
    assert duration(seconds) == told


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
