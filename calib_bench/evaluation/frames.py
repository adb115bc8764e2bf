"""What a notebook holds as arrays: tensors, lists, masked arrays, data frames with names of rows and of classes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from unicodedata import normalize

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from calib_bench.errors import DataError, nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import decoded, from_torch
from calib_bench.evaluation.class_names import (
    MOVED,
    KindAndClass,
    by_column_numbers,
    by_label,
    by_position,
    class_of,
    is_summary,
    label_words,
    numbers_in,
    without_affixes,
)
from calib_bench.evaluation.dialects import is_number
from calib_bench.evaluation.formats import Content, content_of, with_slices
from calib_bench.evaluation.free_columns import refuse_no_classes
from calib_bench.evaluation.labels import outcome_of, positions, refuse_no_first, texts_of
from calib_bench.evaluation.refusals import Refusal, refuse_repeated
from calib_bench.evaluation.slices import slices_of, text_of
from calib_bench.evaluation.text_tables import LONGEST
from calib_bench.evaluation.vocabulary import ANSWER, SUM_TO_ONE, UNORDERED, kind_of, not_used, says_something_else

# numbers


def local(values: Any) -> Any:
    """Tables and series of other libraries (Arrow, Polars), and lists of rows by name, as those of pandas.

    An iterator becomes a list; what else there is stays as it is.
    """
    values = list(values) if isinstance(values, Iterator) else values
    if isinstance(values, list | tuple) and len(values) and all(rows := [_row(one) for one in values]):
        frame = pd.DataFrame(rows).sort_index(axis=1, key=lambda names: names.map(str))
        frame.attrs[UNORDERED] = True
        return frame
    return values.to_pandas() if hasattr(values, "to_pandas") else values


def order_notes(values: Any) -> tuple[str, ...]:
    """UNORDERED of a data frame that `local` made of rows by name."""
    return (UNORDERED,) if getattr(values, "attrs", {}).get(UNORDERED) else ()


def _row(values: Any) -> Mapping[str, Any]:
    """A row by name: a mapping, or what a pipeline gives of all classes, [{"label": "a", "score": 1}, ...]; else none.

    Raises:
        DataError: it is the most probable class alone.
    """
    if isinstance(values, Mapping):
        if set(values) == ANSWER:
            raise Refusal.TOP_ALONE.of("the predictions")
        return values
    if isinstance(values, list) and values and isinstance(values[0], Mapping) and set(values[0]) == ANSWER:
        return by_label(values, "the predictions")
    return {}


def array(values: Any, name: str) -> Array:
    """Numbers or texts as an array, whatever holds them.

    Args:
        name: what they are, for errors.

    Raises:
        DataError: they are no array, or some are masked or missing.
    """
    if values is None:
        raise Refusal.NO_ARRAY.of(name)
    if isinstance(values, torch.Tensor):
        return _from_tensor(values, name)
    if isinstance(values, list | tuple) and any(isinstance(one, torch.Tensor) for one in values):
        values = [array(one, name).tolist() for one in values]
    converted = _converted(values, name)
    if isinstance(values, np.ma.MaskedArray) and (masked := np.ma.getmaskarray(values)).any():
        raise Refusal.MASKED.of(name, row=int(masked.reshape(len(values), -1).any(1).argmax()))
    if converted.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):  # of ml_dtypes, which JAX and others use
        converted = converted.astype(np.float32)
    return converted


def _from_tensor(tensor: Tensor, name: str) -> Array:
    if tensor.is_meta:
        raise Refusal.META.of(name)
    tensor = tensor.detach()
    dense = tensor if tensor.layout is torch.strided else tensor.to_dense()
    return from_torch(dense.resolve_conj().resolve_neg().cpu())


def _converted(values: Any, name: str) -> Array:
    """What numpy makes of values, if it is numbers or texts."""
    try:
        converted = np.ma.getdata(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
        if converted.dtype.kind == "O":
            converted = np.asarray(converted.tolist())  # numbers or texts, as in columns of mixed types
        converted = decoded(converted)
    except (ValueError, TypeError, RuntimeError) as error:
        text = " ".join(str(error).split())[:200]
        raise Refusal.NOT_AN_ARRAY.of(name, type=type(values).__name__, error=text) from None
    if converted.dtype.kind == "O":
        raise Refusal.OBJECTS.of(name)
    return converted


# data frames


def holds_labels(values: Any, labels: Any) -> bool:
    """Whether these are predictions and labels together: a data frame, or arrays by name, as an open npz file."""
    if labels is not None and not isinstance(labels, str):
        return False
    return hasattr(values, "columns") or (
        isinstance(values, Mapping) and any(kind_of(str(name)) is not None for name in values)
    )


def table(values: Any, labels: Any, kind: str | None, name: str, groups: Any = None) -> Content:
    """Predictions, labels and slices of one model, rows and classes matched by their names; see `_table`.

    Args:
        groups: the slice of each row, [N], or the name of a column of `values`; None where there are none.

    Raises:
        DataError: there is no such column, or its values can be no slices.
    """
    if groups is None:
        return _table(values, labels, kind, name)
    if isinstance(groups, str) and holds_labels(values, labels):
        return _as_file(values, labels, kind, name, groups)
    if isinstance(groups, str):
        values, groups = _apart(values, groups, name)
    content = _table(values, labels, kind, name)
    texts, notes = _in_order(values, _filled(groups), name, "groups")
    slices, _ = slices_of({"groups": texts}, "groups", name)
    return with_slices(replace(content, notes=(*content.notes, *notes)), slices, name)


def _apart(values: Any, column: str, name: str) -> tuple[Any, Any]:
    """A data frame without a column, and that column."""
    if not hasattr(values, "columns"):
        raise Refusal.NO_COLUMNS.of(name, groups=column)
    if column not in values.columns:
        raise Refusal.NO_SUCH_GROUPS.of(name, groups=column, hint=nearest(column, map(str, values.columns)))
    return values.drop(columns=column), values[column]


def _filled(groups: Any) -> Any:
    """Slices as texts, an empty one where none is known; tensors, and what does not hold one a row, as they are."""
    if isinstance(groups, pd.Series):
        return groups.astype(object).where(groups.notna(), "").map(text_of)
    return _filled(pd.Series(groups)).to_numpy() if _is_row(groups) else groups


def _is_row(values: Any) -> bool:
    """Whether these are values in a row that pandas takes for a series."""
    return isinstance(values, pd.Categorical | list | tuple) or (isinstance(values, np.ndarray) and values.ndim == 1)


def _table(values: Any, labels: Any, kind: str | None, name: str) -> Content:
    """Predictions and labels of one model, rows and classes matched by their names.

    Args:
        labels: [N]; the name of the labels where `values` holds them, None to find them by a usual name.
        kind: what columns hold whose names say no kind, where `values` holds labels; one of KINDS.
        name: of the model, for errors.

    Raises:
        DataError: labels are missing, or names do not tell which column is of which class.
    """
    if holds_labels(values, labels):
        return _as_file(values, labels, kind, name)
    if labels is None or isinstance(labels, str):
        hint = f"{labels!r} names a column, and the predictions have none" if labels else "give an array [N]"
        raise Refusal.LABELS_MISSING.of(name, hint=hint)
    y, notes = _in_order(values, labels, name, "labels")
    if not hasattr(values, "columns"):
        return Content(array(values, name), positions(y, None, name)[0], notes=notes)
    chosen = _class_columns([*values.columns], y, name)
    all_columns = len(chosen.places) == len(values.columns)
    numbers = array(values if all_columns else values.iloc[:, chosen.places], name)
    notes = (*notes, *not_used(chosen.aside))
    if numbers.ndim != 2:
        return Content(numbers, y, notes=notes)
    content = _ordered(numbers, chosen.classes, y, name)
    if chosen.kind is None:
        _refuse_no_classes(content, kind, name, y)
    return replace(content, kind=chosen.kind or "logits", notes=(*notes, *content.notes))


def _refuse_no_classes(content: Content, kind: str | None, name: str, labels: Array) -> None:
    """Raises DataError where a column whose name is no number is no class by its numbers."""
    if kind not in SUM_TO_ONE and content.classes is not None and numbers_in(content.classes) is None:
        columns = dict(zip(content.classes, content.values.T, strict=True))
        refuse_no_classes({text: text for text in content.classes}, columns, name, labels)


@dataclass(frozen=True)
class _ClassColumns:
    """The columns of a data frame that are classes.

    Attributes:
        every: all columns of the data frame.
        chosen: those that are classes.
        classes: what each of these says of its class: a name, or the column's own.
    """

    every: list[_Column]
    chosen: list[_Column]
    classes: list[Any]

    @property
    def places(self) -> list[int]:
        """Positions of the classes among all columns."""
        return [column.place for column in self.chosen]

    @property
    def kind(self) -> str | None:
        """The kind of prediction that all of them say; None where they say none, or several."""
        kinds = {column.kind for column in self.chosen}
        return kinds.pop() if len(kinds) == 1 else None

    @property
    def aside(self) -> list[str]:
        """Names of the other columns."""
        return [column.name for column in self.every if column not in self.chosen]


def _class_columns(columns: Sequence[Any], y: Array, name: str) -> _ClassColumns:
    """Tell the columns that are classes by their names.

    Raises:
        DataError: the names of some columns say which class they are, and others' do not.
    """
    words = texts_of(y)
    every = _columns(columns, words)
    chosen = [column for column in every if column.may_be_class(words)]
    if not chosen:
        return _ClassColumns(every, every, [*columns])
    _refuse_mixed(chosen, name)
    classes = [column.class_name for column in chosen]
    if numbers_in([*map(str, classes)]) is None:  # names, or numbers of which some are below zero
        classes = [column.name_or_number for column in chosen]
    if chosen[0].pair is None and words.isdisjoint(column.name for column in every):
        classes = _without_affixes([column.name for column in chosen]) or classes
    return _ClassColumns(every, chosen, classes)


def _columns(labels: Sequence[Any], words: Collection[str]) -> list[_Column]:
    """Columns by what a data frame calls them.

    Args:
        words: labels where they are texts.
    """
    names = [normalize("NFC", str(label)) for label in labels]
    label_names = label_words(names, words)
    return [
        _Column(k, label, name, class_of(name, label_names))
        for k, (label, name) in enumerate(zip(labels, names, strict=True))
    ]


class _Column(NamedTuple):
    """A column of a data frame: its place, what the frame calls it, that as text, the kind and class it says."""

    place: int
    label: Any
    name: str
    pair: KindAndClass | None

    @property
    def kind(self) -> str | None:
        """The kind of prediction that the name says, if any."""
        return self.pair[0] if self.pair else kind_of(self.name)

    @property
    def class_name(self) -> Any:
        """The class's name where the column's name says one; else the column's."""
        return self.name_or_number if isinstance(self.name_or_number, str) else self.label

    @property
    def name_or_number(self) -> Any:
        """The class's name or number where the column's name says one; else the column's name."""
        return self.pair[1] if self.pair else self.label

    def may_be_class(self, words: Collection[str]) -> bool:
        """Whether the name is that of a label, or not that of something else than a class."""
        return (
            self.name in words or self.kind is not None or not (says_something_else(self.name) or is_summary(self.name))
        )


