"""What a notebook holds as arrays: tensors, lists, masked arrays, data frames with names of rows and of classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest
from calib_bench.evaluation.formats import choose, from_torch, kind_of
from calib_bench.evaluation.labels import refuse_confidence, with_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

LONG = 200
"""Letters from which on a text is no name of a class, and a column of such is not read."""


@dataclass(frozen=True)
class Table:
    """The columns of a data frame that are classes, in order.

    Attributes:
        values: [N, K].
        labels: [N], which of the columns is right, from 0.
        kind: one of KINDS, None where no name says so.
        classes: the names of the columns, None where they are numbers from 0 or where there are none.
        numbered: whether labels were numbers although classes have names.
        notes: how names were matched.
    """

    values: Array
    labels: Array
    kind: str | None
    classes: tuple[str, ...] | None
    numbered: bool
    notes: tuple[str, ...]


# numbers


def local(values: Any) -> Any:
    """Tables and series of other libraries (Arrow, Polars) as those of pandas; an iterator as a list; others as is."""
    if isinstance(values, Iterator):
        return list(values)
    return values.to_pandas() if hasattr(values, "to_pandas") else values


def array(values: Any, name: str) -> Array:
    """Numbers or texts as an array, whatever holds them.

    Raises:
        DataError: they are no array, or some are masked or not there.
    """
    import torch

    if values is None:
        raise DataError(f"{name}: None is given where an array is expected")
    if isinstance(values, torch.Tensor):
        if values.is_meta:
            raise DataError(f"{name}: a tensor on the meta device holds no numbers: compute it on another")
        dense = values.detach().to_dense() if values.layout is not torch.strided else values.detach()
        return from_torch(dense.resolve_conj().resolve_neg().cpu())
    if isinstance(values, list | tuple) and any(isinstance(one, torch.Tensor) for one in values):
        values = [array(one, name).tolist() for one in values]
    try:
        converted = np.ma.getdata(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if converted.dtype.kind == "O":
            converted = np.asarray(converted.tolist())  # numbers or texts, as in columns of mixed types
    except (ValueError, TypeError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise DataError(f"{name}: {type(values).__name__} cannot be read as an array of numbers: {text}") from None
    if converted.dtype.kind == "O":
        raise DataError(f"{name}: some entries are missing, or of different kinds: expected numbers only")
    if isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any():
        i = int(np.ma.getmaskarray(values).reshape(len(values), -1).any(1).argmax())
        raise DataError(f"{name}: some numbers are masked, the first in row {i}: leave such rows out")
    if converted.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):  # of ml_dtypes, which JAX and others use
        converted = converted.astype(np.float32)
    return converted


# data frames


def holds_labels(values: Any, labels: Any) -> bool:
    """Whether these are predictions and labels together: a data frame, or arrays by name, as an open npz file."""
    if labels is not None and not isinstance(labels, str):
        return False
    return hasattr(values, "columns") or (
        isinstance(values, Mapping) and any(kind_of(str(name)) is not None for name in values)
    )


def table(values: Any, labels: Any, kind: str | None, name: str) -> Table:
    """Predictions and labels of one model, rows and classes matched by what names they have."""
    if holds_labels(values, labels):
        return _as_file(values, labels, kind, name)
    if labels is None or isinstance(labels, str):
        hint = f"{labels!r} names a column, and the predictions have none" if labels else "give an array [N]"
        raise DataError(f"{name}: labels are missing: {hint}")
    y, notes = _labels(values, labels, name)
    if not hasattr(values, "columns"):
        return Table(array(values, name), y, None, None, False, notes)
    chosen, names, of, aside = _class_columns([*values.columns], y, name)
    numbers = array(values if len(chosen) == len(values.columns) else values.iloc[:, chosen], name)
    notes = (*notes, *([f"not used: {', '.join(aside)}"] if aside else []))
    if numbers.ndim != 2:
        return Table(numbers, y, None, None, False, notes)
    order, y, classes, numbered, more = _classes(names, y, name)
    return Table(numbers[:, order], y, of, classes, numbered, (*notes, *more))


def _class_columns(columns: Sequence[Any], y: Array, name: str) -> tuple[list[int], list[Any], str | None, list[str]]:
    """Which columns are classes, by their names; what these say of the class and, if all do, of the kind; the others.

    Raises:
        DataError: the names of some columns say which class they are, and others' do not.
    """
    from calib_bench.evaluation.class_names import NO_CLASS, ROW_IDS, bare, class_of, label_words, plain

    words = set(map(str, y.ravel().tolist())) if y.dtype.kind in "UT" else set()
    names = [str(column) for column in columns]
    pairs = [class_of(text, label_words(names, words)) for text in names]
    aside = [
        k
        for k, text in enumerate(names)
        if text not in words and not (pairs[k] or kind_of(text)) and plain(text) in (*ROW_IDS, *NO_CLASS)
    ]
    chosen = [k for k in range(len(names)) if k not in aside]
    if not chosen:
        return [*range(len(names))], [*columns], None, []
    kinds = {of[0] for k in chosen if (of := pairs[k])}
    strange = [names[k] for k in chosen if pairs[k] is None]
    if kinds and strange:
        raise DataError(
            f"{name}: column {strange[0]!r} stands beside {next(names[k] for k in chosen if pairs[k])!r}, and its name "
            f"does not say which class it is: remove it, or name it as the others"
        )
    of_kind = {*kinds, *(kind_of(names[k]) for k in chosen if pairs[k] is None)}
    short = bare([names[k] for k in chosen]) if len({names[k] for k in chosen}) == len(chosen) and not kinds else {}
    classes = [of[1] if (of := pairs[k]) and isinstance(of[1], str) else columns[k] for k in chosen]
    if any(short[name] != name.strip() for name in short) and not words & set(names):
        classes = [*short.values()]
    return chosen, classes, next(iter(of_kind)) if len(of_kind) == 1 else None, [names[k] for k in aside]


def _as_file(held: Any, label: str | None, kind: str | None, name: str) -> Table:
    """A data frame, or arrays by name, with the labels among them, read as a file of the same would be."""
    from calib_bench.evaluation.class_names import named, stack

    framed = hasattr(held, "columns")
    names = list(held.columns) if framed else list(held)
    columns = {str(column): _column(held, column, f"{name}: {column!r}") for column in dict.fromkeys(names)}
    if len(columns) < len(names):
        raise DataError(f"{name}: two columns have the same name: rename or remove one")
    arrays, notes = with_labels(columns, name, label)
    if framed:
        refuse_confidence(arrays, name)
    stacked = stack(arrays, name, kind) if framed else named(arrays, name)
    content = choose(stacked.arrays, name, kind, [*notes, *stacked.notes])
    numbered = stacked.classes is not None and not stacked.by_name
    return Table(content.values, content.labels, content.kind, stacked.classes, numbered, content.notes)


def _column(held: Any, column: Any, name: str) -> Array:
    """A column as an array; a text that says what it is where it is neither numbers nor short texts."""
    try:
        values = held[column]
        texts = getattr(values, "dtype", None) in (object, "str")
        if texts and max((len(str(one)) for one in values), default=0) > LONG:
            return np.full(len(values), "is text")
        return array(values, name)
    except (DataError, ValueError) as error:  # numpy's is of objects in a file
        return np.array([str(error).removeprefix(f"{name}: ")])


def _labels(values: Any, labels: Any, name: str) -> tuple[Array, tuple[str, ...]]:
    """Labels in the order of the predictions' rows, by index where both have one that names rows."""
    import pandas as pd

    y = array(labels, f"{name}: labels")
    rows, label_index = getattr(values, "index", None), getattr(labels, "index", None)
    if not isinstance(label_index, pd.Index) or len(label_index) != len(values):
        return y, ()
    counted = pd.RangeIndex(len(label_index))
    if not isinstance(rows, pd.Index):
        shuffled = not label_index.equals(counted) and label_index.is_unique and label_index.isin(counted).all()
        return y, ("labels are taken in their order, not in that of their index",) if shuffled else ()
    if rows.equals(label_index):
        return y, ()
    same = rows.is_unique and label_index.is_unique and label_index.isin(rows).all()
    if rows.equals(counted) or label_index.equals(counted):
        if same:
            raise DataError(
                f"{name}: predictions and labels have the same index in different orders, and one of them only counts "
                f"rows: give labels.sort_index() if it names rows, labels.to_numpy() if their order is the predictions'"
            )
        return y, ()
    if not same:
        strange = label_index[~label_index.isin(rows)]
        what = f"{strange[0]!r} of the labels is none of the predictions'" if len(strange) else "names come twice"
        raise DataError(f"{name}: the indices of predictions and labels differ ({what}): take the same rows of both")
    return y[label_index.get_indexer(rows)], ("labels were matched to predictions by their index",)


