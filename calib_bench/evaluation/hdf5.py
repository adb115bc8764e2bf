"""HDF5 files: the predictions of one group, `file.h5:dataset/model`, and which groups of a file hold any.

In CalArena's layout a group dataset/model holds probas_cal, labels_cal, probas_test, labels_test, for two classes the
probability of class 1 alone (Berta et al., 2026).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from calib_bench.errors import SettingsError, nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import LazyArrays, composed, decoded
from calib_bench.evaluation.refusals import UNREADABLE, Refusal, unreadable
from calib_bench.evaluation.splits import CALIBRATION, TEST, named_splits
from calib_bench.evaluation.vocabulary import listed

SUFFIXES = (".h5", ".hdf5", ".hdf")
NO_H5PY = 'HDF5 files need h5py: pip install "calib_bench[hdf5]"'


def is_hdf5(place: str) -> bool:
    """Whether a word names an HDF5 file, or a group in one, by the end of the file's name."""
    return Path(place.partition(":")[0]).suffix.lower() in SUFFIXES


def h5py() -> Any:
    """The library.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        import h5py
    except ImportError:
        raise SettingsError(NO_H5PY) from None
    return h5py


def groups(path: Path) -> list[str]:
    """The groups of a file that hold predictions and labels, in the order of their names; the root is empty.

    Raises:
        DataError: it cannot be read, or no group holds any.
    """
    if not path.is_file():
        raise unreadable(path, FileNotFoundError())
    return list(_groups(path, path.stat().st_mtime_ns))


@lru_cache(maxsize=8)
def _groups(path: Path, changed: int) -> tuple[str, ...]:
    """See `groups`.

    Args:
        changed: when the file was changed, for the cache.
    """
    try:
        with h5py().File(path) as file:
            names = _datasets(file)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(_group(name), []).append(name)
    holding = [group for group, inside in members.items() if named_splits(_within(group, inside)) or _plain(inside)]
    if not holding:
        raise Refusal.NO_GROUPS.of(path, names=listed(names[:6]) or "nothing")
    return tuple(holding)


def _datasets(node: Any) -> list[str]:
    """Names of all arrays below a node of an open file."""
    names: list[str] = []
    node.visititems(lambda name, one: names.append(name) if isinstance(one, h5py().Dataset) else None)
    return names


def _group(name: str) -> str:
    """The group that an array's predictions belong to: its own, or that around one named as a split."""
    parts = name.split("/")[:-1]
    if parts and parts[-1].lower() in (*TEST, *CALIBRATION):
        parts = parts[:-1]
    return "/".join(parts)


def _within(group: str, names: Iterable[str]) -> list[str]:
    return [name[len(group) + 1 :] if group else name for name in names]


def _plain(names: Iterable[str]) -> bool:
    """Whether arrays of one group are predictions and labels of no split."""
    return bool(named_splits([f"test_{name.rpartition('/')[2]}" for name in names]))


def places(word: str) -> list[str]:
    """Every `file:group` that a word `file:pattern` names; a word without a pattern as it is.

    Raises:
        DataError: no group matches.
    """
    file, _, pattern = word.partition(":")
    if not any(mark in pattern for mark in "*?["):
        return [word]
    every = groups(Path(file))
    matching = [group for group in every if fnmatch.fnmatchcase(group, pattern)]
    if not matching:
        raise Refusal.NO_SUCH_GROUP.of(file, group=pattern, hint=nearest(pattern, every[:1000]))
    return [f"{file}:{group}" for group in matching]


def read_group(path: Path, group: str) -> tuple[str, Mapping[str, Array]]:
    """The name of a group and its arrays by their names in it; without a name the only group that holds predictions.

    Raises:
        DataError: there is no such group, or several may be meant.
    """
    every = groups(path)
    if not group and len(every) > 1:
        raise Refusal.SEVERAL_GROUPS.of(path, number=len(every), names=listed(every[:3]), first=every[0])
    group = group.strip("/") if group else every[0]
    if group not in every:
        raise Refusal.NO_SUCH_GROUP.of(path, group=group, hint=nearest(group, every[:1000]))

    def member(name: str) -> Array:
        try:
            with h5py().File(path) as file:
                return _array(file[f"{group}/{name}"])
        except UNREADABLE as error:
            raise unreadable(path, error, f"the array {name!r}") from None

    with h5py().File(path) as file:
        inside = _datasets(file[group or "/"])
    return group, LazyArrays([name for name in inside if _group(f"{group}/{name}".strip("/")) == group], member)


def _array(dataset: Any) -> Array:
    """The numbers of a dataset; texts as texts."""
    if h5py().check_string_dtype(dataset.dtype) is not None:
        return composed(np.asarray(dataset.asstr()[()], dtype=object))
    return decoded(dataset[()])
