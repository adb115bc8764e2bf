"""Which of several are tied with the best: those that a paired difference does not show to be worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

from calib_bench.analysis.format import ALPHA
from calib_bench.inference import holm

Name = TypeVar("Name", bound=Hashable)


def tied(losses: Mapping[Name, float], p: Callable[[Name, Name], float]) -> set[Name]:
    """The one with the lowest loss, and those that are not shown to be worse, p >= .05 after `holm` from the best.

    Args:
        losses: one each; who has none that is finite is no candidate.
        p: of the paired difference of two; NaN where no test can be had, which shows nothing.
    """
    finite = {name: loss for name, loss in losses.items() if math.isfinite(loss)}
    if not finite:
        return set()
    top = min(finite, key=finite.__getitem__)
    others = [name for name in finite if name != top]
    adjusted = holm([p(name, top) for name in others], from_best=True)
    return {top, *(name for name, corrected in zip(others, adjusted, strict=True) if not corrected < ALPHA)}
