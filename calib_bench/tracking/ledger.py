"""What is logged already, by run id and content, so that logging again costs nothing."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from calib_bench.system.files import write_bytes

WHERE = ("WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_PROJECT")
"""What says where runs go, online."""


class Ledger:
    """`<run>/wandb/logged-<mode>.json`; online, one for each server, entity and project that the environment names."""

    def __init__(self, folder: Path, mode: str) -> None:
        named = [os.environ.get(variable, "") for variable in WHERE]
        place = f"-{digest(*named)}" if mode == "online" and any(named) else ""
        self.path = folder / f"logged-{mode}{place}.json"
        self.load()

    def load(self) -> None:
        """Read it again: another process may have logged meanwhile."""
        try:
            self.logged: dict[str, str] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            self.logged = {}

    def has(self, run_id: str, digest: str) -> bool:
        return self.logged.get(run_id) == digest

    def add(self, run_id: str, digest: str) -> None:
        self.logged[run_id] = digest
        write_bytes(self.path, (json.dumps(self.logged, indent=1, sort_keys=True) + "\n").encode())


def digest(*content: object) -> str:
    """16 hexadecimal digits of what is to be logged."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextlib.contextmanager
def turn(folder: Path) -> Iterator[bool]:
    """Whether this process, of those that log one store on this machine, may log now."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
