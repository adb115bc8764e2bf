"""Labels as positions among the classes, read by the classes' names where labels are texts or such numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest
from calib_bench.evaluation.class_names import is_count, shown
from calib_bench.evaluation.vocabulary import plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

_YES = ("yes", "y", "true", "t", "pos", "positive")
_NO = ("no", "n", "false", "f", "neg", "negative")


def texts_of(labels: Array | None) -> set[str]:
    """The distinct labels where they are texts; nothing where they are numbers or None."""
    if labels is None or labels.dtype.kind not in "OU":
        return set()
    return set(map(str, labels.tolist()))


def is_note(values: Array) -> bool:
    """Whether an array stands for a column that could not be read as numbers, and says why."""
    return values.dtype.kind == "U" and len(set(values.ravel()[:1000].tolist())) == 1 and " " in str(values.flat[0])


def positions(labels: Array, classes: tuple[str, ...] | None, origin: str, numbers: bool = False) -> tuple[Array, bool]:
    """Labels as positions among the classes, and whether they were read by name.

    Args:
        labels: [N] texts, numbers or booleans. Numbers are positions already, unless `numbers` says otherwise.
        classes: names in the order of the predictions' columns; None where they have none.
        numbers: the names are numbers, and numeric labels are such names.

    Raises:
        DataError: a label is the name of no class.
    """
    texts = labels.dtype.kind in "OU" and not is_note(labels)
    if classes is None:
        return (labels.astype(np.int64) if texts and _are_counts(labels) else labels), False
    if labels.dtype.kind == "b" and sorted(map(plain, classes)) == ["false", "true"]:
        place_of_true = [plain(name) for name in classes].index("true")
        return np.where(labels, place_of_true, 1 - place_of_true), True
    if labels.ndim != 1 or not (texts or numbers):
        return labels, False
    words = [str(label).strip() if texts else f"{label:.10g}" for label in labels.tolist()]
    return _places(words, classes, origin), True


def _are_counts(labels: Array) -> bool:
    """Whether labels are one text a row, all of them whole numbers."""
    return labels.ndim == 1 and all(is_count(str(label)) for label in labels.tolist())


def _places(words: Sequence[str], classes: Sequence[str], origin: str) -> Array:
    place = {name: k for k, name in enumerate(classes)}
    strange = next((word for word in words if word not in place), None)
    if strange is not None:
        raise DataError(
            f"{origin}: the label {strange!r} is the name of no class ({shown(classes)}): {nearest(strange, classes)}"
        )
    return np.array([place[word] for word in words])


def refuse_no_first(classes: Sequence[str], origin: str) -> None:
    """Raises DataError where labels are numbers and class 0 would be "yes", class 1 "no", by the order of columns."""
    if len(classes) != 2:
        return
    first, second = map(plain, classes)
    negations = {f"no_{first}", f"not_{first}", f"non_{first}", f"non{first}", f"not{first}"}
    if second in negations or (first in _YES and second in _NO):
        raise DataError(
            f"{origin}: the columns are {shown(classes)}, in this order, and labels are numbers, of which 1 usually "
            f"means {classes[0]!r}: give labels by name, or call the columns by the labels' numbers, prob_0, prob_1"
        )
