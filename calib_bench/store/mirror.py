"""A run folder in an object store, with a copy on this machine: everything is read and computed there.

    trials/<key>/       sent file by file, trial.json last: it holds the digests of the others and is the commit
    trials/*.zip        sent whole, fetched by every machine: which trials an archive holds is known once it is here
    checkpoints/        sent soon after they are written, fetched by whoever goes on with the group
    the rest            sent as it is written, see `files.write_bytes`

An object store renames nothing, so a trial without trial.json is not there yet. What this machine finished and could
not send, as when it was killed in between, is sent when the folder is opened again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from calib_bench.errors import StoreError
from calib_bench.store.places import SUFFIX, Archives
from calib_bench.system import files
from calib_bench.system.object_store import Bucket

SHARED = ("study.json", "study.toml", "splits/", "failed/")
"""What is fetched whenever something may have changed: small, and needed by every stage."""


def cache() -> Path:
    """Where copies are kept: `$CALIB_BENCH_CACHE`, or the user's cache folder."""
    chosen = os.environ.get("CALIB_BENCH_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "calib_bench"
    return Path(chosen) if chosen else base


class Mirror:
    """The copy of one run folder.

    Attributes:
        bucket: the folder in the object store.
        folder: the copy.
    """

    def __init__(self, url: str) -> None:
        self.bucket = Bucket(url)
        self.folder = cache() / files.digest_of(self.bucket.url)[:20]
        self._stored: set[str] = set()
        self._archives: set[str] = set()
        self._begun: set[str] = set()
        self._sent: dict[Path, tuple[int, int]] = {}

    def open(self, write: bool) -> None:
        """Bring the copy up to date; a copy of a folder that is no more is removed."""
        marker = self.bucket.get("store.json")
        if marker is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            files.write_bytes(self.folder / "store.json", marker)
        files.on_write(self.folder, self.send)
        if marker is None:
            return
        self.refresh()
        if write:
            self._send_rest()

    def _send_rest(self) -> None:
        """Send what was finished and not sent. A trial that another machine has put into an archive is not."""
        archives = Archives(self.folder / "trials")
        with suppress(StoreError):  # a damaged archive is for the audit
            archives.look()
        for path in archives.paths():
            if path.name not in self._archives:
                self.send(path, path.read_bytes())
        for path in self.folder.glob("trials/[!.]*/trial.json"):
            key = path.parent.name
            if key in archives.keys() - self._stored:
                shutil.rmtree(path.parent, ignore_errors=True)
            elif key not in self._stored:
                self.commit(key)

    def refresh(self) -> None:
        """Learn which trials are stored by now, and fetch what every stage needs."""
        names = self.bucket.names()
        checkpoints = _within("checkpoints", names)
        self._begun = {name for name in checkpoints if ".pt" in name}
        self._stored = {name.split("/")[0] for name in _within("trials", names) if _commits(name)}
        self._archives = {name for name in _within("trials", names) if name.endswith(SUFFIX)}
        lacking = {f"trials/{name}" for name in self._archives if not (self.folder / "trials" / name).exists()}
        for name in {*filter(_is_for_all, names), *lacking}:
            self.fetch(name)
        self._drop_finished(checkpoints)

    def _drop_finished(self, checkpoints: set[str]) -> None:
        """Remove who was in groups that another machine has finished."""
        for path in self.folder.glob("checkpoints/*.json"):
            if path.name not in checkpoints and not path.with_suffix(".pt").exists():
                path.unlink(missing_ok=True)

    def begun(self, checkpoint: Path) -> bool:
        """Whether the object store holds a group's checkpoint."""
        return any(name.startswith(checkpoint.stem) for name in self._begun)

    def fetch(self, name: str) -> bool:
        """Fetch one file, unless the copy is the same; returns whether there is one."""
        content = self.bucket.get(name)
        if content is None:
            return False
        path = self.folder / name
        if not path.is_file() or path.read_bytes() != content:
            files.write_bytes(path, content, sent=True)
        return True

    def send(self, path: Path, content: bytes) -> None:
        """Send one file of the copy."""
        self.bucket.put(path.relative_to(self.folder).as_posix(), content)

    def has(self, key: str) -> bool:
        """Whether a trial is stored, by what the last `refresh` saw; fetches it, trial.json last.

        Raises:
            StoreError: it cannot be read.
        """
        if key not in self._stored:
            return False
        folder = self.folder / "trials" / key
        if (folder / "trial.json").exists():
            return True
        content = self.bucket.get(f"trials/{key}/trial.json")
        if content is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.bucket.names(f"trials/{key}"):
            if not _commits(name):
                self.fetch(name)
        files.write_bytes(folder / "trial.json", content, sent=True)
        return True

    def complete(self) -> None:
        """Fetch every stored trial that the copy lacks."""
        self.refresh()
        for key in sorted(self._stored):
            self.has(key)

    def commit(self, key: str) -> None:
        """Send a finished trial, unless another machine has."""
        if key in self._stored or self.bucket.get(f"trials/{key}/trial.json") is not None:
            self._stored.add(key)
            return
        folder = self.folder / "trials" / key
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == "trial.json", path.name)):
            self.send(path, path.read_bytes())
        self._stored.add(key)

    def forget(self, name: str) -> None:
        """Remove a file, or all that a folder holds, from the object store; trial.json first."""
        if name.startswith("trials/"):
            self._stored.discard(name.split("/")[1])
            self.bucket.delete(f"{name}/trial.json")
        for path in self.bucket.names(name) or {name}:
            self.bucket.delete(path)

    def take_up(self, checkpoint: Path) -> None:
        """Fetch a group's checkpoints, which another machine may have written."""
        for name in self.bucket.names("checkpoints"):
            if name.startswith(f"checkpoints/{checkpoint.stem}.pt"):
                self.fetch(name)

    def save(self, checkpoint: Path) -> None:
        """Send a group's checkpoints, those that are newer than what was sent."""
        for path in checkpoint.parent.glob(f"{checkpoint.name}*"):
            try:
                stat = path.stat()
                version = (stat.st_ino, stat.st_mtime_ns)
                if path.suffix != ".tmp" and self._sent.get(path) != version:
                    self.send(path, path.read_bytes())
                    self._sent[path] = version
            except FileNotFoundError:  # replaced just now
                continue

    def drop(self, checkpoint: Path) -> None:
        """Remove a group's checkpoints."""
        for name in self.bucket.names("checkpoints"):
            if name.startswith(f"checkpoints/{checkpoint.stem}"):
                self.bucket.delete(name)


def _within(folder: str, names: Iterable[str]) -> set[str]:
    """The names in a folder, relative to it."""
    return {name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")}


def _is_for_all(name: str) -> bool:
    """Whether every machine needs a file: what is shared, and who is in a group that has a checkpoint."""
    return name.startswith(SHARED) or (name.startswith("checkpoints/") and name.endswith(".json"))


def _commits(name: str) -> bool:
    return name.endswith("/trial.json")
