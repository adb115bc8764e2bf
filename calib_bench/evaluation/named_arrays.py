"""Labels and predictions of a file by name, and what the file says of classes and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calib_bench.errors import DataError
from calib_bench.evaluation import Array
from calib_bench.evaluation.class_names import is_count, shown
from calib_bench.evaluation.labels import is_note, positions
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import CLASS_NAMES, kind_of, names_rows, plain


@dataclass(frozen=True)
class NamedArrays:
    """Labels and predictions by name.

    Attributes:
        arrays: `labels`, and the predictions by a name that says their kind.
        notes: what a reader should know of the choice.
        classes: the classes' names in order; None where they only have numbers.
        by_name: whether labels were read by the classes' names, so that the order of columns says nothing.
        ids: columns that name the rows, [N] each, by their names.
    """

    arrays: Mapping[str, Array]
    notes: list[str]
    classes: tuple[str, ...] | None = None
    by_name: bool = False
    ids: Mapping[str, Array] = field(default_factory=dict)


def read_named_arrays(arrays: Mapping[str, Array], origin: str) -> NamedArrays:
    """Whole arrays of a file, with the names of classes and rows that other arrays of the file hold.

    Args:
        arrays: `labels` and others.

    Raises:
        DataError: the classes' names do not fit the predictions, or a label is none of them.
    """
    ids, class_names = _names_in(arrays)
    if class_names is None or class_names.ndim != 1:
        return NamedArrays(arrays, [], ids=ids)
    kept = {name: arrays[name] for name in arrays if name == "labels" or kind_of(name)}
    class_names = _without_decimals(class_names)
    classes = tuple(map(str, class_names.tolist()))
    K = _check_count(classes, kept, origin)
    numbers = class_names.dtype.kind in "iu" or _are_named_by_text(kept["labels"], classes, origin)
    if class_names.dtype.kind in "iu" and class_names.tolist() == list(range(K)):
        return NamedArrays(kept, [], ids=ids)
    kept["labels"], by_name = positions(kept["labels"], classes, origin, numbers)
    note = f"the file names the classes: {shown(classes)}"
    if not by_name:
        note += f"; labels are numbers, of which 0 is {classes[0]} and {K - 1} is {classes[-1]}"
    return NamedArrays(kept, [note], classes, by_name, ids)


def _are_named_by_text(labels: Array, classes: Sequence[str], origin: str) -> bool:
    """Whether numeric labels are among the classes' names, which are texts of numbers, rather than positions.

    Raises:
        DataError: they may be either, as where the names are sorted by their letters, 0, 1, 10, 2.
    """
    if labels.dtype.kind not in "iuf" or not all(map(is_count, classes)):
        return False
    numbers, places, present = [*map(int, classes)], [*range(len(classes))], set(np.unique(labels).tolist())
    if numbers != places and present <= set(numbers) & set(places):
        raise Refusal.NAMES_OR_POSITIONS.of(origin, classes=shown(classes))
    return present <= set(numbers)


def _without_decimals(values: Array) -> Array:
    """Whole numbers kept as floats as integers; other values as they are."""
    is_whole = values.dtype.kind == "f" and bool((values == np.floor(values)).all())
    return values.astype(np.int64) if is_whole else values


def _check_count(classes: tuple[str, ...], arrays: Mapping[str, Array], origin: str) -> int:
    """The number of classes of the first predictions [N, K]; 2 where all are [N] or [N, 1].

    Raises:
        DataError: there are not as many different names.
    """
    counts = [values.shape[1] for name, values in arrays.items() if name != "labels" and values.ndim == 2]
    K = max(counts[0], 2) if counts else 2
    if len(classes) != K or len(set(classes)) < K:
        raise Refusal.CLASS_COUNT.of(origin, number=len(set(classes)), K=K)
    return K


def _names_in(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], Array | None]:
    """Arrays that name the rows, by their names, and the array that names the classes, if any."""
    ids: dict[str, Array] = {}
    class_names: Array | None = None
    for name in arrays:
        if name == "labels" or kind_of(name) or not (plain(name) in CLASS_NAMES or names_rows(name)):
            continue
        try:
            values = arrays[name]
        except DataError:  # pickled objects, which are never read: as good as not there
            continue
        if plain(name) in CLASS_NAMES:
            class_names = values
        elif values.ndim == 1 and not is_note(values):
            ids[name] = values
    return ids, class_names
