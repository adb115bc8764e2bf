"""Numbers and intervals as text for people, and the names of columns that belong together."""

from __future__ import annotations

import math
import numbers

TWO_KINDS = "two_kinds"
"""The column that says whether the arm of a row or its reference has seeds of two kinds; absent where neither has."""
ALPHA = 0.05
SIBLINGS = ("_low", "_high", "_p", "_holm")
"""Ends of the names of a column's limits and p-values."""

WIDE = 10
"""Positive limits of which the high one is more than so many times the low one are far apart."""


def number(value: object) -> str:
    """A lone value for people: floats to 4 significant digits, missing values as a dash."""
    if isinstance(value, (bool, str)):
        return str(value)
    if value is None or (isinstance(value, numbers.Real) and math.isnan(float(value))):
        return "–"
    if isinstance(value, numbers.Integral) or not isinstance(value, numbers.Real):
        return str(value)
    return f"{float(value):.4g}".replace("-", "−", 1) if float(value) < 0 else f"{float(value):.4g}"


def estimate(mean: float, low: float, high: float) -> str:
    """A mean with its interval, see `estimate_texts`.

    >>> estimate(0.14412, 0.1302, 0.158), estimate(0.31, 0.0123, 104.0)
    ('0.144 [0.130, 0.158]', '0.31 [0.012, 100]')
    """
    if not (math.isfinite(mean) and math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    mean_text, low_text, high_text = estimate_texts(mean, low, high)
    return f"{mean_text} [{low_text}, {high_text}]"


def estimate_texts(mean: float, low: float, high: float, digits: int | None = None) -> list[str]:
    """A finite mean and its limits as texts to so many places, those of `places` if none are given; each to two
    significant digits where positive limits are far apart and the low one would be left with fewer.

    >>> estimate_texts(0.23, 0.041, 8.2, digits=1)
    ['0.23', '0.041', '8.2']
    """
    digits = places(low, high) if digits is None else digits
    if 0 < WIDE * low < high and low < 10.0 ** (1 - digits):
        return [_two_digits(value) for value in (mean, low, high)]
    return [fixed(value, digits) for value in (mean, low, high)]


def _two_digits(value: float) -> str:
    """A positive number to two significant digits."""
    value = float(f"{value:.2g}")
    return f"{value:.1e}" if value < 1e-4 else fixed(value, max(1 - math.floor(math.log10(value)), 0))


def places(low: float, high: float) -> int:
    """Decimal places that give an interval's half width two significant digits, at most 6; of a width of nearly 0, or
    of less than a millionth of its limits, five digits of these, at most 4 places.

    >>> places(0.13, 0.158), places(0.99999998, 1.00000003)
    (3, 4)
    """
    half, largest = (high - low) / 2, max(abs(low), abs(high))
    if not half > max(1e-6 * largest, 5e-8):
        return max(4 - max(math.floor(math.log10(largest)), 0), 0) if largest > 0 else 4
    return min(max(1 - math.floor(math.log10(half)), 0), 6)


def fixed(value: float, digits: int) -> str:
    """The number to so many places, a true minus sign, no minus zero."""
    value = 0.0 if abs(value) < 0.5 * 10**-digits else value
    return f"{value:.{digits}f}".replace("-", "−")


def title(column: str) -> str:
    """A column's name for people."""
    return column.replace("_", " ")


def stem(column: str) -> str:
    """The name of the column that one of limits or p-values belongs to; any other column's own name."""
    for end in SIBLINGS:
        column = column.removesuffix(end)
    return column
