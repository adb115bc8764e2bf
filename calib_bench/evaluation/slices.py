"""Slices: the column of a file by whose values examples are parted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calib_bench.errors import nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import LazyArrays
from calib_bench.evaluation.class_names import class_of
from calib_bench.evaluation.labels import is_note
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import LABELS, kind_of, letters

MOST = 50
"""Slices at most: a column of more values names rows, or must be put together first."""
EMPTY = "(empty)"


def slices_of(arrays: Mapping[str, Array], groups: str, origin: str) -> tuple[Array, Mapping[str, Array]]:
    """The slice of each row as text [N], by a column, and the other columns.

    Args:
        groups: the column's name, as the user gives it.

    Raises:
        DataError: there is no such column, or its values can be no slices.
    """
    name = _named(arrays, groups, origin)
    values = arrays[name]
    if values.ndim != 1 or is_note(values):
        what = str(values.flat[0]) if is_note(values) else f"an array of shape {values.shape}"
        raise Refusal.GROUPS_SHAPE.of(origin, name=name, what=what)
    texts = np.array([text_of(value) for value in values.tolist()], dtype=object)
    different = sorted(set(texts.tolist()))
    if len(different) > MOST:
        raise Refusal.GROUPS_MANY.of(origin, name=name, number=len(different), most=MOST)
    if len(different) == 1:
        raise Refusal.GROUPS_ONE.of(origin, name=name, value=different[0])
    return texts, LazyArrays([other for other in arrays if other != name], arrays.__getitem__)


def _named(arrays: Mapping[str, Array], groups: str, origin: str) -> str:
    """The name, among those of the arrays, that the user gave, if it is not that of labels or predictions."""
    names = [name for name in arrays if name == groups] or [name for name in arrays if letters(name) == letters(groups)]
    if len(names) != 1:
        raise Refusal.NO_SUCH_GROUPS.of(origin, groups=groups, hint=nearest(groups, arrays))
    if letters(names[0]) in map(letters, LABELS):
        raise Refusal.GROUPS_ARE_LABELS.of(origin, name=names[0])
    if kind_of(names[0]) is not None or class_of(names[0]) is not None:
        raise Refusal.GROUPS_ARE_PREDICTIONS.of(origin, name=names[0])
    return names[0]


def text_of(value: object) -> str:
    """A value as the name of a slice; whole numbers without decimals."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return EMPTY if np.isnan(value) else f"{value:g}"
    return str(value).strip() or EMPTY
