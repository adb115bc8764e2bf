"""Checkpoints: written whole or not at all, and ignored when they are not this run's."""

from __future__ import annotations

import logging
import os
import pickle
import time
import zipfile
from pathlib import Path
from typing import Any

import torch

from calib_bench.errors import StoreError

log = logging.getLogger(__name__)
_BROKEN = (RuntimeError, pickle.UnpicklingError, EOFError, OSError, zipfile.BadZipFile, ValueError, KeyError)


class Checkpoint:
    """One file that holds the state of one run, replaced at most every so many seconds."""

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
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["key"] == self.key:
                return state["state"]
            log.warning("checkpoint %s belongs to another run (%s): starting afresh", self.path, state["key"])
        except (*_BROKEN, TypeError) as error:
            log.warning("checkpoint %s cannot be read (%s): starting afresh", self.path, str(error).split("\n")[0])
        return None

    def due(self) -> bool:
        """Whether it is time to save."""
        return self.path is not None and time.monotonic() - self.last >= self.seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by `state`: tensors, numbers and text in dicts and lists.

        Raises:
            StoreError: the file cannot be written.
        """
        assert self.path is not None
        temporary = self.path.with_name(self.path.name + ".tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                torch.save({"key": self.key, "state": state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"cannot write checkpoint {self.path}: {error}; free some space or choose another folder"
            ) from error
        self.last = time.monotonic()

    def remove(self) -> None:
        """Delete the file and what an interrupted save left beside it."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path.with_name(self.path.name + ".tmp").unlink(missing_ok=True)
