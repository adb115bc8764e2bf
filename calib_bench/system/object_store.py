"""Object stores behind one narrow layer: put, get, list and delete whole objects, retried with bounded waits.

`out=` may be any address that fsspec knows (s3://, gs://, az://, memory://...). S3 needs no package of its own: where
s3fs is not installed, pyarrow speaks it. Credentials are those of the environment, and never in an address.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from calib_bench.errors import SettingsError, StoreError

T = TypeVar("T")
PAUSES = (0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds between attempts: one more attempt than pauses."""

TIMEOUT = 30.0
"""Seconds that one request may take."""

FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError)
"""What another attempt does not change."""


def url_of(path: Path | str) -> str | None:
    """The address that a path stands for, or None of a plain path. `Path` folds the slashes, which are restored.

    >>> url_of(Path("s3://bucket/runs")), url_of(Path("runs/s3"))
    ('s3://bucket/runs', None)
    """
    match = re.fullmatch(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path))
    return f"{match[1]}://{match[2]}" if match else None


class Bucket:
    """A folder of an object store.

    Args:
        url: its address, as s3://bucket/folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system, and this folder within it.

        Raises:
            SettingsError: no installed package speaks this protocol.
        """
        import fsspec

        scheme, _, rest = self.url.partition("://")
        try:
            filesystem, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
            return filesystem, root.rstrip("/")
        except (ImportError, ValueError) as error:
            if scheme != "s3":
                raise SettingsError(f"out={self.url}: {str(error).splitlines()[0]}") from None
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import S3FileSystem

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"connect_timeout": TIMEOUT, "request_timeout": TIMEOUT}
        if endpoint:
            kind, _, host = endpoint.rpartition("://")
            options |= {"endpoint_override": host.rstrip("/"), "scheme": kind or "https"}
        return ArrowFSWrapper(S3FileSystem(**options)), rest

    def _tried(self, name: str, doing: str, work: Callable[[Any, str], T]) -> T:
        """What `work` gives, after as many attempts as it takes.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: it failed for good.
        """
        filesystem, root = self._opened
        for attempt in range(len(PAUSES) + 1):
            try:
                return work(filesystem, f"{root}/{name}" if name else root)
            except FINAL as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise StoreError(f"{self.url}/{name} cannot be {doing}: {error}") from error
            except Exception as error:  # each store has exceptions of its own, without a common base
                if attempt == len(PAUSES):
                    raise StoreError(
                        f"{self.url}/{name} cannot be {doing}, after {attempt + 1} attempts: {type(error).__name__}: "
                        f"{error}. What is stored stays whole, and the same command goes on from it"
                    ) from error
                time.sleep(PAUSES[attempt])
        raise AssertionError("every attempt returns or raises")

    def put(self, name: str, content: bytes) -> None:
        """Write an object, whole or not at all."""
        self._tried(name, "written", lambda fs, path: fs.pipe_file(path, content))

    def get(self, name: str) -> bytes | None:
        """An object's content, or None where there is none."""
        try:
            return self._tried(name, "read", lambda fs, path: fs.cat_file(path))
        except FileNotFoundError:
            return None

    def names(self, under: str = "") -> set[str]:
        """Names of all objects in this folder, or in one `under` it, whatever their depth; relative to this folder."""
        _, root = self._opened
        try:
            paths = self._tried(under, "listed", _listed)
        except FileNotFoundError:
            return set()
        return {path.lstrip("/").removeprefix(f"{root.lstrip('/')}/") for path in paths}

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(FileNotFoundError):
            self._tried(name, "removed", lambda fs, path: fs.rm_file(path))


def _listed(filesystem: Any, path: str) -> list[str]:
    if hasattr(filesystem, "invalidate_cache"):
        filesystem.invalidate_cache()
    if type(filesystem).__name__ != "ArrowFSWrapper":
        return list(filesystem.find(path))
    from pyarrow.fs import FileSelector, FileType  # all at once; fsspec's wrapper asks folder by folder

    selector = FileSelector(path, recursive=True, allow_not_found=True)
    return [info.path for info in filesystem.fs.get_file_info(selector) if info.type == FileType.File]
