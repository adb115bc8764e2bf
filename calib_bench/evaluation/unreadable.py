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
from calib_bench.evaluation.refusals import Refusal

UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
    tokenize.TokenError, SyntaxError, TypeError, MemoryError, OverflowError, RuntimeError,
)  # fmt: skip
"""What numpy and zipfile raise for files that are truncated, foreign, encrypted or mangled."""


def refuse_repeated(names: Iterable[str], origin: object, what: str) -> None:
    """Raises DataError when a name comes twice: which of the two is meant cannot be told."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Refusal.REPEATED.of(origin, what=what, name=twice[0])


def unreadable(path: Path, error: BaseException, part: str = "") -> DataError:
    """The error for a file, or a part of it, that a library could not read."""
    if not path.is_file():
        return (Refusal.FOLDER if path.is_dir() else Refusal.MISSING).of(path)
    if path.stat().st_size == 0:
        return Refusal.EMPTY.of(path)
    if "pickle" in str(error).lower() or "Object arrays" in str(error):
        return Refusal.PICKLED.of(path, part=part or "it")
    text = " ".join(str(error).split()) or type(error).__name__
    return Refusal.UNREADABLE.of(path, suffix=path.suffix[1:], error=text[:200])
