"""Words that are missing from a text."""

from __future__ import annotations

import random

from calib_bench.core.corruption import Corruption

SHARE = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Chance of each word to be missing."""


def apply(text: str, severity: int) -> str:
    """The text without the words that were drawn."""
    return " ".join(word for word in text.split() if random.random() >= SHARE[severity - 1])


CORRUPTION = Corruption(apply, "text", "each word is missing with probability .1 to .5")
