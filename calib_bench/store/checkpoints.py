"""Checkpoints in a run folder: whose they are, and other machines' share in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from calib_bench.core.trial import Trial
from calib_bench.store.mirror import Mirror
from calib_bench.system import files


class Checkpoints:
    """The checkpoints of groups of trials under way.

    Args:
        folder: where they are on this machine.
        mirror: the object store of which the run folder is a copy, if it is one.
    """

    def __init__(self, folder: Path, mirror: Mirror | None) -> None:
        self.folder, self.mirror = folder, mirror

    def path(self, group: Sequence[Trial]) -> Path:
        """Where the checkpoint of a group is, or would be."""
        name = files.digest_of([trial.key for trial in group])[:20]
        return self.folder / f"{name}.pt"

    def begin(self, group: Sequence[Trial]) -> Path:
        """Where the checkpoint of a group goes; who is in the group is written down, so that it can be resumed."""
        path = self.path(group)
        if self.mirror:
            self.mirror.take_up(path)
        files.write_json(path.with_suffix(".json"), [trial.key for trial in group])
        return path

    def keep(self, path: Path) -> None:
        """Let other machines have a group's checkpoint, where it is new."""
        if self.mirror:
            self.mirror.save(path)

    def finish(self, path: Path) -> None:
        """Forget a group's checkpoints, once its outcomes are stored."""
        if self.mirror:
            self.mirror.drop(path)
        for one in path.parent.glob(f"{path.stem}*"):
            one.unlink(missing_ok=True)

    def unfinished(self) -> list[list[str]]:
        """Keys of the trials of every group that has a checkpoint."""
        groups = []
        for path in sorted(self.folder.glob("*.json")):
            if path.with_suffix(".pt").exists() or (self.mirror and self.mirror.begun(path)):
                try:
                    groups.append([str(key) for key in json.loads(path.read_text())])
                except (ValueError, TypeError, RecursionError):
                    path.unlink(missing_ok=True)
                except OSError:  # not least because another driver has finished it
                    continue
        return groups
