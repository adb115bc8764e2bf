"""Data as a pretrained head sees it: labels become the indices of the head's outputs, matched by class name."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from calib_bench.core.splits import SPLITS, Splits
from calib_bench.data.tensors import with_labels
from calib_bench.errors import SettingsError

MOSTLY = 0.9
"""Share of a head's classes whose names must put them where they are, for names that say nothing to be there too."""


@dataclass(frozen=True)
class Head:
    """The classes of a pretrained head, in the order of its outputs.

    Attributes:
        synsets: their WordNet ids, such as "n01440764".
        descriptions: their names for people, synonyms parted by commas.
    """

    synsets: tuple[str, ...]
    descriptions: tuple[str, ...]


class Unmatched(Exception):
    """Class names that are not the head's, or that do not tell which of its classes they mean."""


def places(names: Sequence[str], head: Head) -> tuple[int, ...]:
    """The head's output of each class name, each another one.

    A name tells its class by a WordNet id, alone or within a longer name; else, all of them being numbers from 0 to the
    head's last output, by that number; else by the class's description or one of its synonyms, where that is one class
    of the head's or the only one that no other name means.

    Raises:
        Unmatched: a name means no class of the head's, or several; says which.
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return _numbers(names, len(head.synsets))
    meanings = _meanings(head)
    may_be = [_candidates(name, meanings) for name in names]
    if in_place := _standing(may_be, len(head.synsets)):
        return in_place
    chosen = _settled(may_be)
    if None in chosen:
        lost = chosen.index(None)
        raise _unmatched(names[lost], may_be[lost], head)
    return tuple(place for place in chosen if place is not None)


def _unmatched(name: str, candidates: set[int], head: Head) -> Unmatched:
    """The error for a class name that means none of a head's classes, or several of them."""
    if not candidates:
        return Unmatched(f"'{name}' is none of its classes")
    means = " or ".join(f"{head.synsets[k]} ({head.descriptions[k]})" for k in sorted(candidates))
    return Unmatched(f"'{name}' means {means}")


def _numbers(names: Sequence[str], count: int) -> tuple[int, ...]:
    numbers = tuple(int(name) for name in names)
    if sorted(numbers) != list(range(count)):
        raise Unmatched(f"{len(names)} numbers do not tell which of its {count:,} classes are meant")
    return numbers


def _meanings(head: Head) -> Mapping[str, set[int]]:
    """Every word for a class of the head's -> which it may mean."""
    meanings: dict[str, set[int]] = {}
    for k, (synset, description) in enumerate(zip(head.synsets, head.descriptions, strict=True)):
        for word in (synset, description, *description.split(",")):
            meanings.setdefault(_plain(word), set()).add(k)
    return meanings


def _candidates(name: str, meanings: Mapping[str, set[int]]) -> set[int]:
    ids = set(re.findall(r"(?<![0-9A-Za-z])n[0-9]{8}(?![0-9])", name))
    if ids:
        return set().union(*(meanings.get(one, set()) for one in ids))
    return meanings.get(_plain(name), set())


def _plain(name: str) -> str:
    """A name without case, underscores and spare spaces."""
    return " ".join(name.casefold().replace("_", " ").split())


def _standing(may_be: Sequence[set[int]], count: int) -> tuple[int, ...] | None:
    """0..K-1 where there is a name for every output, most of them at its own place and none known to be elsewhere."""
    if len(may_be) != count:
        return None
    here = [k in candidates for k, candidates in enumerate(may_be)]
    elsewhere = any(candidates and not at for candidates, at in zip(may_be, here, strict=True))
    return tuple(range(count)) if not elsewhere and sum(here) >= MOSTLY * count else None


def _settled(may_be: Sequence[set[int]]) -> list[int | None]:
    """The only candidate of each name, after those that are another's only one are struck out, over and over."""
    left = [set(candidates) for candidates in may_be]
    chosen: list[int | None] = [None] * len(left)
    while True:
        new = {i: next(iter(one)) for i, one in enumerate(left) if chosen[i] is None and len(one) == 1}
        if len(set(new.values())) < len(new) or not new:
            return chosen
        for i, place in new.items():
            chosen[i] = place
            left = [one - {place} for one in left]


