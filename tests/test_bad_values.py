"""Values that no config takes, in Python, in a file and on the command line: one line each."""

import dataclasses
import json
import math
import typing
from pathlib import Path

import pytest

from experiments.config import Config
from experiments.data.sources import DataError, local_path
from experiments.presets import default_config
from experiments.run import main, parse
from experiments.typed_json import parse_json

NAN, INF = math.nan, math.inf
OF_NO_INT = (True, 2.5, 3.0, "3", None, (3,), NAN, INF, -1, 2**32, 10**30, 10**400)
OF_NO_FLOAT = (True, "1", None, (1.0,), NAN, INF, -INF, -1.0, 1e-50, 1e-310, 1e39, 10**400)
OF_NO_BOOL = (0, 1, 1.0, "yes", None)
OF_NO_CHOICE = ("best", "", None, 1, True, ("adam",))
OF_NO_TEXT = (3, True, b"x", ("a",), "a\0b")
BAD: dict[object, tuple] = {
    int: OF_NO_INT,
    float: OF_NO_FLOAT,
    bool: OF_NO_BOOL,
    str: (None, *OF_NO_TEXT),
    str | None: (*OF_NO_TEXT, "gs://bucket/folder", "s3://bucket"),
    tuple[int, ...]: ([8], 8, "8", None, (8.0,), (True,), ("8",), (0,), (8, -1), (2**31,), (NAN,)),
    tuple[str, ...]: (["a"], "a", None, (1,), (None,), (b"a",), ("a\0",)),
    tuple[float, float]: (
        *([0.0, 1.0], (0.0,), (0.0, 1.0, 2.0), ("0", "1"), (False, True), None, 1.0),
        *((NAN, 1.0), (0.0, NAN), (0.0, INF), (-INF, 0.0), (1.0, 0.0), (1.0, 1.0)),
        *((1.0, 1.0 + 1e-9), (-1e308, 1e308), (0.0, 1e39), (0.0, 1e-50)),
    ),
}
CASES = [
    (field.name, value)
    for field in dataclasses.fields(Config)
    for value in BAD.get(field.type, OF_NO_CHOICE)
]


