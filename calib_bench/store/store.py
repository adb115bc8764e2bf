"""The store: a run folder, the truth on disk. Every later stage reads it and nothing else.

    store.json                      schema version
    study.json                      resolved settings, command, versions and plan of the last run
    study.toml                      the same settings as a file for `run config=`
    splits/<name>/                  labels.safetensors, split.json (source, digest, class names), once per split
    trials/<key>/                   trial.json, history.parquet, logits.safetensors; of a probe, arrays.safetensors;
                                    of a trial that keeps logits on its way, snapshots.safetensors;
                                    of one that keeps its model, weights.safetensors
    trials/<digest>.zip             such folders, of trials that were trained together, see `calib_bench.store.places`
    checkpoints/                    of trials under way
    claims/                         which driver is at work on what
    failed/<key>.json               why a trial could not be finished, until it is
    damaged/                        what was found broken, kept for a look

What is written of trials, folder or archive, has a temporary name and is renamed when whole. `trial.json` holds the
SHA-256 of its neighbours and of itself. Nothing here is ever unpickled.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from calib_bench.core import fate
from calib_bench.core.results import Record
from calib_bench.core.settings import Settings
from calib_bench.core.trial import CROSS_ENTROPY, NUMERICS, Score, Scores, Snapshot, Trial, key_of
from calib_bench.errors import StoreError
from calib_bench.store import mirror, places
from calib_bench.store.checkpoints import Checkpoints
from calib_bench.store.contents import SCHEMA, content_of
from calib_bench.store.failures import Failures
from calib_bench.store.places import FILES, RECORD, Archives, Folder, Place
from calib_bench.store.splits import StoredSplits, numpy_arrays, tensors
from calib_bench.system import environment, files, object_store
from calib_bench.system.redaction import redact, redacted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from calib_bench.core.splits import Splits
    from calib_bench.core.trial import TrialResult

RECENT = 4096
"""Records kept in memory; others are read again."""
ARCHIVE_TRIALS, ARCHIVE_BYTES = 128, 1 << 26
"""The most that `Store.upgrade` puts into one archive: of trials, and of bytes."""
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: dict}
"""From schema n of trial.json to n + 1, by n: a trial is brought up to date when it is read."""


class Store:
    """One run folder.

    Args:
        path: the folder, or an address as s3://bucket/folder, of which there is then a copy on this machine.
        mode: "write" makes it where it is missing, "read" wants it to be there, "peek" takes a missing one as empty.

    Attributes:
        address: the folder as it was given: what another process opens.
        path: the folder on this machine.
        label: the address, for people.
        failures, checkpoints, splits: the parts of it that are not trials.

    Raises:
        StoreError: the folder is missing, cannot be made or written, or was written by a newer version.
    """

    def __init__(self, path: Path, mode: Literal["write", "read", "peek"] = "write") -> None:
        url = object_store.url_of(path)
        self.address, self.label = path, url or str(path)
        self.mirror = mirror.Mirror(url) if url else None
        if self.mirror:
            self.mirror.open(write=mode == "write")
            path = self.mirror.folder
        self.path = path
        self._trials = str(path / "trials")
        self._archives = Archives(path / "trials")
        self._records: dict[str, Record] = {}
        self._whole: dict[str, tuple[str, dict[str, float]]] = {}  # status and selection scores: all that a plan needs
        self._alike: dict[str, Any] = {}
        self.failures = Failures(path / "failed")
        self.checkpoints = Checkpoints(path / "checkpoints", self.mirror)
        self.splits = StoredSplits(path)
        marker = path / "store.json"
        if marker.exists():
            self._check_version(marker, mode)
        elif mode == "read":
            raise StoreError(f"{self.label} is not a run folder: it has no store.json; `run` makes one")
        elif mode == "write":
            self._mark(NUMERICS)

    def _mark(self, numerics: int) -> None:
        files.write_json(self.path / "store.json", {"schema": SCHEMA, "numerics": numerics})

    def _check_version(self, marker: Path, mode: str) -> None:
        """Raises StoreError where this version of calib_bench cannot go on from the one that wrote the marker."""
        try:
            content = json.loads(marker.read_text())
            schema, numerics = content["schema"], content["numerics"]
            if type(schema) is not int or type(numerics) is not int or schema < 0:
                raise ValueError("no version")
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            fresh = json.dumps({"schema": SCHEMA, "numerics": NUMERICS})
            raise StoreError(f"{marker} is damaged: write {fresh} into it, or use another folder") from None
        if schema > SCHEMA:
            raise StoreError(
                f"{self.path} has schema {schema}, and this version of calib_bench reads up to {SCHEMA}: "
                f"`pip install --upgrade calib_bench`"
            )
        if numerics != NUMERICS and mode == "write":
            raise StoreError(
                f"{self.path} was begun by a version whose trials train to other results (numerics {numerics}, here "
                f"{NUMERICS}): give another folder with out=, or go on with that version"
            )
        if schema < SCHEMA and mode == "write":
            self._mark(numerics)

    def __reduce__(self) -> tuple[type[Store], tuple[Path, str]]:
        """Another process opens the folder anew, to read."""
        return Store, (self.address, "read")

    def refresh(self) -> None:
        """Learn what others have stored since: where the store is a plain folder, that shows by itself."""
        if self.mirror:
            self.mirror.refresh()

    # trials

    def folder(self, trial: Trial) -> Path:
        """Where a trial's files are, or would be, if it has a folder of its own."""
        return self.path / "trials" / trial.key

    def place(self, key: str) -> Place | None:
        """Where the trial of a key is stored; None where it is not.

        Raises:
            StoreError: an archive is damaged, so that nobody knows which trials it holds.
        """
        if member := self._archives.get(key):
            return member
        folder = f"{self._trials}/{key}"
        if os.path.exists(f"{folder}/{RECORD}") or (self.mirror and self.mirror.has(key)):
            return Folder(folder)
        self._archives.look()
        return self._archives.get(key)

    def _stored(self, trial: Trial) -> Place:
        """Where a trial is stored; raises StoreError where it is not."""
        place = self.place(trial.key)
        if place is None:
            raise StoreError(f"{self.folder(trial) / RECORD} is missing")
        return place

    def stored_keys(self) -> set[str]:
        """Keys of all stored trials, be they whole or not."""
        self._archives.look()
        return {path.parent.name for path in self._folders()} | self._archives.keys()

    def _folders(self) -> list[Path]:
        """trial.json of every trial that has a folder of its own."""
        return sorted(self.path.glob(f"trials/[!.]*/{RECORD}"))

    def trial(self, key: str) -> Trial:
        """The trial that is stored under a key.

        Raises:
            StoreError: it is not there, or not whole.
        """
        place = self.place(key)
        if place is None:
            raise StoreError(f"{self.label} holds no trial {key}")
        return Trial.model_validate(self._read(key, place)["trial"])

    def files(self, trial: Trial) -> dict[str, bytes]:
        """A stored trial's files by name, trial.json included."""
        return self._bytes(trial.key, self._stored(trial))

    def _bytes(self, key: str, place: Place) -> dict[str, bytes]:
        return {name: place.read(name) for name in (*self._read(key, place)["files"], RECORD)}

    def digests(self, trial: Trial, kind: str = "logits") -> dict[str, str]:
        """SHA-256 of a stored trial's logits, or weights, by their place; raises StoreError where it is not whole."""
        self.has(trial)
        place = self._stored(trial)
        claims, name = self._read(trial.key, place)["files"], f"{kind}.safetensors"
        return {place.at(name): claims[name]["sha256"]} if name in claims else {}

    def has(self, trial: Trial) -> bool:
        """Whether the trial is stored whole. What is there but broken raises, see `audit`."""
        if trial.key in self._whole:
            return True
        place = self.place(trial.key)
        if place is None:
            return False
        self._check(trial.key, place)
        return True

    def _check(self, key: str, place: Place) -> None:
        content = self._read(key, place)
        for name, claim in content["files"].items():
            if name not in FILES:
                raise StoreError(f"{place.at(RECORD)} names {name!r}, which no trial holds: it is foreign")
            if not (place.holds(name) and place.is_whole(name, claim["bytes"], claim["sha256"])):
                damage = "is damaged: its bytes are not those that were written"
                state = damage if place.holds(name) else "is missing"
                raise StoreError(f"{place.at(name)} {state}; run the study's command again to redo this one trial")
        selection = dict(content["facts"].get("selection") or {})
        if (entropy := content["facts"].get("label_entropy")) is not None:
            selection["label_entropy"] = entropy
        self._whole[key] = sys.intern(content["status"]), {sys.intern(name): v for name, v in selection.items()}

    def _shared(self, name: str, value: Any) -> Any:
        """The value, or the equal one that the last trial had: most trials of a store share data and environment."""
        if self._alike.get(name) != value:
            self._alike[name] = value
        return self._alike[name]

    def audit(self) -> list[str]:
        """Move every broken trial to `damaged/` and say which and why; only those will be redone.

        What a killed process left half written is removed once its trial is stored.
        """
        if self.mirror:
            self.mirror.complete()
        names = sorted(os.listdir(self._trials)) if os.path.isdir(self._trials) else []
        messages = [message for name in names for message in self._audited(Path(self._trials, name))]
        self._remove_leftovers(names)
        return messages + [message for folder in self.splits.written() for message in self._audited_split(folder)]

    def _audited_split(self, folder: Path) -> list[str]:
        try:
            self.splits.check(folder)
        except StoreError as error:
            return [f"{error}. Moved to {self._set_aside(folder)}."]
        return []

    def _audited(self, path: Path) -> list[str]:
        """What is wrong with a trial's folder, or an archive's trials; it is then set aside."""
        if path.name.startswith("."):
            return []
        if path.suffix == places.SUFFIX:
            return self._audited_archive(path)
        why = self._broken(path.name, Folder(str(path)))
        return [f"{why}. Moved to {self._set_aside(path)}."] if why else []

    def _remove_leftovers(self, names: Sequence[str]) -> None:
        stored = {name.removesuffix(places.SUFFIX) for name in names} | self._whole.keys()
        for name in names:
            if name.startswith(".") and name.split(".")[1] in stored:
                _remove(Path(self._trials, name))

    def _broken(self, key: str, place: Place) -> str:
        """What is wrong with a stored trial; nothing of one that is whole."""
        try:
            self._check(key, place)
        except StoreError as error:
            self._whole.pop(key, None)
            self._records.pop(key, None)
            return str(error)
        return ""

    def _audited_archive(self, path: Path) -> list[str]:
        """An archive with broken trials is set aside, after its whole ones were written anew."""
        try:
            members = self._archives.add(path)
        except StoreError as error:
            return [f"{error}. Moved to {self._set_aside(path)}."]
        broken = {key: why for key, member in members.items() if (why := self._broken(key, member))}
        if not broken:
            return []
        self._pack({key: member for key, member in members.items() if key not in broken})
        target = self._set_aside(path)
        return [f"{why}. Moved to {target}." for why in broken.values()]

    def _set_aside(self, path: Path) -> Path:
        target = self.path / "damaged" / f"{path.name}-{uuid.uuid4().hex[:6]}"
        with files.writing(target):
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another driver was faster
                path.rename(target)
        self._archives.forget(path)
        if self.mirror:
            self.mirror.forget(path.relative_to(self.path).as_posix())
        return target

    def write(self, result: TrialResult, data: dict[str, str], metadata: dict[str, Any]) -> None:
        """Store a trial's result; one that another process stored meanwhile is left as it is."""
        self.write_together([(result, metadata)], data)

    def write_together(self, results: Sequence[tuple[TrialResult, dict[str, Any]]], data: dict[str, str]) -> None:
        """Store results at once, several in one archive; what another process stored meanwhile is left as it is.

        Args:
            results: each with what a trial records beside what its loop reports.
            data: what each records of its data, see `write_splits`.
        """
        contents = {
            result.trial.key: partial(content_of, result, data, metadata, self._class_names(result))
            for result, metadata in results
            if self.place(result.trial.key) is None
        }
        if len(contents) == 1:
            self._write_folder(*contents.popitem())
        elif contents:
            self._add(places.pack(Path(self._trials), list(contents), lambda key: contents[key]()))
        for result, _ in results:
            if self.mirror:
                self.mirror.forget(f"failed/{result.trial.key}.json")
            self.failures.forget(result.trial.key)

    def _class_names(self, result: TrialResult) -> list[str]:
        """Of a trial that keeps its weights, the classes of its head."""
        return self.split_info(result.trial)["class_names"] if result.weights else []

    def _add(self, archive: Path) -> None:
        """A new archive: this process, and other machines, shall know of it."""
        if self.mirror:
            self.mirror.send(archive, archive.read_bytes())
        self._archives.add(archive)

    def _pack(self, stored: Mapping[str, Place]) -> None:
        """Write trials that are stored, and whole, into an archive, and read it again."""
        if not stored:
            return
        archive = places.pack(Path(self._trials), list(stored), lambda key: self._bytes(key, stored[key]))
        for key, member in places.members(archive).items():
            self._check(key, member)
        self._add(archive)

    def _write_folder(self, key: str, content: Callable[[], Mapping[str, bytes]]) -> None:
        final = Path(self._trials, key)
        temporary = final.with_name(f".{key}.{uuid.uuid4().hex[:8]}")
        with files.writing(final):
            temporary.mkdir(parents=True)
            try:
                for name, value in content().items():
                    (temporary / name).write_bytes(value)
                    files.sync(temporary / name)
                files.sync(temporary)
                if not (final / RECORD).exists():
                    temporary.rename(final)
                    files.sync(final.parent)
            except OSError:
                if not (final / RECORD).exists():
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.mirror:
            self.mirror.commit(key)

    def upgrade(self) -> tuple[int, list[str]]:
        """Put trials that have a folder of their own into archives; returns how many, and what is wrong with those that
        stay as they are since they are not whole. One that is large stays too.

        Raises:
            DiskFull, StoreError: an archive cannot be written.
        """
        if self.mirror:
            self.mirror.complete()
        self._archives.look()
        folders = {path.parent.name: Folder(str(path.parent)) for path in self._folders()}
        broken = [why for key, folder in folders.items() if (why := self._broken(key, folder))]
        self._mark(json.loads((self.path / "store.json").read_text())["numerics"])
        batches = list(_batches({key: folder for key, folder in folders.items() if key in self._whole}))
        for batch in batches:
            self._pack_folders(batch)
        return sum(map(len, batches)), broken

    def _pack_folders(self, batch: Mapping[str, Folder]) -> None:
        """Put trials into an archive, those that are in none, then remove their folders."""
        self._pack({key: folder for key, folder in batch.items() if not self._is_packed(key)})
        for key in batch:
            self._remove_folder(key)

    def _remove_folder(self, key: str) -> None:
        """Remove the folder of a trial that an archive holds, under another name, so that nobody meets half of it."""
        hidden = Path(f"{self._trials}/.{key}.{uuid.uuid4().hex[:8]}")
        Path(self._trials, key).rename(hidden)
        _remove(hidden)
        if self.mirror:
            self.mirror.forget(f"trials/{key}")

    def _is_packed(self, key: str) -> bool:
        """Whether an archive holds the trial whole."""
        member = self._archives.get(key)
        return member is not None and not self._broken(key, member)

    def _read(self, key: str, place: Place) -> dict[str, Any]:
        content, path = place.record(), place.at(RECORD)
        for version in range(content.get("schema", 0), SCHEMA):
            if version not in UPGRADES:
                raise StoreError(f"{path} has schema {version}, from which there is no way to {SCHEMA}")
            content = UPGRADES[version](content)
        if content.get("key") != key:
            raise StoreError(f"{path} belongs to trial {content.get('key')}: the folder was renamed or copied")
        if key_of(content["trial"]) != key:
            raise StoreError(f"{path} holds a trial of another key: it is foreign")
        for name in ("environment", "data"):
            content[name] = self._shared(name, content[name])
        return content

    def record(self, trial: Trial) -> Record:
        """What is known of a stored trial.

        Raises:
            StoreError: it is not there or not whole.
        """
        if trial.key not in self._records:
            content = self._read(trial.key, self._stored(trial))
            while len(self._records) >= RECENT:
                del self._records[next(iter(self._records))]
            self._records[trial.key] = Record(
                trial, content["status"], content["facts"], content["environment"], content["data"]
            )
        return self._records[trial.key]

    def state(self, trial: Trial) -> str:
        """ "done", "diverged", "failed" or, of a trial that is not here, "missing"."""
        if self.has(trial):
            return self.record(trial).status
        return "failed" if trial.key in self.failures.now() else "missing"

    def fate(self, trial: Trial) -> str:
        """The trial's status as reports have it: `state`, but "dead" of a trial that is done and ended no better than
        guessing. See `calib_bench.core.fate`, which says what counts as failed."""
        state = self.state(trial)
        return fate.DEAD if state == "done" and self._is_dead(trial) else state

    def _is_dead(self, trial: Trial) -> bool:
        numbers = self._whole[trial.key][1]
        if not fate.trained(trial) or "log_loss" not in numbers:
            return False
        entropy = numbers.get("label_entropy")
        entropy = self.splits.label_entropy(trial) if entropy is None else entropy
        if not fate.failed(numbers["log_loss"], entropy):
            return False
        return fate.failed(fate.end_loss(numbers, self._train_loss(trial)), entropy)

    def _train_loss(self, trial: Trial) -> float | None:
        """Mean cross-entropy over the last epoch; None where another objective was trained or none was measured."""
        if trial.objective != CROSS_ENTROPY:
            return None
        losses = self.history(trial).get("train_loss")
        return None if losses is None or losses.isna().iloc[-1] else float(losses.iloc[-1])

    def logits(self, trial: Trial) -> dict[str, Tensor]:
        """Raw logits z [N, K] float32 of the selection, calibration and test splits; empty for a diverged trial."""
        return self._tensors(trial, "logits")

    def arrays(self, trial: Trial) -> dict[str, Tensor]:
        """What the trial's probe measured at its end, by name; empty without one, and for a diverged trial."""
        return self._tensors(trial, "arrays")

    def snapshots(self, trial: Trial) -> list[Snapshot]:
        """The logits that the trial kept on its way, the highest training loss first; none where it kept none."""
        stored = self._tensors(trial, "snapshots")
        facts = self.record(trial).metadata.get("snapshots", [])
        return [Snapshot(**fact, logits=_under(f"{fact['level']:g}/", stored)) for fact in facts]

    def weights(self, trial: Trial) -> dict[str, Tensor]:
        """The parameters and buffers of the trial's model at its end, by name; empty where it kept none."""
        return self._tensors(trial, "weights")

    def _tensors(self, trial: Trial, kind: str) -> dict[str, Tensor]:
        self.has(trial)
        place, name = self._stored(trial), f"{kind}.safetensors"
        if not place.holds(name):
            return {}
        return tensors(place.at(name), place.read(name) if isinstance(place, places.Member) else None)

    def logit_arrays(self, trial: Trial) -> dict[str, np.ndarray]:
        """`logits` as numpy arrays."""
        self.has(trial)
        place, name = self._stored(trial), "logits.safetensors"
        return numpy_arrays(place.at(name), place.read(name)) if place.holds(name) else {}

    def history(self, trial: Trial) -> pd.DataFrame:
        """One row a measured epoch; a probe's columns come last."""
        import pandas as pd

        self.has(trial)
        return pd.read_parquet(io.BytesIO(self._stored(trial).read("history.parquet")))

    def scores(self, select: str) -> Scores:
        """Selection scores by `select`: "log_loss", "repaired_log_loss" or "error"; inf of what diverged or could not
        be finished. The score of a dead trial is what it is."""
        failed = self.failures.now()

        def score(trial: Trial) -> float | None:
            if not self.has(trial):
                return float("inf") if trial.key in failed else None
            status, selection = self._whole[trial.key]
            value = float("inf") if status != "done" else float(selection[select])
            return Score(value, lambda: self.fate(trial) in fate.FAILED)

        return score

    # splits

    def write_splits(self, trial: Trial, splits: Splits) -> dict[str, str]:
        """Store labels and origin, once; returns what a trial records of its data.

        Raises:
            DataError: the store holds trials from data with another digest.
        """
        return self.splits.write(trial, splits)

    def labels(self, trial: Trial) -> dict[str, Tensor]:
        """Labels [N] int64 of the selection, calibration and test splits.

        Raises:
            StoreError: they are missing, damaged, or not those that the trial, if it is stored, was trained with.
        """
        labels = self.splits.labels(trial)
        self._refuse_other_data(trial)
        return labels

    def label_arrays(self, trial: Trial) -> dict[str, np.ndarray]:
        """`labels` as numpy arrays."""
        labels = self.splits.label_arrays(trial)
        self._refuse_other_data(trial)
        return labels

    def _refuse_other_data(self, trial: Trial) -> None:
        """Raises StoreError where a stored trial was trained on other data than its labels are of."""
        if self.has(trial):
            of_trial, stored = self.record(trial).data, self.split_info(trial)
            if any(of_trial.get(name) != stored.get(name) for name in ("digest", "preparation") if name in of_trial):
                raise StoreError(
                    f"{self.folder(trial)} was trained on other data than {self.splits.of(trial)} holds labels of: "
                    f"results on different data do not mix; give another folder with out="
                )

    def split_info(self, trial: Trial) -> dict[str, Any]:
        """Source, digest, class names, notes and sizes of a trial's splits."""
        return self.splits.info(trial)

    # the study

    def write_study(self, settings: Settings, command: str, plan: Mapping[str, Any] | None = None) -> None:
        """Record what the last run of this folder asked for, and the plan that answers it, see `planning.plan.keep`."""
        content = {
            "settings": redacted(settings.model_dump(mode="json")),
            "command": redact(command),
            "environment": environment.describe(),
            "plan": plan,
        }
        files.write_json(self.path / "study.json", files.seal(content))

    def settings(self) -> Settings:
        """The resolved settings of the last run.

        Raises:
            StoreError: they are missing or damaged, or of another version of calib_bench.
        """
        path = self.path / "study.json"
        try:
            return Settings.model_validate(files.read_sealed(path)["settings"])
        except (ValidationError, KeyError) as error:
            why = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                why = f"{first['loc']}: {first['msg']}"
            raise StoreError(
                f"{path} holds settings that this version of calib_bench does not know ({why}): run the study's "
                f"command again"
            ) from None

    def plan(self) -> dict[str, Any] | None:
        """What `write_study` recorded of the plan; None where nothing was, as by older versions.

        Raises:
            StoreError: study.json is damaged.
        """
        path = self.path / "study.json"
        plan: dict[str, Any] | None = files.read_sealed(path).get("plan") if path.exists() else None
        return plan

    def provenance(self) -> dict[str, Any]:
        """Command, environment, and the data behind the stored splits."""
        study = files.read_sealed(self.path / "study.json")
        return {"command": study["command"], "environment": study["environment"], "splits": self.splits.every()}


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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
