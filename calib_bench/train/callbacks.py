"""Whoever wants to know what a loop measures while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from calib_bench.core.trial import Trial

Listener = Callable[[Sequence[Trial], Mapping[str, Any]], None]
"""Called with the trials that train together and a history row: numbers, or of a stack tensors [S]."""
_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with every history row that a loop of this process takes within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(trials: Sequence[Trial], row: Mapping[str, Any]) -> None:
    """A history row was taken."""
    for listener in _listeners:
        listener(trials, row)
