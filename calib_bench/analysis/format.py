"""Numbers and intervals as text for people, and the names of columns that belong together."""

from __future__ import annotations

import math
import numbers

ALPHA = 0.05
SIBLINGS = ("_low", "_high", "_p", "_holm")
"""Ends of the names of a column's limits and p-values."""


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
    """A mean with its interval, to two significant digits of the interval's half width; of positive numbers far apart,
    each to two of its own.

    >>> estimate(0.14412, 0.1302, 0.158), estimate(0.31, 0.0123, 104.0)
    ('0.144 [0.130, 0.158]', '0.31 [0.012, 100]')
    """
    if not (math.isfinite(mean) and math.isfinite(low) and math.isfinite(high)):
        return number(mean)
    if 0 < 30 * low < high:
        mean, low, high = (float(f"{v:.2g}") for v in (mean, low, high))
        return f"{mean:g} [{low:g}, {high:g}]".replace("-", "−")
    digits = places(low, high)
    return f"{fixed(mean, digits)} [{fixed(low, digits)}, {fixed(high, digits)}]"


def places(low: float, high: float) -> int:
    """Decimal places that give an interval's half width two significant digits, at most 6; 4 where it has no width."""
    half = (high - low) / 2
    return min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 4


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
