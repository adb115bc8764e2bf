"""Which of the arrays of a file holds the labels: by the name that the user gives, or by a usual one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest
from calib_bench.evaluation.archives import LazyArrays
from calib_bench.evaluation.vocabulary import LABELS, kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def with_labels(
    arrays: Mapping[str, Array], origin: str, label: str | None = None
) -> tuple[Mapping[str, Array], list[str]]:
    """The arrays, that of the labels called `labels` and no other of such a name, and notes of what was left aside.

    Args:
        label: the name that the user gives for the labels, see `formats.load`.

    Raises:
        DataError: there are no labels of that name, or of any usual one; or two hold different ones.
    """
    usual = [name for name in arrays if _plain(name) in _PLAIN_LABELS]
    chosen = _named(arrays, origin, label) if label is not None else _usual(arrays, usual, origin)
    aside = [name for name in usual if name != chosen]
    if not _says_kind(arrays):  # any column may be that of a class
        _refuse_fractions({name: arrays[name] for name in aside}, origin)
    notes = [f"labels are {chosen!r}; not used: {', '.join(aside)}"] if aside else []
    names = {"labels" if name == chosen else name: name for name in arrays if name not in aside}
    return LazyArrays(names, lambda name: arrays[names[name]]), notes


def _usual(arrays: Mapping[str, Array], usual: Sequence[str], origin: str) -> str:
    """Which of the arrays with usual names of labels holds them: the first of numbers, if all agree."""
    if not usual:
        listed = ", ".join(map(repr, [*arrays][:12])) + ("..." if len(arrays) > 12 else "")
        raise DataError(f"{origin} holds no labels: it holds {listed or 'nothing'}; {_near(arrays)}")
    if len(usual) == 1:
        return usual[0]
    for other in usual[1:]:
        if not _agree(arrays[usual[0]], arrays[other]):
            raise DataError(
                f"{origin} holds labels twice, and those in {usual[0]!r} and {other!r} differ: say which with "
                f"--labels NAME, or remove one"
            )
    return next((name for name in usual if arrays[name].dtype.kind not in "OU"), usual[0])


def _says_kind(names: Iterable[str]) -> bool:
    """Whether any name says a kind of prediction, perhaps with a number behind it."""
    return any(kind_of(re.sub(r"[_ .]?\d+$", "", name)) for name in names)


def _refuse_fractions(aside: Mapping[str, Array], origin: str) -> None:
    for name, values in aside.items():
        if values.dtype.kind == "f" and not (values == np.floor(values)).all():
            raise DataError(f"{origin}: {name!r} is a name of labels and holds fractions: rename it, if it is a class")


CONFIDENCE = ("confidence", "conf", "maxprob", "maxprobability", "topprob", "topprobability")


def refuse_confidence(columns: Mapping[str, Array], origin: str) -> None:
    """Raises DataError where a table's only fractions are the confidence in one label, no class having its own."""
    alone = next((name for name in columns if _plain(name) in CONFIDENCE and columns[name].ndim == 1), None)
    others = [name for name in columns if name not in (alone, "labels") and columns[name].dtype.kind == "f"]
    if alone is not None and not others:
        raise DataError(
            f"{origin} holds {alone!r} and of no class its probability: log loss and calibrators need those of all "
            f"classes, prob_0, prob_1...; if it is that of class 1 of two, call it probability"
        )


def _near(names: Iterable[str]) -> str:
    """What to do where no name is one of labels: which could be meant, and how to say so."""
    for name in names:
        hint = nearest(name, LABELS)
        if _plain(name) in ("class", "category", "answer", "outcome"):
            return f"if {name!r} holds them, say --labels {name}"
        if kind_of(name) is None and hint.startswith("did"):
            return f"{hint} If {name!r} holds them, say --labels {name}"
    return f"call them one of {', '.join(LABELS[:8])}, or say --labels NAME"


def _named(arrays: Iterable[str], origin: str, label: str) -> str:
    """The name, among those of the arrays, that the user gave for the labels."""
    names = list(arrays)
    for wanted in (label, *label.split(",")):
        same = [name for name in names if name == wanted] or [name for name in names if _plain(name) == _plain(wanted)]
        if len(same) == 1:
            return same[0]
    raise DataError(f"{origin} holds no {label!r}, which --labels names: {nearest(label, names)}")


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]+", "", name).lower()


_PLAIN_LABELS = {_plain(name) for name in LABELS}


def _agree(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same labels, or, where one of them is text, each label of one is one of the other."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind not in "OU" and other.dtype.kind not in "OU":
        return bool((one == other).all())
    pairs = {*zip(one.ravel().tolist(), other.ravel().tolist(), strict=True)}
    sizes = {len({pair[side] for pair in pairs}) for side in (0, 1)}
    return sizes == {len(pairs)} or 1 in sizes  # text that was not read is one word