def _without_affixes(names: Sequence[str]) -> list[Any]:
    """Each column's class where all names say the same beside it, as `cat` of `cat_prob`; else nothing."""
    short = without_affixes(names)
    same_name_twice = len(short) < len(names)
    if same_name_twice or all(short[text] == text.strip() for text in names):
        return []
    return [*short.values()]


def _refuse_mixed(columns: Sequence[_Column], name: str) -> None:
    """Raises DataError where some columns' names say which class they are, and others' do not."""
    telling = [column.name for column in columns if column.pair is not None]
    strange = [column.name for column in columns if column.pair is None]
    if telling and strange:
        raise Refusal.MIXED_COLUMNS.of(name, strange=strange[0], telling=telling[0])


def _as_file(held: Any, label: str | None, kind: str | None, name: str, groups: str | None = None) -> Content:
    """A data frame, or arrays by name, with the labels among them, read as a file of the same would be."""
    framed = hasattr(held, "columns")
    names = list(held.columns) if framed else list(held)
    columns = {
        normalize("NFC", str(column)): _column(held, column, f"{name}: {column!r}") for column in dict.fromkeys(names)
    }
    refuse_repeated(map(str, names), name, "column")
    return content_of(columns, name, kind, label, is_table=framed, groups=groups)


def _column(held: Any, column: Any, name: str) -> Array:
    """A column as an array; a text that says what it is where it is neither numbers nor short texts."""
    try:
        values = held[column]
        texts = getattr(values, "dtype", None) in (object, "str")
        if texts and max((len(str(one)) for one in values), default=0) > LONGEST:
            return np.full(len(values), "is text")
        return array(values, name)
    except (DataError, ValueError) as error:  # numpy's is of objects in a file
        return np.array([str(error).removeprefix(f"{name}: ")])


