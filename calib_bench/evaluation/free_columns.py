"""The classes among columns whose names say no kind of prediction: `class_0`, `x1`, `cat`, `dog_prob`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calib_bench.evaluation import Array
from calib_bench.evaluation.class_names import is_identifier, numbered, says_class, without_affixes
from calib_bench.evaluation.labels import texts_of
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import SUM_TO_ONE
from calib_bench.metrics import masks


@dataclass
class Family:
    """Class columns of one kind of prediction, by the number of their class or by its name."""

    numbered: dict[int, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """The columns, in the order in which they were added."""
        return [*self.numbered.values(), *self.named.values()]

    def add(self, number_or_name: int | str, column: str, origin: str) -> None:
        """Add the column of a class.

        Raises:
            DataError: the class has a column already.
        """
        columns: dict[Any, str] = self.numbered if isinstance(number_or_name, int) else self.named
        other = columns.setdefault(number_or_name, column)
        if other != column:
            raise Refusal.SAME_CLASS.of(origin, one=other, other=column)


def free_family(
    names: Sequence[str], columns: Mapping[str, Array], origin: str, kind: str, words: Collection[str]
) -> Family:
    """The class columns among some: those of one beginning with numbers, or else all.

    Args:
        kind: what the user says that they hold, one of `vocabulary.KINDS`.
        words: labels where they are texts: where all are names of columns, the columns are classes by their names.

    Raises:
        DataError: names do not tell which columns are classes.
    """
    short = without_affixes(names)
    labels_are_columns = bool(words) and set(words) <= set(short.values())
    if not labels_are_columns and not all(map(is_identifier, short.values())):
        series = _numbered_series(short, origin)
        if series:
            return _only_series(series, names, columns, origin)
    _refuse_whole_numbers(names, columns, origin, words)
    if kind not in SUM_TO_ONE:
        refuse_no_classes(short, columns, origin, columns["labels"])
    family = Family()
    for name in names:
        family.add(short[name], name, origin)
    return family


def _numbered_series(short: Mapping[str, str], origin: str) -> dict[str, Family]:
    """Columns that have one beginning and differ in the number behind it, two at least, by that beginning.

    Those whose beginning says that they are classes go before others.
    """
    series: dict[str, Family] = {}
    for name, text in short.items():
        prefix, number = numbered(text)
        if number is not None:
            series.setdefault(prefix, Family()).add(number, name, origin)
    several = {prefix: family for prefix, family in series.items() if len(family.members) > 1}
    classes = {prefix: family for prefix, family in several.items() if says_class(prefix)}
    return classes or several


def _only_series(
    series: Mapping[str, Family], names: Sequence[str], columns: Mapping[str, Array], origin: str
) -> Family:
    """The only series of numbered columns, if no other column may be a class."""
    firsts = [family.members[0] for family in series.values()]
    if len(series) > 1:
        raise Refusal.SEVERAL_SERIES.of(origin, names=" and ".join(map(repr, firsts)))
    (prefix, family), *_ = series.items()
    others = [name for name in names if name not in family.members and columns[name].dtype.kind == "f"]
    if others and not says_class(prefix):
        problem = f"stands beside columns with numbers, {firsts[0]!r}"
        raise Refusal.DOUBTFUL.of(origin, name=others[0], problem=problem)
    return family


def _holds_whole_numbers(values: Array) -> bool:
    """Whether a column holds integers other than 0 and 1."""
    return values.dtype.kind in "iu" and not set(np.unique(values)) <= {0, 1}


TOO_MANY = "would be class {last}, the label of no row, as if one column too many were taken"


def refuse_no_classes(short: Mapping[str, str], columns: Mapping[str, Array], origin: str, labels: Array) -> None:
    """Refuse columns of logits that are no class by their numbers.

    Of three columns at least, as there are two classes. Probabilities need no such rule: their rows sum to one.

    Args:
        short: the class that each column may be, by the column.
        columns: [N] each, by name.
        labels: [N], names of classes or, as numbers, their positions.

    Raises:
        DataError: a column that is no label is of another range than the others, or often the largest.
    """
    if len(short) < 3:
        return
    words, names = texts_of(labels), [*short.values()]
    _refuse_other_range(short, columns, origin, words)
    present = words or {names[place] for place in _places(labels, len(names))}
    if present == set(names[:-1]) and not words and len(labels) >= LEAST_ROWS * len(names):
        raise Refusal.DOUBTFUL.of(origin, name=[*short][-1], problem=TOO_MANY.format(last=len(names) - 1))
    if present and present <= set(names):
        _refuse_never_right(short, columns, origin, present)


def _places(labels: Array, K: int) -> list[int]:
    """Which of K columns numbers name as labels; none where others occur, or one alone, as of rows without labels."""
    places = np.unique(labels).tolist() if labels.ndim == 1 else []
    return [*map(int, places)] if len(places) > 1 and set(places) <= set(range(K)) else []


FARTHER = 10.0
"""How many times as far from zero as those of all others a column's numbers are where it is no class."""


def _refuse_other_range(
    short: Mapping[str, str], columns: Mapping[str, Array], origin: str, words: Collection[str]
) -> None:
    """Raises DataError where a column's numbers are of another range than the others', and no label is its name."""
    sizes = {name: _size(columns[name]) for name in short}
    for name, size in sizes.items():
        others = max((other for text, other in sizes.items() if text != name), default=0.0)
        if short[name] not in words and size > FARTHER * others > 0:
            problem = f"holds numbers about {size:.3g} and the others about {others:.3g} at most"
            raise Refusal.DOUBTFUL.of(origin, name=name, problem=problem)


MOST_ROWS = 0.05
LEAST_ROWS = 20
"""A class that is the prediction of so many rows, of so large a share and half of what chance gives, has a label."""


def _refuse_never_right(
    short: Mapping[str, str], columns: Mapping[str, Array], origin: str, present: Collection[str]
) -> None:
    """Raises DataError where a column would be the prediction of many rows and is the label of none.

    Args:
        present: the classes that are the label of some row.
    """
    if any(columns[name].dtype.kind not in "fiu" or columns[name].ndim != 1 for name in short):
        return
    values = np.stack([columns[name] for name in short], 1)
    values = values[values.min(1) < values.max(1)]  # where all are alike, none is the prediction
    largest = values == values.max(1, keepdims=True)
    for k, name in enumerate(short):
        rows = int(largest[:, k].sum())
        share = max(MOST_ROWS, 0.5 / len(short))
        if short[name] not in present and rows >= max(LEAST_ROWS, share * len(largest)):
            problem = f"is the largest in {rows:,} of {len(largest):,} rows and the label of none"
            raise Refusal.DOUBTFUL.of(origin, name=name, problem=problem)


def _size(values: Array) -> float:
    """The median distance from zero of a column's numbers, without those that stand for classes not offered."""
    if values.dtype.kind not in "fiu" or values.ndim != 1:
        return 0.0
    offered = values[np.isfinite(values) & (values > masks.SHALLOWEST)]
    return float(np.median(np.abs(offered))) if len(offered) else 0.0


def _refuse_whole_numbers(
    names: Sequence[str], columns: Mapping[str, Array], origin: str, words: Collection[str]
) -> None:
    """Raises DataError where a column of whole numbers that is no label stands among columns that hold others."""
    unlabelled = [name for name in names if name.strip() not in words]
    whole_numbers = [name for name in unlabelled if _holds_whole_numbers(columns[name])]
    if 0 < len(whole_numbers) < len(names):
        raise Refusal.DOUBTFUL.of(origin, name=whole_numbers[0], problem="holds whole numbers and the others do not")
