"""The trials of a run folder: where each lies, whether it is whole, and how it gets there."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.core.results import Record
from calib_bench.core.trial import Trial, key_of
from calib_bench.errors import StoreError
from calib_bench.store import places
from calib_bench.store.contents import SCHEMA
from calib_bench.store.places import FILES, RECORD, Archives, Folder, Place
from calib_bench.system import files

if TYPE_CHECKING:
    from calib_bench.store.mirror import Mirror

RECENT = 4096
"""Records kept in memory; others are read again."""
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: dict, 2: dict}
"""From schema n of trial.json to n + 1, by n: a trial is brought up to date when it is read."""


class StoredTrials:
    """The folder `trials` of a run folder.

    Args:
        run: the run folder.
        mirror: of one in an object store.

    Attributes:
        folder: the folder.
        archives: those of it that were seen so far.
        whole: status and selection scores of trials that are whole, by key: all that a plan needs.
    """

    def __init__(self, run: Path, mirror: Mirror | None) -> None:
        self.run, self.mirror = run, mirror
        self.folder = str(run / "trials")
        self.archives = Archives(run / "trials")
        self.whole: dict[str, tuple[str, dict[str, float]]] = {}
        self._records: dict[str, Record] = {}
        self._alike: dict[str, Any] = {}

    def place(self, key: str) -> Place | None:
        """Where the trial of a key is stored; None where it is not.

        Raises:
            StoreError: an archive is damaged, so that nobody knows which trials it holds.
        """
        if member := self.archives.get(key):
            return member
        folder = f"{self.folder}/{key}"
        if os.path.exists(f"{folder}/{RECORD}") or (self.mirror and self.mirror.has(key)):
            return Folder(folder)
        self.archives.look()
        return self.archives.get(key)

    def at(self, key: str) -> Place:
        """Where a trial is stored; raises StoreError where it is not."""
        place = self.place(key)
        if place is None:
            raise StoreError(f"{self.folder}/{key}/{RECORD} is missing")
        return place

    def keys(self) -> set[str]:
        """Of all trials that are stored, be they whole or not."""
        self.archives.look()
        return {path.name for path in self.folders()} | self.archives.keys()

    def folders(self) -> Iterator[Path]:
        """Of every trial that has one of its own."""
        return (path.parent for path in sorted(Path(self.folder).glob(f"[!.]*/{RECORD}")))

    def read(self, key: str, place: Place) -> dict[str, Any]:
        """What trial.json says.

        Raises:
            StoreError: it is damaged, foreign, or of a version from which there is no way to this one.
        """
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

    def _shared(self, name: str, value: Any) -> Any:
        """The value, or the equal one that the last trial had: most trials of a store share data and environment."""
        if self._alike.get(name) != value:
            self._alike[name] = value
        return self._alike[name]

    def record(self, trial: Trial) -> Record:
        """What is known of a stored trial; raises StoreError where it is not there or not whole."""
        if trial.key not in self._records:
            content = self.read(trial.key, self.at(trial.key))
            while len(self._records) >= RECENT:
                del self._records[next(iter(self._records))]
            self._records[trial.key] = Record(
                trial, content["status"], content["facts"], content["environment"], content["data"]
            )
        return self._records[trial.key]

    def files(self, key: str, place: Place) -> dict[str, bytes]:
        """A trial's files by name, trial.json last."""
        return {name: place.read(name) for name in (*self.read(key, place)["files"], RECORD)}

    def has(self, key: str) -> bool:
        """Whether a trial is stored whole. What is there but broken raises StoreError."""
        if key in self.whole:
            return True
        place = self.place(key)
        if place is None:
            return False
        self.check(key, place)
        return True

    def check(self, key: str, place: Place) -> None:
        """Read every file of a trial and note that it is whole; raises StoreError where it is not."""
        content = self.read(key, place)
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
        self.whole[key] = sys.intern(content["status"]), {sys.intern(name): v for name, v in selection.items()}

    def broken(self, key: str, place: Place) -> str:
        """What is wrong with a stored trial; nothing of one that is whole."""
        try:
            self.check(key, place)
        except StoreError as error:
            self.whole.pop(key, None)
            self._records.pop(key, None)
            return str(error)
        return ""

    def set_aside(self, path: Path) -> Path:
        """Move a trial, an archive or a split's folder to `damaged/`; returns where it is then."""
        target = self.run / "damaged" / f"{path.name}-{uuid.uuid4().hex[:6]}"
        with files.writing(target):
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another driver was faster
                path.rename(target)
        self.archives.forget(path)
        if self.mirror:
            self.mirror.forget(path.relative_to(self.run).as_posix())
        return target

    # writing

    def write(self, contents: Mapping[str, Callable[[], Mapping[str, bytes]]]) -> None:
        """Store trials, by key: one in a folder, several in an archive.

        Args:
            contents: what makes a trial's files by name, trial.json last.
        """
        if len(contents) == 1:
            self._write_folder(*next(iter(contents.items())))
        elif contents:
            self._add(places.pack(Path(self.folder), list(contents), lambda key: contents[key]()))

    def _write_folder(self, key: str, content: Callable[[], Mapping[str, bytes]]) -> None:
        final = Path(self.folder, key)
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

    def pack(self, stored: Mapping[str, Place]) -> None:
        """Write trials that are stored, and whole, into an archive, and read it again."""
        if not stored:
            return
        archive = places.pack(Path(self.folder), list(stored), lambda key: self.files(key, stored[key]))
        for key, member in places.members(archive).items():
            self.check(key, member)
        self._add(archive)

    def _add(self, archive: Path) -> None:
        """A new archive: this process, and other machines, shall know of it."""
        if self.mirror:
            self.mirror.send(archive, archive.read_bytes())
        self.archives.add(archive)
