"""Class names: the order of class folders, and labels of one encoding as those of another, matched by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from calib_bench.errors import DataError


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts names as timm's readers do: numbers in them by value, letters without case.

    >>> sorted(["10", "9", "b1", "B10", "b2"], key=natural)
    ['9', '10', 'b1', 'b2', 'B10']
    """
    pieces = re.split(r"([0-9]+)", name.lower())
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], name


def matched(labels_N: np.ndarray, names: Sequence[str], reference: Sequence[str], where: str) -> np.ndarray:
    """Labels that index `names` as labels that index `reference`.

    Args:
        labels_N: int64 [N]. One that is no index of `names` stays as it is, for a later check to find.
        names: the classes as these labels count them.
        reference: the classes as the labels returned count them.
        where: what the labels are of, for people.

    Returns:
        int64 [N].

    Raises:
        DataError: the orders differ and a name is there twice, or a label's class is none of `reference`.
    """
    if tuple(names) == tuple(reference):
        return labels_N
    for sequence in (names, reference):
        if repeated := _repeated(sequence):
            raise DataError(
                f"The classes of {where} come in another order than those of the training split, and '{repeated}' is "
                "there twice, so that they cannot be matched by name. Give every class a name of its own."
            )
    place = {name: index for index, name in enumerate(reference)}
    index_K = np.array([place.get(name, -1) for name in names], dtype=np.int64)
    inside_N = (labels_N >= 0) & (labels_N < len(names))
    matched_N = labels_N.copy()
    matched_N[inside_N] = index_K[labels_N[inside_N]]
    if (lost_N := inside_N & (matched_N < 0)).any():
        name = names[labels_N[lost_N.argmax()]]
        raise DataError(f"{where} has a class '{name}' that the training split lacks, which has {listed(reference)}.")
    return matched_N


def listed(names: Sequence[str]) -> str:
    """The first of many names, for people."""
    return f"{', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"


def _repeated(names: Sequence[str]) -> str | None:
    """The first name that was there before, or None."""
    before: set[str] = set()
    return next((name for name in names if name in before or before.add(name)), None)  # type: ignore[func-returns-value]
