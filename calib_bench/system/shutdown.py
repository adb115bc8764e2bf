"""Stopping in order: at the first Ctrl-C or SIGTERM loops end their step, save it and leave; at the second, at once.

SIGUSR1, SIGUSR2 and SIGHUP are heeded as warnings that the end is near (batch systems send them before they kill, a
terminal when it is closed): they stop in the same order, however often they come.

Processes that train one model together leave together: a signal to one of them is a wish there, of which all are told
at the same step, see `train.distributed.Accord`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name))
"""What some systems do not have, and what stays ignored where it was, as nohup does with SIGHUP."""
SAID = b"\nstopping: the step under way is finished and saved; once more stops at once\n"
_requested = _wished = False
_launcher: int | None = None


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


def wished() -> bool:
    """Whether this process was asked to leave, or lost its launcher; those it trains with may not know yet."""
    return _requested or _wished or (_launcher is not None and os.getppid() != _launcher)


def heeded() -> list[signal.Signals]:
    """The warnings that this process does not ignore."""
    return [number for number in WARNINGS if signal.getsignal(number) is not signal.SIG_IGN]


def leave_when_asked() -> None:
    """For a worker process: SIGTERM, from the process that started it, and every warning are requests to leave. Ctrl-C
    reaches all processes of a terminal, and is for the first one to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, *heeded()):
        signal.signal(number, lambda *_: request())


@contextmanager
def orderly() -> Iterator[None]:
    """Within it the first signal is a request; a second SIGINT or SIGTERM is a KeyboardInterrupt, a second warning is
    nothing, and remains so after a request: the process is about to leave. Only the main thread gets signals."""
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if not _requested:
            request()
            with suppress(OSError):  # a terminal that is gone
                os.write(2, SAID)
        elif number in SIGNALS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (*SIGNALS, *heeded())}
    try:
        yield
    finally:
        for number, handler in before.items():
            leaving = _requested and number in WARNINGS  # a shell passes on the SIGHUP that its jobs had already
            signal.signal(number, signal.SIG_IGN if leaving else handler)
        _requested = False


@contextmanager
def together() -> Iterator[None]:
    """Within it, in one of several processes that train together, every signal is a wish, however often it comes:
    launchers pass on what a terminal or a batch system has sent to all processes already. So is the end of the
    launcher: torchrun dies of SIGUSR1 unless told otherwise. A wish becomes a request once the others know of it. After
    that signals are ignored: the process is about to leave."""
    global _requested, _wished, _launcher
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        global _wished
        _wished = True

    before = {number: signal.signal(number, handle) for number in (*SIGNALS, *heeded())}
    _launcher = os.getppid()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if _requested else handler)
        _requested, _wished, _launcher = False, False, None
