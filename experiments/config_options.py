"""The options of run and grid, made from Config: `parse_config`."""

import argparse
import ast
import inspect
import re
import textwrap
import typing
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.command_line import Parser
from experiments.config import PRESET_NAMES, Config
from experiments.data.functions import formulas
from experiments.data.tasks import describe_tasks, find_kind
from experiments.names import FIELDS
from experiments.pools import POOLS
from experiments.presets import default_config
from experiments.typed_json import read_fields

GROUPS: dict[str, tuple[str, ...]] = {
    "task and data": (
        *("preset", "task", "seed", "target", "target_kind", "inputs", "split_column"),
        *("validation_fraction", "test_fraction", "range", "points", "label_noise"),
        "derivative_weight",
        *("augment", "data_dir", "stream"),
    ),
    "method": (
        *("method", "pool", "variance_matched", "control", "carry_weights", "carry_moments"),
        "select_epoch",
    ),
    "network": ("network", "architecture", "hidden", "initialization", "dtype"),
    "training": (
        *("selective_epochs", "mixed_epochs", "refine_epochs", "steps_per_epoch", "batch_size"),
        *(
            "optimizer",
            "learning_rate",
            "schedule",
            "warmup",
            "weight_decay",
            "clip",
            "double_softmax",
        ),
        "retries",
    ),
    "phase 1 and logits": (
        *("estimator", "temperature", "final_temperature", "noise", "final_noise", "draws"),
        *("start", "start_probability", "drop_worse", "logit_learning_rate", "logit_warmup"),
        *("clip_together", "fix_when", "layer_by_layer", "fix_share", "fix_patience"),
        *("clamp", "evaluation_noise"),
    ),
    "output": ("run_dir", "checkpoint_seconds"),
    "devices": ("devices", "model_axis"),
}
"""The options as --help groups them; fields of Config that are not here come last."""


def parse_config(
    arguments: Sequence[str], parser: Parser, *, without: Sequence[str] = ()
) -> tuple[Config, argparse.Namespace]:
    """Command-line arguments → a Config, and the parser's own options.

    --preset and --task decide the defaults of the rest, and --config FILE sets some of them.

    Args:
        arguments: the words behind the command.
        parser: with options of its own; those of Config are added.
        without: fields of Config that the command does not take.

    Raises:
        ValueError: there is no such task, a value is out of its range, or FILE is no config.
        SystemExit: an option is unknown or has a value of another type; or --help.
    """
    arguments = [re.sub(r"^--\w+", lambda name: name[0].replace("_", "-"), a) for a in arguments]
    first = Parser(prog=parser.prog, add_help=False)
    first.add_argument("--config", type=Path)
    file, _ = first.parse_known_args(arguments)
    written = {} if file.config is None else read_config(file.config)
    first.add_argument(
        "--preset", default=written.get("preset", "recommended"), choices=PRESET_NAMES
    )
    first.add_argument("--task", default=written.get("task", "digits"))
    chosen, _ = first.parse_known_args(arguments)
    find_kind(chosen.task)
    default = default_config(chosen.preset, chosen.task)
    try:
        default = replace(default, **{**written, "preset": chosen.preset, "task": chosen.task})
    except ValueError as error:
        raise ValueError(f"{file.config}: {error}") from None
    _add_options(parser, default, without)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a config.json, of a run or by hand, also with a part of the options: it gives the "
        "defaults of the others",
    )
    options = parser.parse_args(arguments)
    given = {name: vars(options).pop(name) for name in FIELDS if name in options}
    if "architecture" in given and given.get("hidden"):
        if given["architecture"] != default.architecture:
            parser.error("--architecture and --hidden both say the hidden widths")
    elif "architecture" in given:
        given["hidden"] = ()  # not those of the preset
    return Config(**{**vars(default), **given}), options


NOT_IN_WORDS = ("seed", "run_dir", "data_dir")


def words_of(config: Config) -> list[str]:
    """The options from which `parse_config` makes the config, but for NOT_IN_WORDS."""
    default = default_config(config.preset, config.task)
    given = {"task": config.task}
    given |= {"preset": config.preset} if config.preset != "recommended" else {}
    given |= {
        name: getattr(config, name)
        for name in FIELDS
        if name not in NOT_IN_WORDS and getattr(config, name) != getattr(default, name)
    }
    words = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else [value])]
    return words


def read_config(path: Path) -> dict[str, Any]:
    """Some fields of a config from a JSON file; ValueError names the file and what is wrong."""
    try:
        return read_fields(path.read_text(), Config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _add_options(parser: Parser, default: Config, without: Sequence[str]) -> None:
    """An option per field; what is not given does not appear in the parsed options."""
    grouped = {name for names in GROUPS.values() for name in names}
    others = tuple(name for name in FIELDS if name not in grouped)
    types, texts = typing.get_type_hints(Config), _field_texts()
    for title, names in {**GROUPS, "other options": others}.items():
        group = parser.add_argument_group(title)
        for name in names:
            if name in without:
                continue
            text = texts[name].replace("%", "%%")
            shown = _written(getattr(default, name))
            group.add_argument(
                "--" + name.replace("_", "-"),
                dest=name,
                default=argparse.SUPPRESS,
                help=f"{text} [{shown}]" if shown else text,
                **_reading(types[name]),
            )


def _reading(kind: Any) -> dict[str, Any]:
    """How argparse reads a value of a field's type."""
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(kind) is typing.Literal:
        return {"choices": typing.get_args(kind)}
    if typing.get_origin(kind) is tuple:
        item, *others = typing.get_args(kind)
        count = "*" if others == [...] else 1 + len(others)
        return {"action": _Tuple, "nargs": count, "type": item, "metavar": _METAVARS[item]}
    if type(None) in typing.get_args(kind):
        (kind,) = set(typing.get_args(kind)) - {type(None)}
    return {"type": kind, "metavar": _METAVARS[kind]}


_METAVARS = {int: "N", float: "X", str: "TEXT"}


class _Tuple(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _field_texts() -> dict[str, str]:
    """The docstring below every field of Config, in one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(Config))).body
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(below, ast.Expr)
            assert isinstance(below.value, ast.Constant)
            texts[field.target.id] = " ".join(str(below.value.value).split())
    return texts


def describe_choices() -> str:
    """For the end of --help: the tasks, the functions to fit and the pools, a line each."""
    pools = {name: ", ".join(pool.names) for name, pool in POOLS.items()}
    sections = {
        "tasks": describe_tasks(),
        "functions, as in --task function:ratio": formulas(),
        "pools": pools,
    }
    lines = []
    for title, entries in sections.items():
        lines.append(f"{title}:")
        for name, text in entries.items():
            width = max(map(len, entries)) + 4
            lines += textwrap.wrap(
                text, 98, initial_indent=f"  {name}".ljust(width), subsequent_indent=" " * width
            )
        lines.append("")
    return "\n".join(lines)
