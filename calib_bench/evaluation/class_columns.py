"""Columns of a table as predictions: which columns are the classes, and in which order.

Names decide. Numbered columns (`logit_0`, `prob_class_3`, `class_10`) are put in the order of their numbers. Named
columns (`cat`, `prob_dog`) keep their names, by which labels are read and other files matched. A column whose name says
that it is no class (`sample_id`, `fold`, `pred`) never becomes one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calib_bench.evaluation import Array
from calib_bench.evaluation.class_names import (
    MOVED,
    by_column_numbers,
    by_position,
    class_of,
    is_summary,
    label_words,
    may_summarize,
    numbers_in,
    shown,
)
from calib_bench.evaluation.dialects import is_number, not_numbers
from calib_bench.evaluation.free_columns import Family, free_family
from calib_bench.evaluation.labels import is_note, outcome_of, positions, refuse_no_first, texts_of
from calib_bench.evaluation.named_arrays import NamedArrays
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import (
    NO_CLASS,
    ROW_TEXTS,
    SUM_TO_ONE,
    kind_of,
    names_rows,
    not_used,
    plain,
    says_something_else,
)


@dataclass
class _Roles:
    """Names of a table's columns, without the labels, by what the names say.

    Attributes:
        whole: names of columns that hold predictions of all classes, as `logits` or `score`.
        families: columns of one class each, by the kind of prediction.
        unknown: names that say nothing.
        aside: names that say that their column holds something else, as `fold`.
    """

    whole: list[str] = field(default_factory=list)
    families: dict[str, Family] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    aside: list[str] = field(default_factory=list)

    def set_aside(self, names: Collection[str]) -> None:
        """Move names from the predictions to what is set aside."""
        self.whole = [name for name in self.whole if name not in names]
        self.aside += names

    def unused(self, names: Iterable[str]) -> list[str]:
        """The names among `names` of columns that are neither predictions nor labels."""
        return [name for name in names if name in self.unknown or name in self.aside]

    def kinds(self) -> set[str | None]:
        """The kinds of all predictions."""
        return {*self.families, *map(kind_of, self.whole)}


@dataclass(frozen=True)
class _Block:
    """Predictions of one kind, from columns of one class each.

    Attributes:
        values: [N, K]; of a single column [N], for class 1.
        classes: the classes' names in order; None where they are numbers from 0.
        numbers: whether those names are the numbers of columns.
        notes: how columns were chosen.
    """

    values: Array
    classes: tuple[str, ...] | None = None
    numbers: bool = False
    notes: tuple[str, ...] = ()


def read_class_columns(columns: Mapping[str, Array], origin: str, kind: str | None) -> NamedArrays:
    """Columns of classes as one array of their kind; the others by what their names say.

    Args:
        columns: [N] or, a column of lists, [N, K], by name; labels are `labels`. Texts are arrays of objects.
        kind: what columns hold whose names say no kind, one of KINDS.

    Raises:
        DataError: a class is missing, or names do not tell what the class columns are.
    """
    labels = columns["labels"]
    texts = texts_of(labels)
    roles = _roles(columns, texts, origin)
    _set_scores_aside(roles, columns, origin, kind)
    if not roles.families and not roles.whole:
        _take_unknown(roles, columns, origin, kind, texts)
        if not roles.families:
            return NamedArrays(columns, [])
    blocks = _blocks(roles, columns, origin)
    class_arrays, classes = _in_one_order(blocks, origin, labels_are_numbers=not texts)
    arrays = {name: columns[name] for name in roles.whole} | class_arrays
    numbers = any(block.numbers for block in blocks.values())
    arrays["labels"], by_name = positions(labels, classes, origin, numbers)
    if classes is not None and not by_name:
        refuse_no_first(classes, origin)
    notes = [note for block in blocks.values() for note in block.notes]
    ids = _row_ids(columns, texts)
    notes += not_used(roles.unused(columns), ids)
    return NamedArrays(arrays, notes, classes, by_name, ids)


def _row_ids(columns: Mapping[str, Array], texts: Collection[str]) -> dict[str, Array]:
    """The columns that name the rows."""
    names = [name for name in columns if name not in ("labels", *texts)]
    return {name: columns[name] for name in names if _is_row_id(name, columns[name])}


def _is_row_id(name: str, values: Array) -> bool:
    is_text = plain(name) in ROW_TEXTS and values.dtype.kind in "OU"
    return (is_text or names_rows(name)) and values.ndim == 1 and not is_note(values)


# roles


def _roles(columns: Mapping[str, Array], texts: Collection[str], origin: str) -> _Roles:
    """Every column by what its name says.

    Args:
        texts: labels where they are texts: a column of such a name is that of the class.
    """
    roles = _Roles()
    names = [name for name in columns if name != "labels"]
    words = label_words(names, texts)
    for name in names:
        if kind_of(name):
            roles.whole.append(name)
        elif name not in texts and says_something_else(name):
            roles.aside.append(name)
        elif kind_and_class := class_of(name, words):
            kind, number_or_name = kind_and_class
            roles.families.setdefault(kind, Family()).add(number_or_name, name, origin)
        else:
            (roles.aside if is_summary(name) else roles.unknown).append(name)
    return roles


def _set_scores_aside(roles: _Roles, columns: Mapping[str, Array], origin: str, kind: str | None) -> None:
    """Take `score` or `margin` for no prediction where other columns are the predictions.

    Raises:
        DataError: the kind that the user gives may be that of a score alone, or of the columns beside it.
    """
    if not roles.families and roles.kinds() == {"scores"} and kind not in (None, "scores"):
        fractions = [name for name in roles.unknown if columns[name].dtype.kind == "f"]
        if len(fractions) > 1:
            _refuse_scores(roles.whole, fractions[0], origin, kind)
            roles.set_aside(roles.whole)
    if roles.kinds() - {"scores"}:
        roles.set_aside([name for name in roles.whole if kind_of(name) == "scores" and plain(name) in NO_CLASS])


def _take_unknown(
    roles: _Roles, columns: Mapping[str, Array], origin: str, kind: str | None, texts: Collection[str]
) -> None:
    """Take columns whose names say nothing for those of classes, of the kind that the user gives."""
    if kind is None:
        names = roles.unknown or [name for name in columns if name != "labels"]
        listed = ", ".join(map(repr, names[:4])) + ("..." if len(names) > 4 else "")
        raise Refusal.UNKNOWN_COLUMNS.of(origin, names=listed)
    family = free_family(roles.unknown, columns, origin, kind, texts)
    if family.members:
        roles.families[kind] = family
        roles.unknown = [name for name in roles.unknown if name not in family.members]


# values


def _blocks(roles: _Roles, columns: Mapping[str, Array], origin: str) -> dict[str, _Block]:
    """Class columns side by side, by their kind."""
    _refuse_lone_logit(roles, origin)
    blocks = {}
    for kind, family in roles.families.items():
        same_kind = next((name for name in roles.whole if kind_of(name) == kind), None)
        if same_kind is not None:
            raise Refusal.TWO_FORMS.of(origin, one=same_kind, other=family.members[0])
        blocks[kind] = _side_by_side(family, columns, kind, origin)
    return blocks


def _refuse_lone_logit(roles: _Roles, origin: str) -> None:
    """Raises DataError where one column of logits is left of several: it is a logit then, and no log odds."""
    members = roles.families.get("logits", Family()).members
    others = [name for name in (*roles.unknown, *roles.aside) if may_summarize(name, "logits")]
    if len(members) == 1 and others:
        raise Refusal.MIXED_COLUMNS.of(origin, strange=others[0], telling=members[0])


def _in_one_order(
    blocks: Mapping[str, _Block], origin: str, labels_are_numbers: bool
) -> tuple[dict[str, Array], tuple[str, ...] | None]:
    """Predictions by kind, their classes in the order of the first kind with names, and these names.

    Args:
        labels_are_numbers: so that they follow one order.

    Raises:
        DataError: kinds have other classes, or another order, which labels may follow.
    """
    arrays = {kind: block.values for kind, block in blocks.items()}
    with_names = {kind: block.classes for kind, block in blocks.items() if block.classes is not None}
    classes = next(iter(with_names.values()), ())
    for kind, others in with_names.items():
        if others == classes:
            continue
        same_names = set(others) == set(classes)
        if not same_names or labels_are_numbers:
            refusal = Refusal.OTHER_ORDER if same_names else Refusal.OTHER_CLASSES
            raise refusal.of(origin, classes=shown(classes), others=shown(others))
        arrays[kind] = arrays[kind][:, [others.index(name) for name in classes]]
    return arrays, classes or None


def _side_by_side(family: Family, columns: Mapping[str, Array], kind: str, origin: str) -> _Block:
    """The columns of one kind, by their numbers or in the order of the table."""
    if family.numbered and family.named:
        return _signed(family, columns, origin)
    if len(family.members) == 1:
        return _single(family, columns, kind, origin)
    if numbered := family.numbered or _numbers_in_names(family.named, columns["labels"]):
        return _numbered_block(numbered, columns, kind, origin)
    classes = tuple(family.named)
    return _Block(_values(family.members, columns, origin), classes, notes=(by_position(classes),))


def _signed(family: Family, columns: Mapping[str, Array], origin: str) -> _Block:
    """Columns of numbers of which some are below zero, as of labels -1, 0 and 1: these are the names of the classes.

    Raises:
        DataError: some columns are called by no number.
    """
    if not all(map(is_number, family.named)):
        one, other = next(iter(family.numbered.values())), next(iter(family.named.values()))
        raise Refusal.NUMBERS_AND_NAMES.of(origin, one=one, other=other)
    classes = (*map(str, family.numbered), *family.named)
    return _Block(_values(family.members, columns, origin), classes, numbers=True, notes=(by_position(classes),))


def _numbers_in_names(named: Mapping[str, str], labels: Array) -> dict[int, str]:
    """Columns by the numbers in their classes' names, where these count from 0 or 1 and labels are numbers; else none.

    So that `out[10]` and `of class 10` do not stand before those of class 2, as sorted by their letters.
    """
    numbers, K = (labels.dtype.kind in "iuf" and numbers_in([*named])) or [], len(named)
    counts = sorted(numbers) in ([*range(K)], [*range(1, K + 1)])
    return dict(zip(numbers, named.values(), strict=True)) if counts else {}


def _numbered_block(members: Mapping[int, str], columns: Mapping[str, Array], kind: str, origin: str) -> _Block:
    """Columns in the order of their numbers, which are from 0, or else the names of their classes."""
    numbers, K = sorted(members), len(members)
    ordered = [members[number] for number in numbers]
    notes = () if ordered == [*members.values()] else (MOVED,)
    if _are_labels(numbers, kind, columns["labels"]):
        note = by_column_numbers(numbers[0], numbers[-1])
        classes = tuple(map(str, numbers))
        return _Block(_values(ordered, columns, origin), classes, numbers=True, notes=(note, *notes))
    missing = next((k for k in range(K) if k not in members), None)
    if missing is not None:
        raise Refusal.GAP.of(origin, missing=missing, name=next(iter(members.values())), K=K, last=K - 1)
    return _Block(_values(ordered, columns, origin), notes=notes)


def _are_labels(numbers: Sequence[int], kind: str, labels: Array) -> bool:
    """Whether numbers of columns that do not count from 0 are the labels: 1 to K, or any if no class can be missing."""
    if labels.dtype.kind not in "iuf" or labels.ndim != 1:
        return False
    K = len(numbers)
    from_one = list(numbers) == list(range(1, K + 1))
    no_class_missing = kind in SUM_TO_ONE and list(numbers) != list(range(K))
    return (from_one or no_class_missing) and set(np.unique(labels).tolist()) <= set(numbers)


def _single(family: Family, columns: Mapping[str, Array], kind: str, origin: str) -> _Block:
    """One column for two classes, as what it says of class 1."""
    name = family.members[0]
    number = next(iter(family.numbered), None) if family.numbered else outcome_of(next(iter(family.named)))
    if number not in (0, 1):
        raise Refusal.ONE_CLASS.of(origin, name=name)
    values = _numbers(columns[name], name, origin)
    if number == 1:
        return _Block(values)
    notes = (f"{name!r} is that of class 0",)
    if kind == "log_probabilities":
        return _Block(np.stack([values, np.log(-np.expm1(np.minimum(values, 0)))], 1), notes=notes)
    return _Block(1 - values if kind == "probabilities" else -values, notes=notes)


def _values(names: Sequence[str], columns: Mapping[str, Array], origin: str) -> Array:
    """[N, K], the columns of some names side by side."""
    return np.stack([_numbers(columns[name], name, origin) for name in names], 1)


def _numbers(values: Array, name: str, origin: str) -> Array:
    """[N], float64, if the column of a class holds a number a row."""
    if values.dtype.kind in "fiub" and values.ndim == 1:
        return values.astype(np.float64)
    raise Refusal.NO_CLASS_NUMBERS.of(origin, name=name, problem=not_numbers(values) or "is not numbers")


def _refuse_scores(scores: Sequence[str], fraction: str, origin: str, kind: str | None) -> None:
    """Raises DataError where any of some scores may be the prediction, and columns of fractions too."""
    doubtful = next((name for name in scores if plain(name) not in NO_CLASS), None)
    if doubtful is not None:
        raise Refusal.SCORE_OR_COLUMNS.of(origin, kind=kind, score=doubtful, column=fraction)
