"""Typing errors: in a word that has one, a letter is left out, doubled, or changes places with the next."""

from __future__ import annotations

import random

from calib_bench.core.corruption import Corruption

SHARE = (0.05, 0.1, 0.2, 0.3, 0.4)
"""Chance of each word of two letters or more to have an error."""


def apply(text: str, severity: int) -> str:
    """The text with errors in the words that were drawn."""
    return " ".join(misspelt(word) if random.random() < SHARE[severity - 1] else word for word in text.split())


def misspelt(word: str) -> str:
    """The word with one error, at a random letter but the last; a single letter as it is."""
    if len(word) < 2:
        return word
    at = random.randrange(len(word) - 1)
    before, letter, following, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    errors = (before + following + after, before + 2 * letter + following + after, before + following + letter + after)
    return random.choice(errors)


CORRUPTION = Corruption(apply, "text", "a typing error in each word with probability .05 to .4")
