"""Arrays that are slow to make, kept whole on disk and memory-mapped by every process that wants them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]
_WAIT = 1800.0
"""Seconds to wait for another process that is making the same arrays."""


def cache_folder() -> Path:
    """$CALIB_BENCH_CACHE, else ~/.cache/calib_bench."""
    return Path(os.environ.get("CALIB_BENCH_CACHE") or Path.home() / ".cache" / "calib_bench").expanduser()


def cached(name: str, parts: object, build: Callable[[], Arrays]) -> Arrays:
    """The arrays that `build` makes, from disk when an entry for (name, parts) is whole.

    Entries are written to a temporary folder and renamed; each array's SHA-256 is checked on reading, and an entry that
    fails is made again. Processes that want the same entry make it once. Where the disk refuses, the arrays are made in
    memory, with a warning.

    Args:
        name: for people, such as the task.
        parts: everything the arrays depend on; its `repr` names the entry.
        build: no arguments -> arrays by name.

    Returns:
        Arrays by name, memory-mapped copy-on-write.
    """
    entry = cache_folder() / f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:20]}"
    tensors = _read(entry)
    if tensors is not None:
        return tensors
    from filelock import FileLock

    lock = FileLock(f"{entry}.lock", timeout=_WAIT)
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        warnings.warn(f"Not cached, the folder {entry.parent} cannot be used: {error}", stacklevel=2)
        return build()
    try:
        tensors = _read(entry)
        return tensors if tensors is not None else _write(entry, build())
    finally:
        lock.release()


def _read(entry: Path) -> Arrays | None:
    """The entry's arrays, or None where it is missing or not whole."""
    try:
        sums = json.loads((entry / "sums.json").read_text())
        if any(sha256_of(entry / f"{name}.npy") != value for name, value in sums.items()):
            return None
        return {name: np.load(entry / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in sums}
    except (OSError, ValueError, AttributeError):
        return None


def _write(entry: Path, arrays: Arrays) -> Arrays:
    temporary: Path | None = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{entry.name}-", dir=entry.parent))
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array, allow_pickle=False)
        sums = {name: sha256_of(temporary / f"{name}.npy") for name in arrays}
        (temporary / "sums.json").write_text(json.dumps(sums))
        if entry.exists():
            shutil.rmtree(entry)
        temporary.rename(entry)
    except OSError as error:
        warnings.warn(f"Not cached, the folder {entry.parent} cannot be written: {error}", stacklevel=3)
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)
    return _read(entry) or arrays


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
