"""JSON as fields of a dataclass, every name and type checked."""

import difflib
import json
import types
from typing import Any, Literal, get_args, get_origin, get_type_hints


def read_fields(text: str, kind: type) -> dict[str, Any]:
    """Some fields of a dataclass from a JSON object; lists become tuples.

    Raises:
        ValueError: it is no JSON object, or has an unknown field, or a value of another type.
    """
    record = parse_json(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected an object with fields, got {text[:40]!r}")
    hints, fields = get_type_hints(kind), {}
    for name, value in record.items():
        if name not in hints:
            close = difflib.get_close_matches(name[:100], hints, 1)
            raise ValueError(
                f"unknown field {shown(name)}" + (f": is {close[0]} meant?" if close else "")
            )
        fields[name] = tuple(value) if isinstance(value, list) else value
        require_type(name, fields[name], hints[name], value)
    return fields


def parse_json(text: str | bytes) -> Any:
    """What JSON says; ValueError if it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def require_type(name: str, value: Any, hint: Any, written: Any = None) -> None:
    """Raises ValueError for a field's value of another type than `hint`.

    Args:
        written: the value as the error shows it, where that is another.
    """
    if not _has_type(value, hint):
        given = value if written is None else written
        raise ValueError(f"{name} = {shown(given)}: expected {_name(hint)}")


def shown(value: Any) -> str:
    """A value in a line of an error, cut."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def is_number(value: Any) -> bool:
    """An int or a float, no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_type(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return type(value) is str and value in arguments
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, argument) for argument in arguments)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(each) == len(value) and all(map(_has_type, value, each))
    if hint is float:
        return is_number(value)
    return type(value) is hint


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
