"""The page docs/your_data.md, its files written and its commands run, with few steps."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from experiments import evaluate, figures, grid, pruning, run
from experiments.recipes import formula
from experiments.run_folder import is_complete

PAGE = Path(__file__).parents[1] / "docs" / "your_data.md"
BLOCK = re.compile(
    r"(?:^`(?P<file>[\w.]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
SHORT = ["--selective-epochs", "1", "--mixed-epochs", "1", "--steps-per-epoch", "4"]
SHORT += ["--refine-epochs", "0"]


def run_short(options: list[str]) -> int:
    small = "--hidden" in options or "my_networks:Residual" in options
    return run.main([*options, *SHORT, *([] if small else ["--hidden", "8"])])


PROGRAMS = {
    "python -m experiments.run ": run_short,
    "python -m experiments.grid ": lambda options: grid.main([*options, *SHORT]),
    "python -m experiments.evaluate ": evaluate.main,
    "python -m experiments.recipes.formula ": formula.main,
}


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(figures, "draw_figures", lambda folder: [])
    monkeypatch.setattr(pruning, "STEPS", (2, 2))
    names, ran = {}, []
    for block in BLOCK.finditer(PAGE.read_text()):
        if block["file"]:
            Path(block["file"]).write_text(block["text"])
        elif block["language"] == "python":
            exec(compile(block["text"], str(PAGE), "exec"), names)
        else:
            assert block["language"] == "bash"
            for command in block["text"].splitlines():
                program = next(start for start in PROGRAMS if command.startswith(start))
                status = PROGRAMS[program](shlex.split(command.removeprefix(program)))
                assert status == 0, (command, capsys.readouterr().err)
                ran.append(command)
    assert len(ran) == 17
    assert names["found"].names == ("m", "v", "t")
    assert names["logits"].shape == (1, 2)
    assert len(Path("kinds.csv").read_text().splitlines()) == 13
    folders = [path.parent for path in tmp_path.glob("runs/**/config.json")]
    assert len(folders) == 16
    assert all(map(is_complete, folders))
    printed = capsys.readouterr().out
    for told in (
        "test RMSE",
        "accuracy: ",
        "12 predictions in kinds.csv",
        "cube",
        "outside",
        "best start",
    ):
        assert told in printed


@pytest.fixture(autouse=True)
def forget_modules():
    yield
    for name in ("my_functions", "my_tasks", "my_networks"):
        sys.modules.pop(name, None)
