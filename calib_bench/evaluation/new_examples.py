"""Predictions of new examples: files whose labels are not known, or are not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from calib_bench.core.trial import Trial
from calib_bench.errors import DataError, SettingsError
from calib_bench.evaluation import Array, hdf5
from calib_bench.evaluation.archives import npy, npz, safetensors
from calib_bench.evaluation.confidence import confidence_of
from calib_bench.evaluation.dialects import table_suffix
from calib_bench.evaluation.fits import Fitted, fit_to, load, unlabelled, without_labels
from calib_bench.evaluation.predictions import Predictions, is_trial, missing, read, read_trial, stored
from calib_bench.evaluation.splits import named_splits
from calib_bench.evaluation.text_tables import read_table
from calib_bench.evaluation.vocabulary import LABELS, letters


def read_new(path: Path, kind: str | None = None) -> tuple[Predictions, bool]:
    """The predictions of a file, and whether it holds labels too; without any, all labels are 0.

    Args:
        path: a file as `evaluate` reads it; or one npy file of predictions, with `kind`.
        kind: what the numbers are, where no name says it.

    Raises:
        DataError: it cannot be read as predictions.
    """
    if hdf5.is_hdf5(str(path)):
        return read(str(path), kind=kind, trust=True)[0], True
    if not path.is_file():
        raise DataError(f"{missing(path)}: give a file of predictions")
    suffix = table_suffix(path)
    if suffix == ".npy":
        if kind is None:
            raise DataError(f"{path} holds numbers without a name: say what they are with --kind logits, for example")
        return unlabelled(npy(path), kind, str(path)), False
    is_archive = suffix in (".npz", ".safetensors")
    arrays: Mapping[str, Array]
    notes: list[str] = []
    if is_archive:
        arrays = npz(path) if suffix == ".npz" else safetensors(path)
    else:
        columns, notes = read_table(path)
        arrays = _without_empty_labels(columns)
    if _has_labels(arrays, str(path), kind):
        return read(str(path), kind=kind, trust=True)[0], True
    return replace(without_labels(arrays, str(path), kind, not is_archive, notes), name=path.stem), False


def _has_labels(arrays: Mapping[str, Array], origin: str, kind: str | None) -> bool:
    """Whether arrays say what was right: labels, those of a split, or whether answers were right."""
    is_labelled = bool(named_splits(arrays)) or any(map(_is_label, arrays))
    return is_labelled or (kind is None and confidence_of(arrays, origin) is not None)


def _is_label(name: str) -> bool:
    return letters(name) in {letters(usual) for usual in LABELS}


def _without_empty_labels(columns: Mapping[str, Array]) -> dict[str, Array]:
    empty = {
        name for name, column in columns.items() if _is_label(name) and set(column.astype(str).flat) <= {"", "nan"}
    }
    return {name: column for name, column in columns.items() if name not in empty}


def fit_named(word: str) -> tuple[Fitted, Trial | None]:
    """The fit that a word names, and the stored trial that it is of.

    Args:
        word: FILE, FILE:NAME, or runs/STUDY:KEY:METHOD, a stored trial and a calibrator, which is fitted to its
            calibration split there and then: the logits are stored, and a fit is a function of them.

    Raises:
        UserError: there is no such fit.
    """
    if Path(word).is_file():
        return load(word), None
    place, colon, name = word.rpartition(":")
    if Path(place).is_file() and Path(place).name != "trial.json":
        return load(place, name), None
    is_run = (Path(place) / "store.json").is_file()  # then what follows the colon is a key
    if is_run or is_trial(Path(word)):
        raise SettingsError(f"{word} is a stored trial: name a calibrator too, {word}:temperature_scaling")
    trial_place = stored(place) if colon else None
    if trial_place is None:
        raise DataError(f"{word} names no fits: give a file of fits, FILE:NAME, or runs/STUDY:KEY:METHOD")
    calibration = read_trial(*trial_place, "calibration")
    assert calibration.trial is not None
    names = tuple(trial_place[0].split_info(calibration.trial)["class_names"])
    if names != tuple(map(str, range(len(names)))):
        calibration = replace(calibration, classes=names)
    return fit_to(name, calibration), calibration.trial