def _in_order(values: Any, labels: Any, name: str, what: str) -> tuple[Array, tuple[str, ...]]:
    """Labels, or what else there is of each row, in the order of the predictions' rows: by index where both have one
    that names rows; and notes."""
    y = array(labels, f"{name}: {what}")
    rows, label_index = getattr(values, "index", None), getattr(labels, "index", None)
    if not isinstance(label_index, pd.Index) or len(label_index) != len(values):
        return y, ()
    if not isinstance(rows, pd.Index):
        shuffled = _is_shuffled(label_index)
        return y, (f"{what} are taken in their order, not in that of their index",) if shuffled else ()
    if rows.equals(label_index) or not _name_the_same_rows(rows, label_index, name):
        return y, ()
    return y[label_index.get_indexer(rows)], (f"{what} were matched to predictions by their index",)


def _name_the_same_rows(rows: pd.Index, label_index: pd.Index, name: str) -> bool:
    """Whether two different indices name the same rows; not where one of them only counts.

    Raises:
        DataError: they name other rows, or it cannot be told whether they name rows.
    """
    same = rows.is_unique and label_index.is_unique and bool(label_index.isin(rows).all())
    one_counts = _only_counts(rows) or _only_counts(label_index)
    if one_counts and same:
        raise Refusal.ONE_COUNTS.of(name)
    if not same and not one_counts:
        strange = label_index[~label_index.isin(rows)]
        what = f"{strange[0]!r} of the labels is none of the predictions'" if len(strange) else "names come twice"
        raise Refusal.OTHER_INDEX.of(name, what=what)
    return same


