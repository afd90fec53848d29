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
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError(f"expected an object with fields, got {text[:40]!r}")
    hints, fields = get_type_hints(kind), {}
    for name, value in record.items():
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            raise ValueError(
                f"unknown field {name!r}" + (f": is {close[0]} meant?" if close else "")
            )
        fields[name] = tuple(value) if isinstance(value, list) else value
        if not _has_type(fields[name], hints[name]):
            raise ValueError(f"{name} = {value!r}: expected {_name(hints[name])}")
    return fields


def _has_type(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return value in arguments
    if isinstance(hint, types.UnionType):
        return any(_has_type(value, argument) for argument in arguments)
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        each = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return len(each) == len(value) and all(map(_has_type, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is hint


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(repr, get_args(hint)))}"
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
