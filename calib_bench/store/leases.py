"""Leases: which process trains which trials, so that several drivers may share a store and train nothing twice.

    claims/<id>.json        the keys of the trials, and who holds their lease; never changed
    claims/<id>.beat        a number that grows for as long as the holder lives

To acquire a lease, a process writes its file and then lists the folder: it holds the lease only if no other file there
shares a key with it. If two processes write at once, at least one sees the other's file and backs off. This needs only
list-after-write consistency, which local disks and S3 have. Clocks of two machines are never compared: a lease has
expired when its beat stayed the same for so many seconds of the reader's own monotonic clock, or at once when its
process is known to be gone. Leases only save work: if two drivers train one trial after all, as when one was paused for
long, they store the same bits, and the second finds the first's.
"""

from __future__ import annotations

import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from calib_bench.errors import StoreError, counted
from calib_bench.system import files
from calib_bench.system.object_store import Bucket, url_of

_OWNERS: dict[int, str] = {}


def owner() -> str:
    """This driver: its workers hold leases in its name and take over from each other at once; a fork is another."""
    return _OWNERS.setdefault(os.getpid(), uuid.uuid4().hex)


BEATS = 6
"""Beats in a lease: so many must fail before a living process is taken for dead."""

PAUSES = (0.02, 0.05, 0.1, 0.2)
"""Seconds between looks while a rival that wrote at the same time backs off."""


class LostError(Exception):
    """Another driver took over, since nothing was heard from this process for a whole lease."""


