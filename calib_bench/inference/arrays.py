"""Types of what is inferred from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SeedRows = ArrayLike | Sequence[ArrayLike]
"""A value of each example under each seed: [S, N], or S rows, which differ in length where each seed has its own."""
