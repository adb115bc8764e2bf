"""Two splits in one file, `logits_val, labels_val, logits_test, labels_test`: each one's arrays by plain names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import LazyArrays
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import CLASS_NAMES, LABELS, kind_of, letters, listed, not_used, plain

TEST = ("test", "tst", "te")
CALIBRATION = ("calibration", "calib", "cal", "validation", "valid", "val", "va", "dev")
"""Words for splits in the names of arrays, before the name or behind it; of several, the first is taken."""
ROLES = {"test": TEST, "calibration": CALIBRATION}
_WORDS = {*TEST, *CALIBRATION}


@dataclass(frozen=True)
class Split:
    """The arrays of one split of a file.

    Attributes:
        arrays: by their names without the split's; all of the file where its names tell no splits.
        label, groups: the names that the user gave, without the split's.
        notes: what a reader should know of the choice.
        has_calibration: whether the file holds a calibration split too.
    """

    arrays: Mapping[str, Array]
    label: str | None = None
    groups: str | None = None
    notes: tuple[str, ...] = ()
    has_calibration: bool = False


def split_of(
    arrays: Mapping[str, Array], origin: str, role: str, label: str | None = None, groups: str | None = None
) -> Split:
    """The arrays of a file that are of one split.

    Args:
        role: "test" or "calibration".
        label, groups: names that the user gave, with or without that of a split.

    Raises:
        DataError: names tell splits, and none is of that role.
    """
    splits = named_splits(arrays, label)
    if not splits:
        return Split(arrays, label, groups)
    test, calibration = (_first(splits, known_role) for known_role in ROLES)
    word = test if role == "test" else calibration
    if word is None:
        raise Refusal.NO_SPLIT.of(origin, role=role, word=test or calibration, names=ROLES[role][0])
    stems = {name: name for name in arrays if plain(name) in CLASS_NAMES} | splits[word]
    of_splits = {name for other in {test, calibration} - {None} for name in splits[str(other)].values()}
    aside = sorted(set(arrays) - {*stems.values()} - of_splits)
    notes = (f"the split {word!r}: {listed(splits[word].values())}", *not_used(aside))
    chosen = LazyArrays(stems, lambda stem: arrays[stems[stem]])
    return Split(chosen, _stems(label), _stems(groups), notes, calibration is not None)


def named_splits(names: Iterable[str], label: str | None = None) -> dict[str, dict[str, str]]:
    """By split, its arrays' names by these names without the split; of splits that have predictions and labels alone.

    Empty where predictions and labels stand under plain names: those are the file's.
    """
    usual = {letters(_stem(name)) for name in (*LABELS, *(label or "").split(",")) if name}
    splits: dict[str, dict[str, str]] = {}
    for name in names:
        word, stem = _cut(name)
        splits.setdefault(word, {}).setdefault(stem, name)
    complete = {word: stems for word, stems in splits.items() if _is_complete(stems, usual)}
    return {} if "" in complete else complete


def _is_complete(stems: Iterable[str], usual: set[str]) -> bool:
    """Whether some names are those of predictions, and others of labels."""
    stems = list(stems)
    return any(kind_of(stem) or stem == "p" for stem in stems) and any(letters(stem) in usual for stem in stems)


def _first(splits: Mapping[str, object], role: str) -> str | None:
    return next((word for word in ROLES[role] if word in splits), None)


def _cut(name: str) -> tuple[str, str]:
    """The word for a split in a name, and the name without it; an empty word where it has none."""
    words = plain(name.replace("/", "_")).split("_")
    for place, rest in ((-1, words[:-1]), (0, words[1:])):
        if words[place] in _WORDS and rest:
            return words[place], "_".join(rest)
    return "", name


def _stem(name: str) -> str:
    return _cut(name)[1]


def _stems(names: str | None) -> str | None:
    """Names with commas between, without those of splits."""
    return ",".join(map(_stem, names.split(","))) if names else None
