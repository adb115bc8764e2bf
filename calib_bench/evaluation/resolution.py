"""How finely a file of probabilities was written: the last digit kept, which is what a zero in it is below.

A zero among probabilities is a censored value, not a statement that something cannot happen: a forest of 100 trees
counts in hundredths, a table keeps four decimals, float16 nothing below 6e-8. What was kept shows in the other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from calib_bench.evaluation import Array

BLOCK = 1 << 18
SAMPLE = 1 << 16
"""Numbers looked at first; what they show is then checked on all."""
CHANCE = 1e-9
"""A grid is believed where numbers without one would fall on it with a probability below this."""
MOST_VOTES = 10_000
FINER = 7
"""Decimals beyond those of the smallest number at which a grid ends: quotients of decimals, as rows that were rounded
and then normalized, fall on grids of very many decimals, and their zeros are below what was kept before."""
FROM_UNDERFLOW = 1e6
"""A type's zero is an underflow where some number lies within this factor of the smallest that the type holds."""


@dataclass(frozen=True)
class Type:
    """A floating type: name, half the relative distance of neighbours, smallest normal and smallest number."""

    name: str
    rounding: float
    normal: float
    smallest: float


TYPES = (
    Type("bfloat16", 2.0**-9, 2.0**-126, 2.0**-133),
    Type("float16", 2.0**-12, 2.0**-14, 2.0**-24),
    Type("float32", 2.0**-25, 2.0**-126, 2.0**-149),
    Type("float64", 2.0**-54, 2.0**-1022, 5e-324),
)


@dataclass(frozen=True)
class Resolution:
    """How finely the probabilities of a file were written.

    Attributes:
        form: "grid" (multiples of `step`), "type" (all that a floating type holds), "hard" (only 0 and 1), or "least"
            (no rule was found: the smallest number above zero stands for the last digit).
        step: the smallest number above zero that it can hold.
        type: the narrowest floating type that holds its numbers.
        words: for people.
    """

    form: str
    step: float
    type: Type
    words: str

    def read(self, p: Array) -> Array:
        """Probabilities as a file of this resolution would hold them, float64."""
        p = np.asarray(p, np.float64)
        if self.form == "grid":
            return np.round(p / self.step) * self.step
        if self.form == "type":
            rounded = rounded_to(p, self.type)
            return np.where(rounded < self.step, 0.0, rounded)
        if self.form == "hard":
            return (p == p.max(-1, keepdims=True)).astype(np.float64)
        return np.where(p < self.step, 0.0, p)


def resolution(p: Array, narrow: Type | None = None) -> Resolution:
    """The resolution of probabilities [N, K] or [N], which lie in [0, 1] up to rounding.

    Args:
        narrow: the floating type in which they were kept, found from the numbers if not given.
    """
    flat = np.asarray(p).reshape(-1)
    narrow = narrow or narrowest(flat)
    if not any(_between(part).size for part in _parts(flat)):
        return Resolution("hard", 1 / len(p), narrow, "only 0 and 1")
    least = min(float(part[part > 0].min()) for part in _parts(flat) if (part > 0).any())
    sample = _between(flat[:: max(1, flat.size // SAMPLE)])
    for step, words in _grids(np.unique(np.append(sample, least).astype(np.float64)), narrow):
        if all(_fits(np.asarray(part, np.float64), step, narrow.rounding)[0] for part in _parts(flat)):
            return Resolution("grid", step, narrow, f"multiples of {words}")
    return _without_grid(least, narrow)


def _without_grid(least: float, narrow: Type) -> Resolution:
    """The resolution of numbers on no grid, of which `least` is the smallest above zero."""
    if least >= FROM_UNDERFLOW * narrow.normal:
        return Resolution("least", least, narrow, f"of no grid, the smallest above zero being {least:.2g}")
    step = min(narrow.smallest if least < narrow.normal else narrow.normal, least)
    return Resolution("type", step, narrow, f"{narrow.name}, down to {step:.2g}")


def _between(flat: Array) -> Array:
    """The numbers between 0 and 1."""
    return flat[(flat > 0) & (flat < 1)]


def _parts(flat: Array) -> Iterator[Array]:
    for start in range(0, max(flat.size, 1), BLOCK):
        yield flat[start : start + BLOCK]


def narrowest(flat: Array) -> Type:
    """The first of TYPES that holds all the numbers exactly."""
    for candidate in TYPES[:-1]:
        if all(bool((rounded_to(part, candidate) == part).all()) for part in _parts(flat)):
            return candidate
    return TYPES[-1]


def rounded_to(x: Array, to: Type) -> Array:
    """The nearest numbers of a type, float64; for bfloat16 by way of float32."""
    if to.name == "float64":
        return np.asarray(x, np.float64)
    if to.name == "float16":
        return np.asarray(x).astype(np.float16).astype(np.float64)
    single = np.asarray(x).astype(np.float32)
    if to.name == "bfloat16":
        bits = single.view(np.uint32)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)  # to nearest, ties to even
        single = bits.view(np.float32)
    return single.astype(np.float64)


def _grids(values: Array, narrow: Type) -> list[tuple[float, str]]:
    """Steps of which all the values, increasing and above zero, may be multiples, the coarsest first."""
    votes = _votes(values, narrow)
    decimal = votes is not None and votes == 10 ** round(math.log10(votes))
    grids = [(1 / votes, f"{1 / votes:g}" if decimal else f"1/{votes}")] if votes else []
    first = max(1, math.ceil(-math.log10(values[0]) - 1e-6))
    for digits in range(first, first + FINER):
        if _fits(values, 10.0**-digits, narrow.rounding, CHANCE)[0]:
            grids.append((10.0**-digits, f"{10.0**-digits:g}"))
            break
    return sorted(grids, key=lambda grid: -grid[0])


def _fits(values: Array, step: float, rounding: float, chance: float = 1.0) -> tuple[bool, int]:
    """Whether values are multiples of a step up to rounding, as far as can be seen; and of how many it can be.

    Args:
        chance: that numbers from anywhere would seem so must be less likely than this.
    """
    scaled = values / step
    slack = 16 * rounding * np.maximum(scaled, 1.0)
    seen = (slack < 0.05) & (values > 0) & (values < 1)
    near = np.abs(scaled - np.round(scaled)) <= slack
    if not bool(near[seen].all()):
        return False, 0
    luck = float(np.log(2 * slack[seen]).sum())
    return chance >= 1 or luck < math.log(chance), int(seen.sum())


def _votes(values: Array, narrow: Type) -> int | None:
    """The least n of which all values are multiples of 1/n: the common denominator of some, if it is that of all."""
    most = min(MOST_VOTES, int(0.25 / math.sqrt(narrow.rounding)))
    n = 1
    for value in values[:: max(1, len(values) // 200)].tolist():
        n = math.lcm(n, Fraction(value).limit_denominator(most).denominator)
        if n > MOST_VOTES:
            return None
    return n if n > 1 and _fits(values, 1 / n, narrow.rounding, CHANCE)[0] else None


def slack(kept: Resolution | None, narrow: Type, K: int) -> float:
    """How far a row of K numbers may miss a sum of one when each was rounded to decimals, or to a type's numbers.

    Rounding to decimals is off by a uniform error; four standard deviations of their sum, or all at their worst. Votes
    add up.
    """
    if kept is not None and kept.form == "grid":
        decimal = math.log10(kept.step).is_integer() or abs(math.log10(kept.step) % 1 - 0.5) > 0.5 - 1e-9
        return min(K / 2, 4 * math.sqrt(K / 12)) * kept.step if decimal else 0.0
    return min(K * 4 * narrow.rounding, 0.05)
