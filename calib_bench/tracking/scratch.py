"""Where the process that logs keeps what wandb writes on the way: a folder of its own, of which nothing stays.

wandb makes a temporary folder for every table, picture and artifact and leaves most of them behind; so the process gets
a temporary directory that is removed when it has ended. One that a killed job left is removed when the next one starts:
whoever uses such a folder shares a lock on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PREFIX = "calib_bench-wandb-"
LOCK = "lock"
PATIENCE = 3.0
"""Seconds that wandb's own helper may go on writing after the process that started it has ended."""


@dataclass(frozen=True)
class Scratch:
    """A temporary directory, and the open lock on it, which the process that logs shares."""

    folder: Path
    lock: int

    @classmethod
    def make(cls) -> Scratch:
        """A new one, after removing those that nobody uses.

        Raises:
            OSError: the temporary directory cannot be written.
        """
        for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            if _unused(old):
                shutil.rmtree(old, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        return cls.share(folder)

    @classmethod
    def share(cls, folder: Path) -> Scratch:
        """A folder that another process made, which stays until this one has given it up too."""
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_SH)
        return cls(folder, lock)

    def remove(self) -> None:
        """Give the lock up and remove the folder."""
        with contextlib.suppress(OSError):
            os.close(self.lock)
        discard(self.folder)


def _unused(folder: Path) -> bool:
    """Whether nobody holds the folder's lock; one without a lock is being made."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)


def discard(folder: Path) -> None:
    """Remove a scratch folder and all that is in it; any other folder stays."""
    if not folder.name.startswith(PREFIX):
        return
    deadline = time.monotonic() + PATIENCE
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            time.sleep(0.05)