def _only_counts(index: pd.Index) -> bool:
    """Whether an index counts rows from 0."""
    return bool(index.equals(pd.RangeIndex(len(index))))


def _is_shuffled(index: pd.Index) -> bool:
    """Whether an index holds the numbers of rows in another order."""
    return not _only_counts(index) and index.is_unique and bool(index.isin(pd.RangeIndex(len(index))).all())


def _ordered(values: Array, columns: Sequence[Any], y: Array, name: str) -> Content:
    """Class columns in the order of their numbers if labels are numbers, else as they are, labels read by their names.

    Args:
        values: [N, K].
        columns: [K], what each column says of its class.

    Raises:
        DataError: two columns are of one class, or a label is of none.
    """
    K, texts = len(columns), y.dtype.kind in "UT"
    classes = tuple(normalize("NFC", str(column)).strip() for column in columns)
    refuse_repeated(classes, name, "column")
    numbers = numbers_in(classes)
    if numbers and not texts:
        return _by_number(values, numbers, classes, y, name)
    are_labels = all(map(is_number, classes))  # as -1, 0 and 1, which are no places
    labels, by_name = positions(y.ravel().astype(object) if texts else y, classes, name, are_labels)
    if by_name:
        return Content(values, labels, classes=classes, by_name=True)
    if K == 1:
        return _of_one_column(values, outcome_of(classes[0]), classes[0], y, name)
    refuse_no_first(classes, name)
    return Content(values, y, classes=classes, notes=(by_position(classes),))


def _of_one_column(values: Array, outcome: int | None, column: str, y: Array, name: str) -> Content:
    """A single column, of class 1; raises DataError where it says that it is of the other."""
    if outcome == 0:
        raise Refusal.CLASS_0.of(name, name=column)
    return Content(values, y)


def _by_number(values: Array, numbers: Sequence[int], names: Sequence[str], y: Array, name: str) -> Content:
    """Columns in the order of their numbers, which labels are."""
    K = len(numbers)
    order = sorted(range(K), key=numbers.__getitem__)
    first, last = names[order[0]], names[order[-1]]
    if K == 1:
        return _of_one_column(values, None if first == "0" else numbers[0], first, y, name)
    if sorted(numbers) == list(range(K)):
        moved = order != list(range(K))
        return Content(values[:, order], y, notes=(MOVED,) if moved else ())
    strange = next((label for label in np.unique(y).tolist() if label not in numbers), None)
    if strange is not None:
        raise Refusal.NO_COLUMN_OF_LABEL.of(name, first=first, last=last, label=strange)
    labels, classes = np.searchsorted(sorted(numbers), y.ravel()), tuple(names[k] for k in order)
    return Content(values[:, order], labels, classes=classes, by_name=True, notes=(by_column_numbers(first, last),))
