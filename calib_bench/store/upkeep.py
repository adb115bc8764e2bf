"""What is done to the trials of a run folder as a whole: broken ones are set aside, folders become archives."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from calib_bench.errors import StoreError
from calib_bench.store import places
from calib_bench.store.places import Folder
from calib_bench.store.trials import StoredTrials

ARCHIVE_TRIALS, ARCHIVE_BYTES = 128, 1 << 26
"""The most that `upgrade` puts into one archive: of trials, and of bytes."""


def audit(trials: StoredTrials) -> list[str]:
    """Set every broken trial aside; returns which and why.

    What a killed process left half written is removed once its trial is stored.
    """
    if trials.mirror:
        trials.mirror.complete()
    names = sorted(os.listdir(trials.folder)) if os.path.isdir(trials.folder) else []
    messages = [message for name in names for message in _audited(trials, Path(trials.folder, name))]
    stored = {name.removesuffix(places.SUFFIX) for name in names} | trials.whole.keys()
    for name in names:
        if name.startswith(".") and name.split(".")[1] in stored:
            _remove(Path(trials.folder, name))
    return messages


def _audited(trials: StoredTrials, path: Path) -> list[str]:
    """What is wrong with a trial's folder, or an archive's trials; it is then set aside."""
    if path.name.startswith("."):
        return []
    if path.suffix == places.SUFFIX:
        return _audited_archive(trials, path)
    why = trials.broken(path.name, Folder(str(path)))
    return [f"{why}. Moved to {trials.set_aside(path)}."] if why else []


def _audited_archive(trials: StoredTrials, path: Path) -> list[str]:
    """An archive with broken trials is set aside, after its whole ones were written anew."""
    try:
        members = trials.archives.add(path)
    except StoreError as error:
        return [f"{error}. Moved to {trials.set_aside(path)}."]
    broken = {key: why for key, member in members.items() if (why := trials.broken(key, member))}
    if not broken:
        return []
    trials.pack({key: member for key, member in members.items() if key not in broken})
    target = trials.set_aside(path)
    return [f"{why}. Moved to {target}." for why in broken.values()]


def upgrade(trials: StoredTrials) -> tuple[int, list[str]]:
    """Put trials that have a folder of their own into archives; returns how many, and what is wrong with those that
    stay as they are since they are not whole. One that is large stays too.

    Raises:
        DiskFull, StoreError: an archive cannot be written.
    """
    folders = {path.name: Folder(str(path)) for path in trials.folders()}
    broken = [why for key, folder in folders.items() if (why := trials.broken(key, folder))]
    batches = list(_batches({key: folder for key, folder in folders.items() if key in trials.whole}))
    for batch in batches:
        trials.pack({key: folder for key, folder in batch.items() if not _is_packed(trials, key)})
        for key in batch:
            _remove_folder(trials, key)
    return sum(map(len, batches)), broken


def _is_packed(trials: StoredTrials, key: str) -> bool:
    """Whether an archive holds the trial whole."""
    member = trials.archives.get(key)
    return member is not None and not trials.broken(key, member)


def _remove_folder(trials: StoredTrials, key: str) -> None:
    """Remove the folder of a trial that an archive holds, under another name, so that nobody meets half of it."""
    hidden = Path(f"{trials.folder}/.{key}.{uuid.uuid4().hex[:8]}")
    Path(trials.folder, key).rename(hidden)
    _remove(hidden)
    if trials.mirror:
        trials.mirror.forget(f"trials/{key}")


def _batches(stored: Mapping[str, Folder]) -> Iterator[dict[str, Folder]]:
    """Trials in the order of their keys, as many as an archive takes; those that are too large for any are left out."""
    batch: dict[str, Folder] = {}
    room = ARCHIVE_BYTES
    for key, folder in sorted(stored.items()):
        size = sum(entry.stat().st_size for entry in os.scandir(folder.path))
        if size > ARCHIVE_BYTES:
            continue
        if batch and (size > room or len(batch) == ARCHIVE_TRIALS):
            yield batch
            batch, room = {}, ARCHIVE_BYTES
        batch[key] = folder
        room -= size
    if batch:
        yield batch


def _remove(path: Path) -> None:
    """Remove a file, or a folder and all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
