"""Stored trials by the word that names them, and what they predicted, as numpy arrays: none of this needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calib_bench.core.trial import Trial
from calib_bench.errors import StoreError, nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.refusals import Refusal
from calib_bench.store.store import Store, is_run


def stored(place: str) -> tuple[Store, str] | None:
    """The run folder and key that a word names; None if it names no stored trial.

    Raises:
        StoreError: the run folder holds no such trial.
    """
    path = Path(place)
    if path.name == "trial.json":
        path = path.parent
    if is_trial(path):
        store = Store(path.parent.parent, "read")
        return store, _key(store, path.name)
    folder, colon, key = place.rpartition(":")
    if not colon or not is_run(Path(folder)):
        return None
    store = Store(Path(folder), "read")
    return store, _key(store, key)


def is_trial(path: Path) -> bool:
    """Whether a path is that of a trial in a run folder, RUN/trials/KEY, be the trial a folder or in an archive."""
    return path.parent.name == "trials" and ":" not in path.name and is_run(path.parent.parent)


def _key(store: Store, beginning: str) -> str:
    """The only key of a run folder's trials with a beginning."""
    keys = store.stored_keys()
    matches = [key for key in keys if beginning and key.startswith(beginning)]
    if len(matches) != 1:
        hint = f"{len(matches)} trials begin with it" if matches else nearest(beginning, sorted(keys)[:20])
        raise StoreError(f"{store.label} holds no trial {beginning!r}: {hint}")
    return matches[0]


def stored_arrays(store: Store, trial: Trial, splits: Sequence[str]) -> dict[str, tuple[Array, Array]]:
    """Z = beta z [N, K] and labels [N] of splits of a stored trial, by their names.

    Raises:
        DataError: the trial diverged.
        StoreError: it is not whole.
    """
    record = store.record(trial)
    if record.status != "done":
        raise Refusal.NO_LOGITS.of(store.folder(trial), status=record.status)
    z, y = store.logit_arrays(trial), store.label_arrays(trial)
    return {split: (trial.beta * z[split].astype("float64"), y[split]) for split in splits}
