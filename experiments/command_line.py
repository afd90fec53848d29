"""How the commands read their options and how they fail.

What ends a command early is one line on stderr, `error: ...`; the exit status is 2 for options
that cannot be understood, 128 and the number for a signal, 1 for everything else.
"""

import argparse
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from experiments import signals
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
    streams = sys.stdout, sys.stderr
    try:
        with signals.caught():
            sys.stdout, sys.stderr = map(_UntilClosed, streams)
            return work()
    except (DataError, RunError, ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _lacks_memory(error):
            raise
        print("error: not enough memory; the same command again resumes", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, signals.Interrupted) as error:
        number = getattr(error, "number", signal.SIGINT)
        print(signals.INTERRUPTED, file=sys.stderr)
        return 128 + number
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams


def _lacks_memory(error: BaseException) -> bool:
    """Also where XLA, or a thread that cannot start, says so."""
    words = ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc", "can't start new thread")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


class _UntilClosed(io.TextIOBase):
    """A stream that goes nowhere once its reader is gone: no training ends for that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def close(self) -> None:
        """Nothing: the stream is another's. A collected object is closed, which would flush."""

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except OSError:  # EPIPE of a pipe, EIO of a terminal
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
