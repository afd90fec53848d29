"""The option --config, and wrong values of options."""

import dataclasses
import json

import pytest

from experiments.config import to_json
from experiments.presets import default_config
from experiments.run import main, parse


def test_a_config_file_gives_the_defaults(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"task": "function:ratio", "hidden": [8, 8], "range": [0, 1]}))
    config = parse(["--config", str(path), "--seed", "3"])
    expected = default_config(task="function:ratio")
    assert config == dataclasses.replace(expected, hidden=(8, 8), range=(0, 1), seed=3)
    assert parse([f"--config={path}", "--hidden", "4"]).hidden == (4,)
    assert parse(["--config", str(path), "--task", "digits", "--range", "-2", "2"]).task == "digits"
    path.write_text(to_json(default_config("published", "mnist")))
    assert parse(["--config", str(path)]) == default_config("published", "mnist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hiden": [8]}', "unknown field 'hiden': is hidden meant?"),
        ('{"seed": "1"}', "seed = '1': expected int"),
        ('{"seed": true}', "seed = True: expected int"),
        ('{"hidden": 8}', "hidden = 8: expected tuple"),
        ('{"hidden": [8.5]}', "hidden = .*: expected tuple"),
        ('{"range": [1]}', r"range = \[1\]: expected tuple"),
        ('{"optimizer": "rmsprop"}', "optimizer = 'rmsprop': expected one of 'adam', 'sgd'"),
        ('{"batch_size": 0}', "batch_size = 0: expected at least 1"),
        ("[1]", "expected an object"),
        ("{", "Expecting property name"),
    ],
)
def test_a_config_file_that_does_not_fit_is_one_line(tmp_path, text, message):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=rf"c\.json: {message}") as caught:
        parse(["--config", str(tmp_path / "c.json")])
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"missing\.json: .*No such file"):
        parse(["--config", "missing.json"])


def test_a_wrong_value_of_an_option_is_one_line_too(capsys):
    for arguments, message in (
        (["--pool", "relu,swish"], "error: pool = 'relu,swish': no function 'swish'; known:"),
        (["--network", "mpl"], "error: network = 'mpl': expected mlp or"),
        (["--config", "missing.json"], "error: missing.json: "),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