def _classes(
    columns: Sequence[Any], y: Array, name: str
) -> tuple[list[int], Array, tuple[str, ...] | None, bool, tuple[str, ...]]:
    """Columns in the order of the classes; labels as positions in it; names; whether labels were numbers; notes."""
    from calib_bench.evaluation.class_names import positions, refuse_no_first

    K, texts = len(columns), y.dtype.kind in "UT"
    names = [str(column).strip() for column in columns]
    if len(set(names)) < K:
        raise DataError(f"{name}: two columns have the same name: rename or remove one")
    matches = [re.fullmatch(r"(.*?)[_ .]?(\d{1,7})(?:\.0)?", text) for text in names]
    numbers = [int(match[2]) for match in matches if match]
    if len(numbers) == K and len({match[1] for match in matches if match}) == 1 and not texts:
        return _numbered(numbers, names, y, name)
    if y.dtype.kind == "b" and sorted(map(str.lower, names)) == ["false", "true"]:
        return [0, 1], positions(y, tuple(names), name)[0], tuple(names), False, ()
    if not texts:
        shown = ", ".join(names[:10]) + (f"... {names[-1]}" if K > 10 else "")
        if K == 1:
            return [0], y, None, False, ()
        refuse_no_first(names, name)
        return list(range(K)), y, tuple(names), True, (f"classes 0 to {K - 1} are the columns {shown}",)
    place = {text: k for k, text in enumerate(names)}
    strange = next((str(label) for label in y.ravel() if str(label).strip() not in place), None)
    if strange is not None:
        raise DataError(f"{name}: the label {strange!r} is the name of no column: {nearest(strange, names)}")
    return list(range(K)), np.array([place[str(label).strip()] for label in y.ravel()]), tuple(names), False, ()


