"""Atomic, checksummed files: a reader sees a whole file or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calib_bench.errors import DiskFull, StoreError, nearest

SMALL = 1 << 20
"""Bytes up to which a file is checked in one piece, which saves most of the time of thousands of small ones."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file size that is used up."""
MOST_NAMES = 100
"""Paths of a folder that are compared with one that is missing there."""
_canonical = json.JSONEncoder(sort_keys=True, allow_nan=False).encode


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says while `path` is written into errors for people.

    Raises:
        DiskFull: no space is left, or no more is allowed.
        StoreError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"no space is left on the disk that holds {path}: free some, or give another folder with out=; what is "
                f"stored stays whole, and the same command goes on from it"
            ) from error
        raise StoreError(
            f"{path} cannot be written ({error.strerror}): give a folder you may write to with out="
        ) from error


def near(path: Path, is_wanted: Callable[[Path], bool] = Path.exists) -> str:
    """A clause in brackets that names the paths most like a missing one, among those beside it that are wanted; empty
    where there are none, or too many.

    >>> near(Path("no_such_folder/missing.csv"))
    ''
    """
    beside = [str(other) for other in path.parent.iterdir() if is_wanted(other)] if path.parent.is_dir() else []
    return f" ({nearest(str(path), beside)})" if 0 < len(beside) <= MOST_NAMES else ""


def sync(path: Path) -> None:
    """Force a file's, or a folder's, bytes to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


Sender = Callable[[Path, bytes], None]
_senders: dict[Path, Sender] = {}


def on_write(folder: Path, send: Sender) -> None:
    """From now on, whatever `write_bytes` writes within a folder is also given to `send`."""
    _senders[folder] = send


def write_bytes(path: Path, content: bytes, sent: bool = False) -> None:
    """Write a whole file atomically: to a temporary name beside it, synced, then renamed.

    Args:
        sent: whether it came from where `on_write` would send it.
    """
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
    for folder, send in [] if sent else list(_senders.items()):
        if folder in path.parents and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            send(path, content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; numbers keep every digit, and NaN or infinity is refused."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def sha256(path: Path | str) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with open(path, "rb", buffering=0) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_whole(path: Path | str, size: int, digest: str) -> bool:
    """Whether a file is there with so many bytes and this SHA-256."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        if os.fstat(handle).st_size != size:
            return False
        if size <= SMALL and len(content := os.read(handle, size)) == size:
            return hashlib.sha256(content).hexdigest() == digest
    except IsADirectoryError:
        return False
    finally:
        os.close(handle)
    return sha256(path) == digest


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value's canonical text."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()


def seal(value: dict[str, Any]) -> dict[str, Any]:
    """The value with its own digest added, so that a reader can tell whether it is whole."""
    return {**value, "sha256": digest_of(value)}


def sealed(value: dict[str, Any]) -> bytes:
    """A sealed JSON object as its canonical text, one line: a reader checks these bytes and need not make them anew."""
    text = _canonical(value)
    return text[:-1].encode() + _tail(hashlib.sha256(text.encode()).hexdigest())


def _tail(digest: str) -> bytes:
    return f', "sha256": "{digest}"}}\n'.encode()


def _bytes_match(content: bytes, digest: str) -> bool:
    """Whether these are the bytes that `sealed` gives of an object with this digest."""
    tail = _tail(digest)
    return content.endswith(tail) and hashlib.sha256(content[: -len(tail)] + b"}").hexdigest() == digest


def read_sealed(path: Path | str) -> dict[str, Any]:
    """Read a sealed JSON object.

    Raises:
        StoreError: the file is missing, not JSON, or not what was written.
    """
    try:
        with open(path, "rb", buffering=0) as handle:
            content = handle.readall()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}): it is truncated or foreign") from None
    return unsealed(content, path)


def unsealed(content: bytes, path: Path | str) -> dict[str, Any]:
    """The object in the bytes of a sealed one, which came from `path`.

    Raises:
        StoreError: they are not JSON, or not what was written.
    """
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON ({error}): it is truncated or foreign") from None
    if not isinstance(value, dict) or "sha256" not in value:
        raise StoreError(f"{path} was not written by calib_bench: it has no digest")
    claimed = value.pop("sha256")
    if not isinstance(claimed, str) or not claimed.isascii():
        raise StoreError(f"{path} is damaged: its digest is none")
    if not _bytes_match(content, claimed) and _digest_or_none(value) != claimed:
        raise StoreError(f"{path} is damaged: its content does not match its digest")
    return value


def _digest_or_none(value: Any) -> str | None:
    """The digest, or None of what was never sealed: NaN, an infinity, half a surrogate pair."""
    try:
        return digest_of(value)
    except (ValueError, RecursionError):
        return None