@cache
def machine() -> str:
    """A digest of this machine and its process numbers' namespace: processes of one can see each other."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        name = f"{platform.node()} {uuid.getnode()}"
    return files.digest_of(name)[:16]


def process_start(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None when it is gone."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else fields[18]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    import psutil

    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return None


class Directory:
    """A flat folder of small files on a disk, which is used as a `Bucket` is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, name: str, content: bytes) -> None:
        """Write a file; a beat need not outlive the machine, so only leases are synced and renamed."""
        if name.endswith(".beat"):
            (self.path / name).write_bytes(content)
        else:
            files.write_bytes(self.path / name, content)

    def get(self, name: str) -> bytes | None:
        """A file's content, or None where there is none."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self) -> set[str]:
        """What is there."""
        try:
            return {name for name in os.listdir(self.path) if not name.startswith(".")}
        except FileNotFoundError:
            return set()

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.path / name).unlink(missing_ok=True)


def _beat_of(name: str) -> str:
    return f"{name.removesuffix('.json')}.beat"


@dataclass
class Lease:
    """A lease of trials that this process holds.

    Attributes:
        folder: where its file is.
        name: of its file.
        keys: of the trials.
        count: beats so far.
        lost: whether another driver took over.
    """

    folder: Directory | Bucket
    name: str
    keys: frozenset[str]
    count: int = 0
    lost: bool = False

    def check(self) -> None:
        """Raises LostError when another driver took over."""
        if self.lost:
            raise LostError(f"another driver took over {counted(len(self.keys), 'trial')}")

    def renew(self) -> None:
        """Say that the owner lives; what fails is tried again at the next beat."""
        with suppress(OSError, StoreError):
            if self.folder.get(self.name) is None:
                self.lost = True
                return
            self.count += 1
            self.folder.put(_beat_of(self.name), str(self.count).encode())


@dataclass
class _Seen:
    """What this process knows of another's lease: its content, its last beat, and when that was first seen."""

    content: dict[str, Any]
    beat: bytes | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def keys(self) -> set[str]:
        return set(self.content.get("keys", ()))

    def gone(self) -> bool:
        """Whether its process was on this machine and is no more."""
        is_local = self.content.get("machine") == machine()
        return is_local and process_start(self.content["pid"]) != self.content.get("start")


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a lease, or nothing where that is no lease."""
    keys = content.get("keys")
    is_valid = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    return content if is_valid and isinstance(content.get("pid"), int) else {}


class Leases:
    """The leases of one store, as one process sees them.

    Args:
        path: the store's folder.
        owner: the driver in whose name this process holds leases.
        seconds: without a beat, after which a lease has expired.
    """

    def __init__(self, path: Path, owner: str, seconds: float) -> None:
        url = url_of(path)
        self.folder = Bucket(f"{url}/claims") if url else Directory(path / "claims")
        self.owner, self.seconds = owner, seconds
        self._seen: dict[str, _Seen] = {}
        self._mine: dict[str, Lease] = {}
        self._lock = threading.Lock()
        self._heart: threading.Thread | None = None

    def leased(self) -> set[str]:
        """Keys of the trials that other drivers are at work on; leases that have expired are removed."""
        return {key for seen in self._others().values() if seen.content.get("owner") != self.owner for key in seen.keys}

    def acquire(self, keys: Sequence[str]) -> Lease | None:
        """Acquire a lease of trials, of all or none: None when another process is at work on one.

        A lease on them of this same driver is a leftover of a worker that was lost, and makes way.

        Raises:
            StoreError: the folder cannot be written.
        """
        lease = Lease(self.folder, f"{uuid.uuid4().hex}.json", frozenset(keys))
        with self._lock:
            self._mine[lease.name] = lease
        pid = os.getpid()
        content = {"owner": self.owner, "machine": machine(), "pid": pid, "start": process_start(pid)}
        self.folder.put(lease.name, files.sealed({**content, "keys": sorted(keys)}))
        for pause in PAUSES:
            rivals = self._rivals(lease)
            if not rivals:
                self._start_heart()
                return lease
            if min(rivals) < lease.name:
                break
            time.sleep(pause)
        self.release(lease)
        return None

    def _rivals(self, lease: Lease) -> list[str]:
        rivals = []
        for name, seen in self._others().items():
            if seen.keys & lease.keys:
                if seen.content.get("owner") == self.owner:
                    self._remove(name)
                else:
                    rivals.append(name)
        return rivals

    def release(self, lease: Lease) -> None:
        """Give a lease up: the work is done, or left to others."""
        with self._lock:
            self._mine.pop(lease.name, None)
        self._remove(lease.name)

    @contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Wait until no other driver is within such a block of this name, then hold it."""
        while (lease := self.acquire([name])) is None:
            time.sleep(min(1.0, self.seconds / BEATS))
        try:
            yield
        finally:
            self.release(lease)

    def _remove(self, name: str) -> None:
        self._seen.pop(name, None)
        for file in (name, _beat_of(name)):
            with suppress(OSError, StoreError):
                self.folder.delete(file)

    def _others(self) -> dict[str, _Seen]:
        """Leases of other processes that have not expired."""
        names = self.folder.names()
        with self._lock:
            mine = set(self._mine)
        for name in self._seen.keys() - names:
            del self._seen[name]
        for name in names:
            stem, _, kind = name.rpartition(".")
            if kind == "beat" and f"{stem}.json" not in names and f"{stem}.json" not in mine:
                self._remove(f"{stem}.json")
            elif kind == "json" and name not in mine:
                self._look(name)
        return dict(self._seen)

    def _look(self, name: str) -> None:
        if name not in self._seen:
            raw = self.folder.get(name)
            if raw is None:  # given up just now
                return
            try:
                self._seen[name] = _Seen(_checked(files.unsealed(raw, name)))
            except StoreError:
                self._seen[name] = _Seen({})
        seen = self._seen[name]
        beat = self.folder.get(_beat_of(name))
        if beat != seen.beat:
            seen.beat, seen.since = beat, time.monotonic()
        if seen.gone() or time.monotonic() - seen.since > self.seconds:
            self._remove(name)

    def _start_heart(self) -> None:
        if self._heart is None or not self._heart.is_alive():
            self._heart = threading.Thread(target=self._pulse, name="claims", daemon=True)
            self._heart.start()

    def _pulse(self) -> None:
        while True:
            with self._lock:
                mine = list(self._mine.values())
            for lease in mine:
                lease.renew()
            time.sleep(self.seconds / BEATS)


@lru_cache(maxsize=8)
def of(path: Path, owner: str, seconds: float) -> Leases:
    """This process's view of a store's leases: one, so that what it has seen of others is kept."""
    return Leases(path, owner, seconds)