def _numbered(
    numbers: list[int], names: list[str], y: Array, name: str
) -> tuple[list[int], Array, tuple[str, ...] | None, bool, tuple[str, ...]]:
    """The same where columns have numbers."""
    K = len(numbers)
    order = sorted(range(K), key=numbers.__getitem__)
    if K == 1:
        if numbers == [0] and names != ["0"]:
            raise DataError(f"{name}: the only column, {names[0]!r}, is that of class 0: give that of class 1")
        return order, y, None, False, ()
    if sorted(numbers) == list(range(K)):
        notes = ("columns were put in the order of their numbers",) if order != list(range(K)) else ()
        return order, y, None, False, notes
    place = {numbers[k]: at for at, k in enumerate(order)}
    strange = next((label for label in np.unique(y).tolist() if label not in place), None)
    if strange is not None:
        raise DataError(
            f"{name}: the columns are {names[order[0]]!r} to {names[order[-1]]!r}, and none is that of label "
            f"{strange:g}: rename them, or give .to_numpy() if labels are positions"
        )
    notes = (f"classes are named by the numbers of their columns, {names[order[0]]} to {names[order[-1]]}",)
    positions = np.array([place[label] for label in y.ravel().tolist()])
    return order, positions, tuple(names[k] for k in order), False, notes


def reordered(held: Table, classes: tuple[str, ...], name: str) -> Table:
    """The table with its columns in the order of `classes`."""
    assert held.classes is not None
    if set(held.classes) != set(classes):
        strange = next(iter(set(held.classes) ^ set(classes)))
        raise DataError(
            f"{name}: columns differ from those of other predictions, as {strange!r}: give the same classes"
        )
    if held.numbered:
        raise DataError(
            f"{name}: its columns ({', '.join(held.classes[:5])}) come in another order than those of other "
            f"predictions ({', '.join(classes[:5])}) and labels are numbers: give labels by name, or one order"
        )
    order = [held.classes.index(text) for text in classes]
    place = np.array([classes.index(text) for text in held.classes])
    notes = (*held.notes, "columns were matched by their names")
    return Table(held.values[:, order], place[held.labels], held.kind, classes, False, notes)