def on_head(splits: Splits, head: Head | None, model: str, scored: bool) -> Splits:
    """The splits with the head's classes for theirs, wherever their class names tell which those are.

    Args:
        splits: as the task loads them.
        head: None where it is not known what its outputs stand for.
        model: the model's name, for people.
        scored: whether the head's logits are measured without training, so that nothing can mend a wrong order.

    Returns:
        K becomes the number of the head's outputs and labels its indices; the splits as they are where names do not
        tell, which is harmless as long as they train a head.

    Raises:
        SettingsError: the head is to be scored, and the names do not tell.
    """
    if head is None:
        return splits
    try:
        index_K = places(splits.class_names, head)
        if tuple(index_K) == tuple(range(len(head.synsets))):
            _check_not_counted_anew(splits)
    except Unmatched as error:
        if not scored:
            return splits
        raise SettingsError(
            f"the head of {model} has {len(head.synsets):,} classes, and those of the data cannot be matched with "
            f"them: {error}. Name the classes as the head does (those of ImageNet by their WordNet ids, such as "
            "n01440764), as ClassLabel or folders, or give epochs= to train a new head"
        ) from None
    if tuple(index_K) == tuple(range(len(head.synsets))):
        return splits
    return _relabelled(splits, index_K, head)


def on_named_head(splits: Splits, names: Sequence[str], origin: str) -> Splits:
    """The splits with the classes of a head for theirs, whose names it gives in the order of its outputs.

    Args:
        origin: what names them, for people.

    Returns:
        As of `on_head`; the splits as they are where the head has other classes, and another number of them.

    Raises:
        SettingsError: the head has as many classes, and others.
    """
    try:
        index_K = _by_name(splits.class_names, names)
    except Unmatched as error:
        if len(names) != splits.classes:
            return splits
        raise SettingsError(
            f"{origin} names {len(names):,} classes, and those of the data cannot be matched with them: {error}. Name "
            "them alike, or leave the head's tensors out of the file to train a new head"
        ) from None
    in_order = index_K == tuple(range(len(names)))
    return splits if in_order else _relabelled(splits, index_K, Head(tuple(names), tuple(names)))


def _by_name(class_names: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The place of each class among a head's names: where it is called alike, else as of `places`.

    Raises:
        Unmatched: it has none; or those of one of the two are called by numbers alone.
    """
    place = {name: k for k, name in enumerate(names)}
    if set(class_names) <= place.keys() and len(place) == len(names):
        return tuple(place[name] for name in class_names)
    if class_names[0].isdigit() or names[0].isdigit():
        raise Unmatched(f"'{next(name for name in class_names if name not in place)}' is none of its classes")
    return places(class_names, Head(tuple(names), tuple(names)))


def _check_not_counted_anew(splits: Splits) -> None:
    """Raises Unmatched where a few classes are counted 0, 1, ... under a declaration of many."""
    classes = np.unique(np.concatenate([splits[name].labels.numpy() for name in ("train", "calibration", "test")]))
    if 1 < len(classes) < splits.classes and classes[-1] == len(classes) - 1 and _numbered(splits.class_names):
        raise Unmatched(f"the labels are 0 to {classes[-1]}, without names, as if those classes were counted anew")


def _numbered(names: Sequence[str]) -> bool:
    return tuple(names) == tuple(str(k) for k in range(len(names)))


def _relabelled(splits: Splits, index_K: tuple[int, ...], head: Head) -> Splits:
    to = torch.tensor(index_K)
    names = list(head.synsets)
    for name, place in zip(splits.class_names, index_K, strict=True):
        names[place] = name
    count = len(names)
    note = f"labels are those of the pretrained head's {count:,} outputs, by class name" + (
        f"; {len(index_K)} of them occur" if len(index_K) < count else ""
    )
    made = hashlib.sha256(f"{splits.preparation}{index_K}{count}".encode()).hexdigest()
    changed: dict[str, Any] = {name: with_labels(splits[name], to[splits[name].labels]) for name in ("train", *SPLITS)}
    notes = {**splits.notes, "head": note}
    return replace(splits, **changed, classes=count, class_names=tuple(names), notes=notes, preparation=made)
