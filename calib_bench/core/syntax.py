"""The little language of the command line: `key=value` words, lists `a,b`, ranges `0..4`, `logspace(-2,1,7)`."""

from __future__ import annotations

import math
import re

from calib_bench.errors import SettingsError

_SPACE = re.compile(r"(logspace|linspace)\((.*)\)")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_LONGEST = 100_000


def split_word(word: str) -> tuple[str, str]:
    """`key=value` -> (key, value).

    Raises:
        SettingsError: there is no `=`, or nothing on one side of it.
    """
    key, equals, value = word.partition("=")
    if not equals:
        raise SettingsError(f"{word!r} is not a key=value word: write for example beta=0.1,1,10")
    if not key or not value.strip():
        side = "key" if not key else "value"
        raise SettingsError(f"{word!r} has no {side}: write key=value, without spaces around the equals sign")
    return key, value.strip()


def split_list(text: str) -> list[str]:
    """Split on commas outside parentheses.

    >>> split_list("1,logspace(-2,1,7),3")
    ['1', 'logspace(-2,1,7)', '3']
    """
    items, depth, start = [], 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            items.append(text[start:i])
            start = i + 1
    return [item.strip() for item in [*items, text[start:]]]


def expand(key: str, text: str) -> list[str]:
    """Every value that a list, range or spacing in `text` stands for, as text.

    >>> expand("seed", "0..2,7")
    ['0', '1', '2', '7']
    >>> expand("beta", "logspace(-1,1,3)")
    ['0.1', '1.0', '10.0']

    Raises:
        SettingsError: an item is empty, a range runs backwards, or a spacing is malformed.
    """
    values: list[str] = []
    for item in split_list(text):
        if not item:
            raise SettingsError(f"{key}={text} has an empty item: remove the extra comma")
        if match := _RANGE.fullmatch(item):
            low, high = int(match[1]), int(match[2])
            if high < low:
                raise SettingsError(
                    f"{key}={item} is an empty range: {low}..{high} runs backwards; write {high}..{low}"
                )
            if high - low >= _LONGEST:
                raise SettingsError(f"{key}={item} holds {high - low + 1:,} values; the most is {_LONGEST:,}")
            values.extend(str(i) for i in range(low, high + 1))
        elif match := _SPACE.fullmatch(item):
            values.extend(_spacing(key, match[1], match[2]))
        else:
            values.append(item)
    return values


def _spacing(key: str, name: str, inner: str) -> list[str]:
    form = f"{name}(start,stop,count)"
    try:
        start, stop, count = (part.strip() for part in inner.split(","))
        low, high, n = float(start), float(stop), int(count)
    except ValueError:
        raise SettingsError(f"{key}={name}({inner}) is malformed: write {form}, for example logspace(-2,1,7)") from None
    if not 1 <= n <= _LONGEST or not (math.isfinite(low) and math.isfinite(high)):
        raise SettingsError(f"{key}={name}({inner}): {form} needs finite ends and a count of 1 to {_LONGEST:,}")
    points = [low + (high - low) * i / max(n - 1, 1) for i in range(n)]
    if name == "linspace":
        return [repr(p) for p in points]
    if max(abs(low), abs(high)) > 300:
        raise SettingsError(f"{key}={name}({inner}): the ends are powers of ten, from -300 to 300")
    return [repr(float(f"{10.0**p:.10g}")) for p in points]
