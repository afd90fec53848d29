"""Options become configs, and every command fails in one line with the right exit status."""

import dataclasses
import re

import pytest

from experiments import command_line, demo, grid, report
from experiments import run as program
from experiments.config import Config
from experiments.config_options import GROUPS
from experiments.data.functions import TARGETS
from experiments.data.tasks import TASKS
from experiments.figures.__main__ import main as draw
from experiments.names import FIELDS
from experiments.presets import default_config


def status_of(main, arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as exit:
        return exit.code


# Options


def test_preset_and_task_decide_the_defaults():
    assert program.parse(["--preset", "published", "--task=mnist"]) == default_config(
        "published", "mnist"
    )
    config = program.parse(["--task", "function:kinks", "--seed", "3"])
    assert config == dataclasses.replace(default_config("recommended", "function:kinks"), seed=3)


def test_options_of_every_type_are_read():
    arguments = [
        *("--hidden", "64", "32", "--batch-size=32", "--learning-rate", "1e-4", "--augment"),
        *("--no-carry-weights", "--data_dir", "some where", "--dtype", "bfloat16"),
    ]
    assert program.parse(arguments) == dataclasses.replace(
        default_config(),
        hidden=(64, 32),
        batch_size=32,
        learning_rate=1e-4,
        augment=True,
        carry_weights=False,
        data_dir="some where",
        dtype="bfloat16",
    )


def test_an_architecture_replaces_the_widths_of_the_preset():
    config = program.parse(["--task", "function:ratio", "--architecture", "4"])
    assert config.widths == (256, 128)


# Help


@pytest.fixture
def helped(monkeypatch, capsys) -> list[str]:
    """What run and grid say of themselves."""
    monkeypatch.setenv("COLUMNS", "100")
    texts = []
    for main in (program.main, grid.main):
        assert status_of(main, ["--help"]) == 0
        texts.append(capsys.readouterr().out)
    return texts


def test_help_documents_every_option_in_its_group(helped):
    assert sorted(FIELDS) == sorted(name for names in GROUPS.values() for name in names)
    of_run, of_grid = helped
    for title, names in GROUPS.items():
        _, _, below = of_run.partition(f"\n{title}:\n")
        section = below.split("\n\n")[0]
        for name in names:
            # The option, its values, and behind them or on the next line a sentence.
            option = rf"\n  --{name.replace('_', '-')}\b[^\n]*\n?[^\n]*[a-z]{{3}} [a-z]"
            assert re.search(option, f"\n{section}"), name
            of_grid_too = name not in ("seed", "method")
            assert bool(re.search(rf"\n  --{name.replace('_', '-')}[ ,]", of_grid)) == of_grid_too
    assert "--at-once" in of_grid
    assert max(len(line) for text in helped for line in text.splitlines()) <= 100


def test_help_lists_tasks_functions_and_pools(helped):
    for name in (*TASKS, *TARGETS, "paper", "regression", "extended"):
        for text in helped:
            (line,) = [line for line in text.splitlines() if line.startswith(f"  {name}")]
            assert len(line.split()) > 2, name
    assert "x1 * x2 + sin(2 * x3)" in helped[0]


# Errors


@pytest.mark.parametrize(
    ("main", "arguments", "status", "message"),
    [
        (program.main, ["--task", "mnits"], 1, "task = 'mnits'"),
        (program.main, ["--temperature", "0"], 1, "temperature = 0.0"),
        (program.main, ["--method", "uniform:swish"], 1, "method = 'uniform:swish'"),
        (program.main, ["--sead", "1"], 2, "--sead"),
        (program.main, ["--batch-size", "x"], 2, "--batch-size: invalid int value: 'x'"),
        (program.main, ["--preset", "best"], 2, "'best'"),
        (program.main, ["--hid", "8"], 2, "--hid"),
        (program.main, ["--hidden", "8", "--architecture", "5"], 2, "--architecture and --hidden"),
        (program.main, ["--task", "cifar10", "--hidden", "8"], 1, "hidden = (8,) has no effect"),
        (
            program.main,
            ["--task", "function:ratio", "--validation-fraction", "0.2", "--run-dir", "NEW"],
            1,
            "validation_fraction = 0.2 has no effect on function:ratio",
        ),
        (
            program.main,
            ["--method", "uniform:relu", "--control", "random", "--run-dir", "NEW"],
            1,
            "control = 'random' has no effect: a uniform network has no choices",
        ),
        (grid.main, ["--seed", "1"], 2, "--seed: a grid takes --seeds"),
        (grid.main, ["--method=uniform:relu"], 2, "--method: a grid takes --methods"),
        (grid.main, ["--control", "shufled"], 1, "control = 'shufled'"),
        (grid.main, ["--methods", "uniform:swish"], 1, "method = 'uniform:swish'"),
        (grid.main, ["--at-once", "0"], 2, "--at-once 0"),
        (grid.main, ["--sead", "1"], 2, "--sead"),
        (report.main, [], 2, "RUN"),
        (report.main, ["nowhere"], 1, "nowhere does not exist"),
        (report.main, ["--tabel", "nowhere"], 2, "--tabel"),
        (draw, [], 2, "RUN"),
        (draw, ["nowhere"], 1, "nowhere is no run folder"),
        (demo.main, ["one", "two"], 2, "two"),
    ],
)
def test_what_ends_a_command_is_one_line(
    tmp_path, monkeypatch, capsys, main, arguments, status, message
):
    monkeypatch.chdir(tmp_path)
    assert status_of(main, arguments) == status
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_config_has_no_field_that_the_options_cannot_read():
    config = program.parse([])
    assert isinstance(config, Config)
    assert config == default_config()


def test_a_stream_that_is_collected_touches_nothing(tmp_path):
    """As when what it stood for is closed already; Python 3.13 tells of an error in that."""
    with open(tmp_path / "told.txt", "w") as stream:
        stood_in = command_line._UntilClosed(stream)
        stood_in.write("told")
    assert (tmp_path / "told.txt").read_text() == "told"
    stood_in.close()
