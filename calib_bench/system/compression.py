"""Text that gzip, bzip2, xz, zstd, lz4 or zip has packed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

from calib_bench.errors import DataError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip")
DAMAGED = (EOFError, RuntimeError, lzma.LZMAError, struct.error, zipfile.BadZipFile, zlib.error)
"""What the libraries raise, beside OSError, for files that are truncated, damaged or encrypted."""


def unpacked(path: Path, text: Collection[str]) -> Path:
    """`a.csv` of `a.csv.gz`, where names of text end in .csv; other names as they are."""
    inner = Path(path.stem)
    return inner if path.suffix.lower() in COMPRESSED and inner.suffix.lower() in text else path


def contents(path: Path) -> bytes:
    """The bytes of a file, unpacked if they begin as packed ones do, whatever the file is called.

    Raises:
        DataError: it is an archive of several files.
        OSError: it is truncated, damaged or encrypted.
    """
    try:
        return _contents(path)
    except DAMAGED as error:
        raise OSError(str(error)) from None


def _contents(path: Path) -> bytes:
    import pyarrow as pa

    data = path.read_bytes()
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"BZh"):
        return bz2.decompress(data)
    if data.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(data)
    if data.startswith(b"PK\x03\x04"):
        return _member(path)
    for magic, codec in ((b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4")):
        if data.startswith(magic):
            return bytes(pa.CompressedInputStream(pa.BufferReader(data), codec).read())
    return data


def _member(path: Path) -> bytes:
    """The only file in a zip archive, besides those that a Mac adds."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/") and not name.endswith("/")]
        if len(names) != 1:
            raise DataError(f"{path}: it holds {len(names)} files, not one table ({', '.join(names[:4])}): unpack it")
        return archive.read(names[0])
