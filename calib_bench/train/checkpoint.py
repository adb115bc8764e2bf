"""Checkpoints: written whole or not at all, verified when read, and ignored when they are not this run's."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from calib_bench.errors import DiskFull, StoreError
from calib_bench.system import shutdown
from calib_bench.system.files import FULL

log = logging.getLogger(__name__)


class Checkpoint:
    """One file that holds the state of one run, replaced at most every so many seconds.

    It is the SHA-256 digest of what follows, 32 bytes, and then torch's own format without any pickled code.
    """

    def __init__(self, path: Path | None, key: str, seconds: float) -> None:
        """
        Args:
            path: the file, or None to save nothing.
            key: identifies the run; a file with another key is ignored.
            seconds: least time between two saves; 0 saves whenever asked.
        """
        self.path, self.key, self.seconds = path, key, seconds
        self.last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state on the CPU, or None where there is none, it is broken, or it is of another run."""
        if self.path is None or not self.path.exists():
            return None
        try:
            content = self.path.read_bytes()
        except OSError as error:
            log.warning("checkpoint %s cannot be read (%s): starting afresh", self.path, error)
            return None
        payload = memoryview(content)[32:]
        if hashlib.sha256(payload).digest() != content[:32]:
            log.warning("checkpoint %s is not whole: starting afresh", self.path)
            return None
        try:
            saved = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            key, state = saved["key"], saved["state"]
        except Exception as error:  # what torch raises for content that is no checkpoint has no common base
            log.warning("checkpoint %s holds something else (%s): starting afresh", self.path, type(error).__name__)
            return None
        if key == self.key:
            return state
        log.warning("checkpoint %s belongs to another run (%s): starting afresh", self.path, key)
        return None

    def due(self) -> bool:
        """Whether it is time to save, or to leave."""
        if self.path is None:
            return False
        return shutdown.requested() or time.monotonic() - self.last >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`: tensors, numbers and text in dicts and lists.

        Raises:
            StoreError, DiskFull: the file cannot be written.
            Stopped: it is, and the run is to leave.
        """
        assert self.path is not None
        buffer = io.BytesIO()
        torch.save({"key": self.key, "state": state}, buffer)
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(hashlib.sha256(buffer.getbuffer()).digest())
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if error.errno in FULL:
                raise DiskFull(
                    f"no space is left on the disk that holds {self.path}: free some, or give another folder with "
                    f"out=; what is stored stays whole, and the same command goes on from it"
                ) from error
            raise StoreError(
                f"cannot write checkpoint {self.path}: {error}; free some space or choose another folder"
            ) from error
        self.last = time.monotonic()
        shutdown.check()

    def keep(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save the end of a run, so that nothing is trained twice should its result not be stored."""
        if self.path is not None:
            self.save(state())
