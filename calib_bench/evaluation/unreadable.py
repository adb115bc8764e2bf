"""What to tell people of files that a library cannot read."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from calib_bench.errors import DataError

SAVE = "numpy.savez('predictions.npz', logits=logits, labels=labels)"
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
    tokenize.TokenError, SyntaxError, TypeError, MemoryError, OverflowError, RuntimeError,
)  # fmt: skip
"""What numpy and zipfile raise for files that are truncated, foreign, encrypted or mangled."""


def refuse_repeated(names: Iterable[str], origin: object, what: str) -> None:
    """Raises DataError when a name comes twice: which of the two is meant cannot be told."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{origin} has more than one {what} called {twice[0]!r}: rename or remove one")


def unreadable(path: Path, error: BaseException, part: str = "") -> DataError:
    """The error for a file, or a part of it, that a library could not read."""
    if not path.is_file():
        return DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    if path.stat().st_size == 0:
        return DataError(f"{path} is empty")
    if "pickle" in str(error).lower() or "Object arrays" in str(error):
        return DataError(
            f"{path}{f': {part}' if part else ''} holds pickled objects, which could run code and are never read: save "
            f"plain number arrays, {SAVE}"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as {path.suffix[1:]}: it is truncated, damaged or foreign ({text[:200]})")
