"""What a user names as MODULE:NAME on the command line."""

import importlib
import inspect
import os
import sys
from typing import Any


def load_object(option: str, text: str) -> Any:
    """Imports an object of the user's; modules may lie in the working directory.

    Args:
        option: where the text comes from, for the error line.
        text: MODULE:NAME.

    Raises:
        ValueError: the text has another form, the module cannot be imported, or has no such name.
    """
    given = f"{option} = {text!r}"
    module_name, _, name = text.partition(":")
    if module_name.endswith(".py") or not module_name or not name.isidentifier():
        raise ValueError(f"{given}: expected MODULE:NAME, such as my_module:build")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()  # the module may have been written a moment ago
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ValueError(
                f"{given}: no module {missing} in {folder} or the environment"
            ) from None
        raise ValueError(f"{given}: {module_name} fails to import ({one_line(error)})") from error
    if not hasattr(module, name):
        names = [
            known
            for known, value in vars(module).items()
            if not known.startswith("_") and not inspect.ismodule(value)
        ]
        raise ValueError(
            f"{given}: {module_name} has no {name}; it has {', '.join(names) or 'nothing'}"
        )
    return getattr(module, name)


def one_line(error: BaseException) -> str:
    """Kind and message of an error, cut to a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
