"""Labels: which array of a file holds them, and what they are as positions among the classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from calib_bench.errors import nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import LazyArrays
from calib_bench.evaluation.class_names import is_count, shown
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import CONFIDENCE, LABELS, kind_of, letters, not_used, plain

_USUAL = {letters(name) for name in LABELS}
_YES = ("yes", "y", "true", "t", "pos", "positive")
_NO = ("no", "n", "false", "f", "neg", "negative")

# which array


def with_labels(
    arrays: Mapping[str, Array], origin: str, label: str | None = None
) -> tuple[Mapping[str, Array], list[str]]:
    """The arrays with that of the labels called `labels` and no other one of labels, and notes of those left out.

    Args:
        label: the name that the user gives for the labels, see `formats.load`.

    Raises:
        DataError: there are no labels of that name, or of any usual one; or two arrays hold different ones.
    """
    usual = [name for name in arrays if letters(name) in _USUAL]
    chosen = _usual(arrays, usual, origin) if label is None else _named(arrays, origin, label)
    aside = [name for name in usual if name != chosen]
    _refuse_fractions(arrays, aside, origin)
    notes = [f"labels are {chosen!r}; {note}" for note in not_used(aside)]
    names = {"labels" if name == chosen else name: name for name in arrays if name not in aside}
    return LazyArrays(names, lambda name: arrays[names[name]]), notes


def _usual(arrays: Mapping[str, Array], usual: Sequence[str], origin: str) -> str:
    """Which of the arrays with usual names of labels holds them: the first of numbers, if all agree."""
    if not usual:
        listed = ", ".join(map(repr, [*arrays][:12])) + ("..." if len(arrays) > 12 else "")
        raise Refusal.NO_LABELS.of(origin, names=listed or "nothing", advice=_advice(arrays))
    if len(usual) == 1:
        return usual[0]
    other = next((name for name in usual[1:] if not _agree(arrays[usual[0]], arrays[name])), None)
    if other is not None:
        raise Refusal.LABELS_TWICE.of(origin, one=usual[0], other=other)
    return next((name for name in usual if arrays[name].dtype.kind not in "OU"), usual[0])


def _named(arrays: Iterable[str], origin: str, label: str) -> str:
    """The name, among those of the arrays, that the user gave for the labels."""
    names = list(arrays)
    for wanted in (label, *label.split(",")):
        same = [name for name in names if name == wanted]
        same = same or [name for name in names if letters(name) == letters(wanted)]
        if len(same) == 1:
            return same[0]
    raise Refusal.NO_SUCH_LABELS.of(origin, label=label, hint=nearest(label, names))


def _agree(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same labels, or, where one of them is text, each label of one is one of the other."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "OU" and other.dtype.kind not in "OU":
        return bool((one == other).all())
    pairs = {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    sizes = {len({pair[side] for pair in pairs}) for side in (0, 1)}
    return sizes == {len(pairs)} or 1 in sizes  # text that was not read is one word


def _advice(names: Iterable[str]) -> str:
    """What to do where no name is one of labels: which could be meant, and how to say so."""
    for name in names:
        hint = nearest(name, LABELS)
        if letters(name) in ("class", "category", "answer", "outcome"):
            return f"if {name!r} holds them, say --labels {name}"
        if kind_of(name) is None and hint.startswith("did"):
            return f"{hint} If {name!r} holds them, say --labels {name}"
    return f"call them one of {', '.join(LABELS[:8])}, or say --labels NAME"


def _refuse_fractions(arrays: Mapping[str, Array], aside: Iterable[str], origin: str) -> None:
    """Raises DataError where a column with a name of labels may be that of a class, as no other says what it is."""
    if any(kind_of(re.sub(r"[_ .]?\d+$", "", name)) for name in arrays):
        return
    for name in aside:
        values = arrays[name]
        if values.dtype.kind == "f" and not (values == np.floor(values)).all():
            raise Refusal.LABEL_FRACTIONS.of(origin, name=name)


def refuse_confidence(columns: Mapping[str, Array], origin: str) -> None:
    """Raises DataError where a table's only fractions are the confidence in one label, no class having its own."""
    alone = next((name for name in columns if letters(name) in CONFIDENCE and columns[name].ndim == 1), None)
    others = [name for name in columns if name not in (alone, "labels") and columns[name].dtype.kind == "f"]
    if alone is not None and not others:
        raise Refusal.CONFIDENCE.of(origin, name=alone)


# what labels say


def texts_of(labels: Array) -> set[str]:
    """The distinct labels where they are texts; nothing where they are numbers."""
    return {str(label).strip() for label in labels.ravel().tolist()} if labels.dtype.kind in "OUT" else set()


def is_note(values: Array) -> bool:
    """Whether an array stands for a column that could not be read as numbers, and says why."""
    return values.dtype.kind == "U" and len(set(values.ravel()[:1000].tolist())) == 1 and " " in str(values.flat[0])


def positions(labels: Array, classes: tuple[str, ...] | None, origin: str, numbers: bool = False) -> tuple[Array, bool]:
    """Labels as positions among the classes, and whether they were read by the classes' names.

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
    if labels.dtype.kind == "b" and (place_of_true := _place_of_true(classes)) is not None:
        return np.where(labels, place_of_true, 1 - place_of_true), True
    if labels.ndim != 1 or not (texts or numbers):
        return labels, False
    form = "{}" if texts else "{:.10g}"
    return _places([*map(form.format, labels.tolist())], classes, origin), True


def _are_counts(labels: Array) -> bool:
    """Whether labels are one text a row, all of them whole numbers."""
    return labels.ndim == 1 and all(is_count(str(label)) for label in labels.tolist())


def _place_of_true(classes: Sequence[str]) -> int | None:
    """Which of two classes called true and false is true; None of other classes."""
    names = [plain(name) for name in classes]
    return names.index("true") if sorted(names) == ["false", "true"] else None


def outcome_of(name: str) -> int | None:
    """Which of two classes a name says by itself: 1 of `yes` or `positive`, 0 of `no` or `negative`; None of others."""
    return next((outcome for outcome, names in enumerate((_NO, _YES)) if plain(name) in names), None)


def refuse_no_first(classes: Sequence[str], origin: str) -> None:
    """Raises DataError where labels are numbers and class 0 would be "yes", class 1 "no", by the order of columns."""
    if len(classes) != 2:
        return
    first, second = map(plain, classes)
    negations = {f"no_{first}", f"not_{first}", f"non_{first}", f"non{first}", f"not{first}"}
    if second in negations or (outcome_of(first), outcome_of(second)) == (1, 0):
        raise Refusal.NO_FIRST.of(origin, classes=shown(classes), first=classes[0])


def _places(words: Sequence[str], classes: Sequence[str], origin: str) -> Array:
    place = {name: k for k, name in enumerate(classes)}
    names = [word.strip() for word in words]
    strange = next((name for name in names if name not in place), None)
    if strange is not None:
        hint = nearest(strange, classes)
        raise Refusal.NO_CLASS_OF_LABEL.of(origin, label=strange, classes=shown(classes), hint=hint)
    return np.array([place[name] for name in names])
