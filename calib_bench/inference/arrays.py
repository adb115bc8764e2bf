"""Types of what is inferred from, and rows of seeds in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SeedRows = ArrayLike | Sequence[ArrayLike]
"""A value of each example under each seed: [S, N], or S rows, which differ in length where each seed has its own."""


def seed_pairs(confidence_SN: Any, correct_SN: Any) -> list[tuple[Array, Array]]:
    """Each seed's confidences and whether the top label was right, float64 [N] each."""
    rows = zip(confidence_SN, correct_SN, strict=True)
    return [(np.asarray(c, np.float64), np.asarray(h, np.float64)) for c, h in rows]
