"""How the commands read their options and how they fail.

What ends a command early is one line on stderr, `error: ...`; the exit status is 2 for options
that cannot be understood, 1 for everything else.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from experiments.data.sources import DataError
from experiments.run_folder import RunError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose errors are one line."""

    def __init__(self, **options: Any) -> None:
        formatter = _Formatter
        super().__init__(allow_abbrev=False, formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} ({self.prog} --help lists the options)\n")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def exit_status(work: Callable[[], int]) -> int:
    """Does the work of a command; what ends it early becomes one line and an exit status."""
    try:
        return work()
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command again resumes", file=sys.stderr)
        return 130
