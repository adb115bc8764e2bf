"""Stopping in order: at the first Ctrl-C or SIGTERM loops end their step, save it and leave; at the second, at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = b"\nstopping: the step under way is finished and saved; once more stops at once\n"
_requested = False


class Stopped(KeyboardInterrupt):
    """Raised where a loop left because it was asked to; everything up to there is saved."""


def request() -> None:
    """Ask the loops of this process to leave."""
    global _requested
    _requested = True


def requested() -> bool:
    """Whether they were asked to."""
    return _requested


def check() -> None:
    """Raises Stopped when they were."""
    if _requested:
        raise Stopped


@contextmanager
def orderly() -> Iterator[None]:
    """Within it the first signal is a request and the second a KeyboardInterrupt. Only the main thread gets signals."""
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if _requested:
            raise KeyboardInterrupt
        request()
        os.write(2, SAID)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _requested = False
