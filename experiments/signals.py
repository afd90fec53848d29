"""Signals that ask a command to end, and a training loop that ends where nothing is lost."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

INTERRUPTED = "interrupted; the same command again resumes"

_asked: int | None = None
_deferred = False


class Interrupted(BaseException):
    """A signal asked to end, and nothing would be lost; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def end_quietly_while_importing() -> None:
    """Of a command `python -m ...` that is interrupted before it begins: no traceback."""
    if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """Ends the process at a signal, with one line; in a deferring block only where it asks for it.

    The exit status is 128 and the signal's number. The second signal ends the process as if there
    were no handler. Signals that the parent ignores (nohup) stay ignored. Only the main thread has
    handlers.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {n: signal.getsignal(n) for n in NUMBERS}
    handled = [n for n in NUMBERS if before[n] not in (signal.SIG_IGN, None)]
    _asked = None
    for number in handled:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])
        _asked = None


def _handle(number: int, frame: FrameType | None) -> None:
    global _asked
    for other in NUMBERS:
        if signal.getsignal(other) is _handle:
            signal.signal(other, signal.SIG_DFL)
    if _deferred:
        _asked = number
        _tell("asked to end: saving first; a second signal ends at once")
        return
    # Not by an exception: raised in a finaliser it would be printed and forgotten.
    _tell(INTERRUPTED)
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # the stream may be in use
        sys.stdout.flush()
    os._exit(128 + number)


def _tell(text: str) -> None:
    """A line on stderr, past its buffer, which may be in use."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Inside, a signal waits for `end_if_asked`."""
    global _deferred
    before, _deferred = _deferred, True
    try:
        yield
    finally:
        _deferred = before


def asked() -> int:
    """The number of a signal that waits, or 0."""
    return _asked or 0


def end_if_asked() -> None:
    """Raises Interrupted if a signal waits: where nothing would be lost."""
    if _asked is not None:
        raise Interrupted(_asked)
