"""Predictions of several files brought together by names: shards of one model, classes, rows, seeds.

Position counts only where a file says nothing of itself. What names say and files contradict is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch

from calib_bench.evaluation import Array
from calib_bench.evaluation.censored import joint_zeros
from calib_bench.evaluation.class_names import shown, varying_numbers
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.validation import Predictions, absent_classes
from calib_bench.evaluation.vocabulary import ROW_IDS, UNORDERED, listed, plain

# ---- shards of one model

_OF = re.compile(r"(?<!\d)(\d+)[_-]?of[_-]?(\d+)(?!\d)", re.IGNORECASE)
_WORD = "(?:shard|part|chunk|piece|rank|batch)"
_PIECE = re.compile(rf"(?<![a-z]){_WORD}[_=-]?(\d+)(?!\d)", re.IGNORECASE)
_COUNTED = re.compile(r"(?<![a-z])(?:rank|batch)[_=-]?\d+(?!\d)", re.IGNORECASE)
"""The number of a process or a batch, which counts from 0; where it does not, a matrix's rank or a batch's size."""


def joined(parts: Sequence[Predictions]) -> list[Predictions]:
    """Predictions in order, those of files named as shards of one another (`-00000-of-00002`, `part1`) as one.

    Raises:
        DataError: a shard is missing, or shards do not fit together.
    """
    groups: dict[str, list[tuple[int, int | None, Predictions]]] = {}
    for part in parts:
        place = part.file if part.trial is None else ""
        folder, slash, file = place.rpartition("/")
        several, piece = _OF.search(file), _PIECE.search(place)
        if several:
            key, number, of = folder + slash + _OF.sub("#", file), int(several[1]), int(several[2])
            groups.setdefault(key, []).append((number, of, part))
        elif piece:
            groups.setdefault(_PIECE.sub("#", place), []).append((int(piece[1]), None, part))
        else:
            groups.setdefault(f"{len(groups)}: {place}", []).append((0, 1, part))
    merged = []
    for key, members in groups.items():
        sizes = all(_COUNTED.search(part.file) and number > 0 for number, _, part in members)
        merged += [part for _, _, part in members] if sizes else [_join_shards(key, members)]
    return merged


def _join_shards(key: str, members: list[tuple[int, int | None, Predictions]]) -> Predictions:
    """Shards of one model, each with its number and how many there are by its name, as one set of predictions."""
    if len(members) == 1 and members[0][1] in (None, 1):
        return members[0][2]
    members = sorted(members, key=lambda member: member[0])
    count = max([of for _, of, _ in members if of is not None], default=len(members))
    _refuse_missing(key, [number for number, _, _ in members], count)
    parts = [part for _, _, part in members]
    _refuse_same_rows(key, parts)
    return reduce(_joined, parts)


def _refuse_missing(key: str, numbers: Sequence[int], count: int) -> None:
    """Raises DataError where the numbers of shards are not those of so many, from 0 or from 1, each once."""
    first = 0 if 0 in numbers else 1
    missing = sorted(set(range(first, first + count)) - set(numbers))
    if missing or len(numbers) != count:
        problem = f"number {missing[0]} is missing" if missing else f"there are {len(numbers)}: give each once"
        raise Refusal.MISSING_SHARD.of(key, count=count, problem=problem)


def _refuse_same_rows(key: str, parts: Sequence[Predictions]) -> None:
    """Raises DataError where files named as shards hold the same rows: by their ids, or by a run of the same labels."""
    for one, other in pairwise(parts):
        labels = one.y_N.tolist()
        agree = sum((count / len(labels)) ** 2 for count in Counter(labels).values())  # two labels, by chance
        chance = agree ** len(labels)
        unnamed = (row_match := match(one, other)).kind == "unknown" or all(
            _counts(values, other.ids[name]) for name, values in one.ids.items() if name in other.ids
        )
        if row_match.kind in ("same", "order") if not unnamed else (labels == other.y_N.tolist() and chance < 1e-6):
            what = "the same labels in the same order" if unnamed else "rows of the same names"
            raise Refusal.SHARDS_OR_SEEDS.of(key, one=one, other=other, what=what)


def _joined(one: Predictions, other: Predictions) -> Predictions:
    """Two shards of one model as one set of predictions."""
    other = same_classes(one, other)
    if one.Z_NK.shape[1] != other.Z_NK.shape[1] or (one.kind, one.exact) != (other.kind, other.exact):
        raise Refusal.SHARDS_DIFFER.of(other.name, one=one, other=other)
    dtype = torch.promote_types(one.Z_NK.dtype, other.Z_NK.dtype)
    Z_NK = torch.cat([one.Z_NK.to(dtype), other.Z_NK.to(dtype)])
    y_N = torch.cat([one.y_N, other.y_N])
    kept = [note for note in dict.fromkeys((*one.notes, *other.notes)) if not note.startswith("no example of")]
    shards = len(one.sha256) + len(other.sha256)
    kept = [note for note in kept if not note.endswith("shards were joined")] + [f"{shards} shards were joined"]
    return replace(
        one,
        Z_NK=Z_NK,
        y_N=y_N,
        name=re.sub(rf"[_.-]*{_WORD}?[_.=-]*\d+(?:[_-]?of[_-]?\d+)?$", "", one.name) or one.name,
        sha256={**one.sha256, **other.sha256},
        notes=(*kept, *absent_classes(y_N.numpy(), Z_NK.shape[1])),
        ids={name: np.concatenate([one.ids[name], other.ids[name]]) for name in one.ids if name in other.ids},
        groups=_joined_groups(one, other),
        zeros=joint_zeros(one.zeros, other.zeros),
    )


def _joined_groups(one: Predictions, other: Predictions) -> Array | None:
    return None if one.groups is None or other.groups is None else np.concatenate([one.groups, other.groups])


# ---- classes


def same_classes(first: Predictions, other: Predictions) -> Predictions:
    """The predictions `other` with their classes in the order of those of `first`.

    Raises:
        DataError: classes have other names; or stand in another order, and labels are numbers, of which nobody can tell
            to which order they belong.
    """
    if first.classes is None or other.classes is None:
        return _by_place(first, other)
    if first.classes == other.classes:
        return other
    if set(first.classes) != set(other.classes):
        strange = sorted(set(first.classes) ^ set(other.classes))[0]
        raise Refusal.CLASSES_DIFFER.of(other.name, first=first.name, strange=strange)
    if not other.by_name:
        classes, firsts = shown(other.classes), shown(first.classes)
        raise Refusal.CLASSES_IN_OTHER_ORDER.of(other.name, classes=classes, first=first.name, firsts=firsts)
    order = [other.classes.index(name) for name in first.classes]
    y_N = np.argsort(order)[other.y_N.numpy()]
    return replace(
        other,
        Z_NK=other.Z_NK[:, order],
        y_N=torch.from_numpy(y_N),
        classes=first.classes,
        zeros=other.zeros.of_classes(order) if other.zeros is not None else None,
        notes=(
            *(note for note in other.notes if not note.startswith("no example of")),
            "columns were matched by their names",
            *absent_classes(y_N, len(order)),
        ),
    )


def _by_place(first: Predictions, other: Predictions) -> Predictions:
    """`other`, with a note where only one of the two names its classes, so that they were matched by their places."""
    names, named = (first.classes, first) if first.classes is not None else (other.classes, other)
    if names is None:
        return other
    if UNORDERED in named.notes:
        raise Refusal.NO_PLACES.of(named.name, classes=shown(names))
    note = f"classes 0 to {len(names) - 1} were taken for {shown(names)}, which only {named.name} names"
    return other if note in other.notes else replace(other, notes=(*other.notes, note))


# ---- rows


class Match(NamedTuple):
    """How the rows of two files are to each other, by what names them.

    Attributes:
        kind: "same", "order" (the same rows in another order), "other" (not the same rows) or "unknown" (no names).
        order: [N], where each of the first's rows is in the other; of "order" alone.
        reason: of "other", for people.
    """

    kind: Literal["same", "order", "other", "unknown"]
    order: Array | None = None
    reason: str = ""


def match(first: Predictions, other: Predictions) -> Match:
    """Compare the rows of two files by their ids."""
    pairs = _shared_ids(first, other)
    matches = {name: _match(name, *map(_texts, pair)) for name, pair in pairs.items()}
    matches = {name: row_match for name, row_match in matches.items() if row_match.kind != "unknown"}
    telling = {name: row_match for name, row_match in matches.items() if not _counts(*pairs[name])} or matches
    if not telling:
        return Match("unknown")
    for row_match in telling.values():
        if row_match.kind == "other":
            return row_match
    return _one_order(telling)


def _shared_ids(first: Predictions, other: Predictions) -> dict[str, tuple[Array, Array]]:
    """Ids of both under one name; where each has one alone, these, whatever their names."""
    pairs = {name: (first.ids[name], other.ids[name]) for name in first.ids if name in other.ids}
    if not pairs and len(first.ids) == len(other.ids) == 1:
        (one,), (another,) = first.ids, other.ids
        name = next((name for name in (one, another) if plain(name) not in ROW_IDS), "id")
        pairs = {name: (first.ids[one], other.ids[another])}
    return pairs


def _one_order(matches: Mapping[str, Match]) -> Match:
    """The match that several ids tell, none of them "other", if they agree on the order."""
    orders = {name: row_match.order for name, row_match in matches.items() if row_match.order is not None}
    if not orders:
        return Match("same")
    named, order = next(iter(orders.items()))
    for name, row_match in matches.items():
        if row_match.order is None or not np.array_equal(row_match.order, order):
            return Match("other", reason=f"{name!r} and {named!r} put the rows in different orders")
    return Match("order", order)


def _texts(values: Array) -> list[str]:
    if values.dtype.kind == "f" and bool((np.isfinite(values) & (values == np.floor(values))).all()):
        values = values.astype(np.int64)
    return [str(value).strip() for value in values.tolist()]


def _counts(one: Array, other: Array) -> bool:
    """Whether both only count rows from 0 or 1."""
    return all(
        v.dtype.kind in "iuf" and len(v) and np.array_equal(v, np.arange(len(v)) + v[0]) and v[0] in (0, 1)
        for v in (one, other)
    )


def _match(name: str, one: list[str], other: list[str]) -> Match:
    """Compare the rows of two files by one id."""
    if one == other:
        return Match("same")
    if _names_groups(one) or _names_groups(other):
        return Match("unknown")
    if set(one) != set(other):
        shorter = _shorter_paths(one, other)
        return _match(name, *shorter) if shorter is not None else _differing(name, one, other)
    if len(set(one)) < len(one) or len(set(other)) < len(other):
        return Match("other", reason=f"{name!r} names some rows twice, and the rows stand in different orders")
    place = {text: i for i, text in enumerate(other)}
    return Match("order", np.array([place[text] for text in one]))


def _names_groups(texts: list[str]) -> bool:
    """Whether texts come twice on average or more often, so that they name groups rather than rows."""
    return len(set(texts)) <= len(texts) / 2


def _differing(name: str, one: list[str], other: list[str]) -> Match:
    distinct, others = set(one), set(other)
    if distinct.isdisjoint(others) and plain(name) not in ROW_IDS:  # as a request's, which each model has of its own
        return Match("unknown")
    missing = [text for text in (*one, *other) if (text in distinct) != (text in others)]
    return Match("other", reason=f"{name} {missing[0]!r} is in one of them alone")


def _shorter_paths(one: list[str], other: list[str]) -> tuple[list[str], list[str]] | None:
    """Paths below the folders that all lie in, or else the names of files, where these are the same in both."""
    if not any("/" in text or "\\" in text for text in (one[0], other[0])):
        return None
    below = _below_root(one), _below_root(other)
    if set(below[0]) == set(below[1]):
        return below
    files, other_files = ([text.rpartition("/")[2] for text in texts] for texts in below)
    if len(set(files)) == len(one) and set(files) == set(other_files):
        return files, other_files
    return None


def _below_root(paths: list[str]) -> list[str]:
    """Paths from the folder on that all of them lie in."""
    parts = [re.split(r"[/\\]", path) for path in paths]
    shared = 0
    while all(len(part) > shared + 1 for part in parts) and len({part[shared] for part in parts}) == 1:
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def reordered(predictions: Predictions, order: Array) -> Predictions:
    """The predictions with their rows in another order, [N] row numbers."""
    rows = torch.from_numpy(order)
    return replace(
        predictions,
        Z_NK=predictions.Z_NK[rows],
        y_N=predictions.y_N[rows],
        ids={name: values[order] for name, values in predictions.ids.items()},
        groups=None if predictions.groups is None else predictions.groups[order],
        notes=(*predictions.notes, "rows were put in the order of the other file's by their ids"),
    )


def same_rows(first: Predictions, other: Predictions) -> Predictions:
    """The predictions `other`, with rows in the order of those of `first` where ids say that they are the same rows."""
    row_match = match(first, other)
    return reordered(other, row_match.order) if row_match.order is not None else other


# ---- seeds

_SEED = re.compile(r"seed[_=-]?(\d+)", re.IGNORECASE)


def seeds(predictions: Sequence[Predictions]) -> list[int] | None:
    """The seed of each, as its trial or file name tells; None where names tell no different numbers.

    A number after the word seed, or else the one number in which the names differ.
    """
    of_trials = [p.trial.seed for p in predictions if p.trial is not None]
    if len(of_trials) == len(predictions):
        return of_trials
    by_word = [int(numbers[-1]) for place in _places(predictions) if (numbers := _SEED.findall(place))]
    varying = varying_numbers(_places(predictions))
    only_varying = varying[0] if len(varying) == 1 else []
    for numbers in (by_word, only_varying):
        if len(numbers) == len(predictions) == len(set(numbers)):
            return numbers
    return None


def _places(predictions: Sequence[Predictions]) -> list[str]:
    """Paths of predictions, or their names where they come from no file."""
    return [p.file or p.name for p in predictions]


def _refuse_crossed(firsts: Sequence[Predictions], others: Sequence[Predictions], names: tuple[str, str]) -> None:
    """Raises DataError where names differ in several numbers, and one of these puts the files in another order."""
    ours, theirs = (varying_numbers(_places(side)) for side in (firsts, others))
    same = [(a, b) for a in ours for b in theirs if len(set(a)) == len(a) and sorted(a) == sorted(b)]
    if same and not any(a == b for a, b in same):
        raise Refusal.CROSSED.of("", names=names, one=listed(same[0][0]), other=listed(same[0][1]))


def paired(firsts: Sequence[Predictions], others: Sequence[Predictions], names: tuple[str, str]) -> list[Predictions]:
    """The predictions `others` in the order of the seeds of `firsts`, where file names tell the seeds of both.

    Args:
        names: what the two are, for errors.

    Raises:
        DataError: their seeds differ.
    """
    ours, theirs = seeds(firsts), seeds(others)
    if ours is None or theirs is None:
        if len(firsts) == len(others):
            _refuse_crossed(firsts, others, names)
        return list(others)
    lacking = [(names[1], sorted(set(ours) - set(theirs))), (names[0], sorted(set(theirs) - set(ours)))]
    gaps = [f"{name} lacks {listed(numbers)}" for name, numbers in lacking if numbers]
    if gaps:
        ours_listed, theirs_listed = listed(sorted(ours)), listed(sorted(theirs))
        raise Refusal.SEEDS_DIFFER.of("", names=names, ours=ours_listed, theirs=theirs_listed, gaps="; ".join(gaps))
    by_seed = dict(zip(theirs, others, strict=True))
    return [by_seed[seed] for seed in ours]
