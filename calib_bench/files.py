"""Atomic, checksummed files: a reader sees a whole file or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calib_bench.errors import ResourceError, StoreError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says while `path` is written into errors for people.

    Raises:
        ResourceError: the disk is full.
        StoreError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"no space is left on the disk that holds {path}: free some, or give another folder with out=; what is "
                f"stored stays whole, and the same command goes on from it"
            ) from error
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): give a folder you may write to with out="
        ) from error


def sync(path: Path) -> None:
    """Force a file's, or a folder's, bytes to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically: to a temporary name beside it, synced, then renamed."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with temporary.open("wb") as handle:
                handle.write(content)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numbers keep every digit, and NaN or infinity is refused."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The value with its own digest added, so that a reader can tell whether it is whole."""
    return {**value, "sha256": digest_of(value)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a sealed JSON object.

    Raises:
        StoreError: the file is missing, not JSON, or not what was written.
    """
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}): it is truncated or foreign") from None
    if not isinstance(value, dict) or "sha256" not in value:
        raise StoreError(f"{path} was not written by calib_bench: it has no digest")
    claimed = value.pop("sha256")
    if digest_of(value) != claimed:
        raise StoreError(f"{path} is damaged: its content does not match its digest")
    return value
