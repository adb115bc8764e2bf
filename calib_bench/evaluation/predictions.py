"""Anyone's predictions as checked tensors: files, pairs of files, globs, stored trials.

A word of the command line names predictions as `FILE`, as `logits.npy:labels.npy`, as `file.h5:dataset/model`, as a
pattern with `*`, as several of them joined by commas (one a seed), or as a stored trial: `runs/<study>/trials/<key>` or
`runs/<study>:<key>`.
"""

from __future__ import annotations

import glob
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from calib_bench.errors import DataError, SettingsError, nearest
from calib_bench.evaluation import hdf5
from calib_bench.evaluation.formats import load
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.stored import is_trial, stored, stored_arrays
from calib_bench.evaluation.validation import Predictions, check, refuse_places
from calib_bench.evaluation.vocabulary import KINDS
from calib_bench.store.store import Store, is_run
from calib_bench.system import files

__all__ = ["Predictions", "check", "check_kind", "is_trial", "read", "read_trial", "stored"]
STORED = "stored trial: {trial.task} {trial.model} beta={trial.beta:g} {trial.objective} seed={trial.seed}"


def check_kind(kind: str | None) -> str | None:
    """The kind, if it is one.

    Raises:
        SettingsError: it is not.
    """
    if kind is not None and kind not in KINDS:
        raise SettingsError(f"--kind {kind} is unknown: {nearest(kind, KINDS)}")
    return kind


def read(
    word: str,
    split: str = "test",
    kind: str | None = None,
    trust: bool = False,
    labels: str | None = None,
    groups: str | None = None,
) -> list[Predictions]:
    """Every prediction a word names, one a seed: files in natural order, stored trials in the order of their seeds.

    Args:
        split: of a stored trial: "selection", "calibration" or "test"; of a file with two splits, one of the last two.
        kind: see `formats.load`.
        labels, groups: the names of the labels and of the slices in a file, see `formats.load`.

    Raises:
        DataError, StoreError: it cannot be found or read, or its numbers cannot be right.
    """
    parts = [word] if Path(word).exists() else word.split(",")
    places = [place for part in parts for place in _places(part.strip())]
    predictions = [_read(place, split, kind, trust, labels, groups) for place in places]
    seeds = [p.trial.seed for p in predictions if p.trial is not None]
    if len(seeds) < len(predictions):
        return predictions
    if len(set(seeds)) < len(seeds):
        raise Refusal.SAME_SEED.of(word)
    return sorted(predictions, key=lambda p: p.trial.seed if p.trial is not None else 0)


def _places(part: str) -> list[str]:
    if not part:
        raise SettingsError("a list of predictions has an empty item: remove the extra comma")
    if hdf5.is_hdf5(part) and ":" in part:
        return hdf5.places(part)
    if Path(part).exists() or not re.search(r"[*?\[]", part):
        return [part]
    paths = sorted(glob.glob(part), key=lambda path: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", path)])
    if not paths:
        raise DataError(f"no file matches {part}")
    return paths


def _read(place: str, split: str, kind: str | None, trust: bool, labels: str | None, groups: str | None) -> Predictions:
    trial = stored(place)
    if trial is not None:
        if groups is not None:
            raise Refusal.NO_COLUMNS.of(place, groups=groups)
        return read_trial(*trial, split)
    path, part = _cut(place)
    inputs = _inputs(place, path, part)
    content = load(path, part, kind, labels, split, groups)
    pa.default_memory_pool().release_unused()  # of a table that was read: as much again as its numbers take
    origin = next(iter(inputs))
    checked = check(content.values, content.labels, content.kind, origin, trust=trust, notes=content.notes, ours=True)
    named = replace(
        checked,
        name=part if hdf5.is_hdf5(origin) and part else path.stem,
        sha256=inputs,
        classes=content.classes or checked.classes,
        by_name=content.by_name or checked.by_name,
        ids=content.ids,
        groups=content.groups,
        has_calibration=content.has_calibration,
    )
    refuse_places(named)
    return named


def _inputs(place: str, path: Path, part: str) -> dict[str, str]:
    """Digests of the files that a place names, by their paths; that of an HDF5 file by the place of its group.

    Raises:
        DataError: one of them does not exist.
    """
    is_group = hdf5.is_hdf5(place)
    paths = {place if is_group else str(path): path} | ({part: Path(part)} if part and not is_group else {})
    for one in paths.values():
        if not one.is_file():
            raise Refusal.NO_FILE.of(missing(one))
    return {name: _sha256(one, one.stat().st_mtime_ns) for name, one in paths.items()}


@lru_cache(maxsize=8)
def _sha256(path: Path, changed: int) -> str:
    """The digest of a file as it was changed last: a file of many groups is read once."""
    return files.sha256(path)


def _cut(place: str) -> tuple[Path, str]:
    """A file, and what stands behind its colon: the npy file of labels or the group of an HDF5 file."""
    path = Path(place)
    if path.exists():
        return path, ""
    first, _, second = place.partition(":")
    return Path(first), second


def missing(path: Path) -> str:
    """What is in the place of a file that is missing, for people: a folder, or nothing, and files of like names."""
    if path.is_dir():
        inside = "a run folder: name one of its trials" if (path / "store.json").exists() else "a folder"
        return f"{path} is {inside}"
    return f"{path} does not exist{files.near(path, lambda other: other.is_file() or is_run(other))}"


def read_trial(store: Store, key: str, split: str) -> Predictions:
    """Z = beta z and labels of a split of a stored trial.

    Raises:
        DataError: the trial diverged.
        StoreError: it is not whole.
    """
    trial = store.trial(key)
    Z_NK, y_N = stored_arrays(store, trial, (split,))[split]
    checked = check(Z_NK, y_N, "logits", f"{store.folder(trial)} ({split})", trust=True)
    notes = (*checked.notes, STORED.format(trial=trial))
    return replace(checked, name=key, sha256=store.digests(trial), notes=notes, trial=trial)