def test_every_field_has_its_bad_values():
    assert len(CASES) > 350
    kinds = {field.type for field in dataclasses.fields(Config)}
    assert all(typing.get_origin(kind) is typing.Literal for kind in kinds - BAD.keys())


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda value: repr(value)[:20])
def test_a_value_that_a_field_does_not_take(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"^{name} = .*: expected ") as caught:
        dataclasses.replace(default_config(), **{name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    if isinstance(value, list) or "b'" in str(value):
        return  # a list of a file is a tuple, and it holds no bytes
    (tmp_path / "c.json").write_text(json.dumps({name: value}))
    with pytest.raises(ValueError, match=rf"{name} = .*: expected "):
        parse(["--config", str(tmp_path / "c.json")])


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "3", '"seed"', "{'seed': 1}", '{"seed": 1,}', '{"seed": }'),
        *("[" * 100_000, '{"seed": ' * 100_000, '{"seed": ' + "9" * 5000 + "}", "\0", "\ufeff{}"),
        *('{"seeed": 1}', '{"": 1}', '{"' + "s" * 10_000 + '": 1}', '{"seed": {"a": 1}}'),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json: .") as caught:
        parse(["--config", str(tmp_path / "c.json")])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_deep_json_is_no_json():
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


COMMANDS = """
--sed 1|unrecognized
--seed|expected one argument
--seed x|invalid int
--seed 1.0|invalid int
--seed -1|seed = -1
--seed 4294967296|seed = 4294967296: expected at least 0, at most 4294967295
--seed 1e3|invalid int
--batch-size 0|batch_size = 0
--batch-size 2147483648|batch_size = 2147483648: expected at least 1, at most 2147483647
--batch-size 2147483647|GiB
--batch-size 100000000|needs about
--draws 17 --estimator sampled_straight_through --batch-size 2147483629|needs about
--hidden 0|hidden = (0,)
--hidden 2147483648|hidden = (2147483648,)
--hidden 1000000 1000000|network 1000000-1000000 with batch_size = 128 needs about
--hidden 2147483647 2147483647 2147483647|needs about
--hidden 64 x|invalid int
--network conv --batch-size 10000000|network conv with batch_size = 10000000 needs about
--steps-per-epoch 2147483647|examples in the batches of an epoch, expected at most 2147483647
--steps-per-epoch 16000000|an epoch's order
--selective-epochs 2147483647|steps in all epochs, expected at most 2147483647
--selective-epochs 0|selective_epochs = 0
--temperature 1e-50|temperature = 1e-50: expected at least 1e-06, at most 1000000
--temperature nan|temperature = nan
--temperature 0|temperature = 0.0
--final-temperature 1e-46|final_temperature = 1e-46
--noise inf|noise = inf
--learning-rate 1e-50|learning_rate = 1e-50
--logit-learning-rate nan|logit_learning_rate = nan
--weight-decay inf|weight_decay = inf
--clip -1|clip = -1
--checkpoint-seconds nan|checkpoint_seconds = nan
--architecture 0|architecture = 0
--range 1|--range
--task function:ratio --range 1 1|range = (1.0, 1.0)
--task function:ratio --range -1e308 1e308|--range
--task nothing|task = 'nothing'
--task function:|task = 'function:'
--task table:|task = 'table:'
--task table:nothing.csv --target y|nothing.csv
--task table:gs://bucket/a.csv --target y|gs://bucket/a.csv: expected a path of this machine
--task arrays:s3://bucket/a.npz|s3://bucket/a.npz: expected a path of this machine
--task table:~nobody-here/a.csv --target y|~nobody-here/a.csv
--task mnist --data-dir gs://bucket|data_dir = 'gs://bucket'
--run-dir gs://bucket/run|run_dir = 'gs://bucket/run'
--task mnist --data-dir ~nobody-here|~nobody-here
--network mpl|network = 'mpl'
--network transformer|network = 'transformer'
--network os:getcwd|network = 'os:getcwd'
--pool nothing|pool = 'nothing'
--pool relu,relu|pool = 'relu,relu'
--pool os:getcwd|pool = 'os:getcwd'
--method uniform:nothing|method = 'uniform:nothing'
--method uniform:relu --control random|control = 'random'
--estimator nothing|estimator = 'nothing'
--dtype float16|invalid choice
--preset best|invalid choice
--config nothing.json|nothing.json
--target y|target = 'y'
--start nothing|start = 'nothing'
--start-probability 1|start_probability = 1.0
--start-probability 0.99999999999|start_probability = 0.99999999999: expected in (0, 1)
--validation-fraction 1e-50|validation_fraction = 1e-50
--fix-share 0|fix_share = 0.0
""".strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_makes_no_sense(command, tmp_path, monkeypatch, capsys):
    arguments, _, text = command.partition("|")
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments.split())
    except SystemExit as error:
        status = error.code
    captured = capsys.readouterr()
    assert status in (1, 2)
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_without_a_home_folders_must_be_named(tmp_path, monkeypatch, capsys):
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", lambda p: no_home(p) if str(p)[0] == "~" else p)
    for name in ("TFDS_DATA_DIR", "XDG_CACHE_HOME", "SMARTMIXED_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    for arguments in ([], ["--data-dir", str(tmp_path)]):
        assert main(["--task", "mnist", *arguments]) == 1
        error = capsys.readouterr().err
        assert "~" in error
        assert "set HOME" in error
        assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert local_path("a") == Path("a")


def test_an_address_in_the_environment_is_no_folder(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket")
    with pytest.raises(DataError, match="gs://bucket: expected a path of this machine"):
        from experiments import data

        data.load("mnist")
