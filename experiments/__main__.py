"""The command `smartmixed`; in a checkout also `python -m experiments`.

    smartmixed COMMAND [OPTION ...]

Every command is a module of its own, `python -m experiments.COMMAND`, and has its own --help.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

COMMANDS = {
    "run": "train one network, or resume it",
    "grid": "train methods, controls and seeds, and compare them",
    "evaluate": "score a trained network, predict for new rows, write its formula",
    "report": "tables of finished runs, or one page",
    "chosen": "what was chosen over seeds; the majority's function per layer as a config",
    "figures": "draw the figures of runs",
    "export": "a trained network as a file for other programs",
    "data": "load an image set, keep it as one file",
    "demo": "both phases on digits and on one function",
}
"""By their names, with what they do; those whose module there is not are left out."""


def module_of(command: str) -> str | None:
    """The module with the command's `main`; None if there is none."""
    for name in (f"experiments.{command}.__main__", f"experiments.{command}"):
        try:
            if importlib.util.find_spec(name) is not None:
                return name
        except ModuleNotFoundError:  # experiments.run is no package
            continue
    return None


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items() if module_of(name)]
    head = "usage: smartmixed COMMAND [OPTION ...]\n       smartmixed COMMAND --help\n"
    return "\n".join([head, *lines, "", "  --version"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the first argument names; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    command, *others = given or ["--help"]
    if command in ("-h", "--help"):
        print(usage())
        return 0
    if command == "--version":
        from smartmixed_jax import __version__

        print(__version__)
        return 0
    name = module_of(command) if command in COMMANDS else None
    if name is None:
        known = ", ".join(known for known in COMMANDS if module_of(known))
        print(f"error: no command {command!r}; expected one of {known}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("experiments", "smartmixed_jax", ""):
            raise
        print(
            f"error: {command} needs {error.name}: pip install 'smartmixed-jax[experiments]'",
            file=sys.stderr,
        )
        return 1
    return module.main(others)


if __name__ == "__main__":
    sys.exit(main())
