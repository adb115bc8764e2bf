"""Where a stored trial's files lie: in a folder of its own, or in an archive of such folders.

    trials/<key>/           trial.json and its neighbours, of a trial that was trained alone
    trials/<digest>.zip     <key>/trial.json and its neighbours, of each trial of a stack

An archive is a plain zip, not compressed, named by the digest of its trials' keys. It is written under a temporary name
and renamed when whole, then never changed. So its list of trials is checked against its name, and each trial against
the seal of its own trial.json: damage to one costs that one.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calib_bench.errors import StoreError
from calib_bench.system import files

RECORD = "trial.json"
FILES = ("history.parquet", *(f"{kind}.safetensors" for kind in ("logits", "arrays", "snapshots", "weights")))
"""What lies beside trial.json."""
SUFFIX = ".zip"
HEAD, LENGTHS, EXTRA = 30, slice(26, 30), 64
"""Bytes before a file's name in a zip; where its name's and further fields' lengths are; most bytes of the latter."""
TICK = 0.1
"""Seconds within which a file system may give two changes of a folder the same time."""


@dataclass(frozen=True)
class Folder:
    """A trial's files in a folder of their own, at `path`."""

    path: str

    def at(self, name: str) -> str:
        """A file's place, for people."""
        return f"{self.path}/{name}"

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return os.path.isfile(self.at(name))

    def record(self) -> dict[str, Any]:
        """What trial.json holds; raises StoreError where it is not whole."""
        return files.read_sealed(self.at(RECORD))

    def read(self, name: str) -> bytes:
        """A file's bytes; raises StoreError where it cannot be read."""
        return read(self.at(name))

    def is_whole(self, name: str, size: int, digest: str) -> bool:
        """Whether a file has so many bytes and this SHA-256."""
        return files.is_whole(self.at(name), size, digest)


@dataclass(frozen=True)
class Member:
    """A trial's files in an archive.

    Attributes:
        archive: the archive's path.
        key: the trial's.
        spans: where in the archive each file begins, its header included, and how many bytes it has, by name.
    """

    archive: str
    key: str
    spans: dict[str, tuple[int, int]]

    def at(self, name: str) -> str:
        """A file's place, for people."""
        return f"{self.archive}/{self.key}/{name}"

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self.spans

    def record(self) -> dict[str, Any]:
        """What trial.json holds; raises StoreError where it is not whole."""
        return files.unsealed(self.read(RECORD), self.at(RECORD))

    def read(self, name: str) -> bytes:
        """A file's bytes; raises StoreError where it cannot be read."""
        if name not in self.spans:
            raise StoreError(f"{self.at(name)} is missing")
        offset, size = self.spans[name]
        content = read(self.archive, offset, HEAD + len(self.key) + 1 + len(name) + EXTRA + size)
        if len(content) < HEAD:
            raise StoreError(f"{self.at(name)} is damaged: its archive ends before it")
        start = HEAD + sum(struct.unpack("<HH", content[LENGTHS]))
        return content[start : start + size]

    def is_whole(self, name: str, size: int, digest: str) -> bool:
        """Whether a file has so many bytes and this SHA-256."""
        return self.spans[name][1] == size and hashlib.sha256(self.read(name)).hexdigest() == digest


Place = Folder | Member


def read(path: str, offset: int = 0, size: int = -1) -> bytes:
    """Bytes of a file.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            return _pread(handle, os.fstat(handle).st_size if size < 0 else size, offset)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except (OSError, OverflowError, ValueError, MemoryError) as error:
        raise StoreError(f"{path} cannot be read ({error}): it is damaged") from None


def _pread(handle: int, size: int, offset: int) -> bytes:
    """As many bytes as there are, up to `size`: the system gives at most 2 GiB at once."""
    content = os.pread(handle, size, offset)
    while len(content) < size and (more := os.pread(handle, size - len(content), offset + len(content))):
        content += more
    return content


def archive_name(keys: Sequence[str]) -> str:
    """The name of the archive of the trials with these keys."""
    return files.digest_of(sorted(keys))[:20] + SUFFIX


def pack(folder: Path, keys: Sequence[str], content: Callable[[str], Mapping[str, bytes]]) -> Path:
    """Write an archive, whole or not at all; one of the same trials that is there is left as it is.

    Args:
        folder: where it goes.
        keys: of its trials.
        content: a trial's files by name, trial.json included, by its key.

    Raises:
        DiskFull, StoreError: it cannot be written.
    """
    final = folder / archive_name(keys)
    temporary = folder / f".{final.name}.{uuid.uuid4().hex[:8]}"
    with files.writing(final):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with zipfile.ZipFile(temporary, "w") as archive:
                for key in sorted(keys):
                    for name, value in content(key).items():
                        archive.writestr(zipfile.ZipInfo(f"{key}/{name}"), value)
            files.sync(temporary)
            _rename_if_new(temporary, final)
            files.sync(folder)
        finally:
            temporary.unlink(missing_ok=True)
    return final


def _rename_if_new(temporary: Path, final: Path) -> None:
    """Give a file its name unless another one has it; readers may have that one's directory in memory."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        return
    except OSError:  # a file system without links
        if not final.exists():
            temporary.rename(final)


def members(path: Path) -> dict[str, Member]:
    """An archive's trials by key.

    Raises:
        StoreError: its directory is not the one that was written.
    """
    damage = f"{path} is damaged: its list of trials is not the one that was written; run the study's command again"
    spans: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                key, _, name = entry.filename.partition("/")
                if name != RECORD and name not in FILES:
                    raise StoreError(f"{damage} (it names {entry.filename!r}: it is foreign)")
                spans.setdefault(key, {})[name] = entry.header_offset, entry.file_size
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, OverflowError, struct.error):
        raise StoreError(damage) from None
    if archive_name(list(spans)) != path.name:
        raise StoreError(damage)
    return {key: Member(str(path), key, span) for key, span in spans.items()}


class Archives:
    """The archives of a folder, as this process has seen them.

    Args:
        folder: with trials.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._members: dict[str, Member] = {}
        self._known: set[str] = set()
        self._changed, self._since, self._settled = -1, 0.0, False

    def get(self, key: str) -> Member | None:
        """A trial's place, if one of the archives seen so far has it."""
        return self._members.get(key)

    def keys(self) -> set[str]:
        """Of the trials of all archives seen so far."""
        return set(self._members)

    def look(self) -> None:
        """Learn of archives that came since.

        Raises:
            StoreError: one is damaged.
        """
        try:
            changed = os.stat(self.folder).st_mtime_ns
        except OSError:
            return
        if changed == self._changed and self._settled:
            return
        now = time.monotonic()
        if changed != self._changed:
            self._since = now
        for path in self.paths():
            if path.name not in self._known:
                self.add(path)
        self._changed, self._settled = changed, now - self._since > TICK

    def add(self, path: Path) -> dict[str, Member]:
        """Learn of one archive, and what it holds; raises StoreError where it is damaged."""
        held = members(path)
        self._members |= held
        self._known.add(path.name)
        return held

    def forget(self, path: Path) -> None:
        """An archive is no more."""
        self._known.discard(path.name)
        self._members = {key: member for key, member in self._members.items() if member.archive != str(path)}
        self._changed = -1

    def paths(self) -> list[Path]:
        """The archives that are there."""
        names = sorted(os.listdir(self.folder)) if self.folder.is_dir() else []
        return [self.folder / name for name in names if name.endswith(SUFFIX) and not name.startswith(".")]
