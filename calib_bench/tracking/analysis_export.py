"""What the analysis hands over to the process that logs, as files: `<run>/wandb/analysis/`.

analysis.json    verdict, warnings, tables' titles and notes, which trials stand at the chosen rates, and a digest
tables/          every table with every column, CSV; those that the report has are read there
measurements.csv, reliability.csv     of every trial and calibrator, where the study has them
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.errors import StoreError
from calib_bench.planning import tuning
from calib_bench.system import files

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.core.settings import Grid
    from calib_bench.core.study import Analysis, ReportedArm
    from calib_bench.store.store import Store

FRAMES = ("measurements", "reliability")
SENTENCES = ("verdict", "summary", "warnings")


@dataclass(frozen=True)
class HandedOver:
    """An analysis, read back.

    Attributes:
        words: "verdict", "summary", "warnings": lists of sentences; "tables": title and note by name.
        tables: by name, in reading order.
        frames: those of `FRAMES` that the study has.
        selected: keys of the trials at chosen rates.
        figures: PNG files of the report, by name.
    """

    words: dict[str, Any]
    tables: dict[str, pd.DataFrame]
    frames: dict[str, pd.DataFrame]
    selected: tuple[str, ...]
    figures: dict[str, Path]


def write(store: Store, grid: Grid, analysis: Analysis) -> None:
    """Hand an analysis over; the report's figures are where the report put them.

    Raises:
        StoreError, ResourceError: it cannot be written.
    """
    folder = store.path / "wandb" / "analysis"
    (folder / "analysis.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "tables", ignore_errors=True)
    tables = {name: _bytes(table.frame) for name, table in analysis.tables.items()}
    digests = {name: hashlib.sha256(table).hexdigest() for name, table in tables.items()}
    for name, table in tables.items():
        if _table(store, name, digests[name]) is None:
            files.write_bytes(folder / "tables" / f"{name}.csv", table)
    for name in FRAMES:
        _write_frame(folder / f"{name}.csv", getattr(analysis.result, name))
    content = {
        "state": state(store),
        "digests": digests,
        "words": {name: list(getattr(analysis, name)) for name in SENTENCES}
        | {"tables": {name: {"title": t.title, "note": t.note} for name, t in analysis.tables.items()}},
        "selected": [trial.key for arm in _arms(store, grid, analysis) for trial in arm.trials.values()],
    }
    files.write_json(folder / "analysis.json", files.seal(content))


def _write_frame(path: Path, frame: pd.DataFrame | None) -> None:
    if frame is not None and len(frame):
        files.write_bytes(path, _bytes(frame))
    else:
        path.unlink(missing_ok=True)


def read(store: Store) -> HandedOver | None:
    """What was handed over last; None when there is nothing whole."""
    import pandas as pd

    folder = store.path / "wandb" / "analysis"
    try:
        content = files.read_sealed(folder / "analysis.json")
        paths = {name: _table(store, name, digest) for name, digest in content["digests"].items()}
        tables = {name: pd.read_csv(paths[name]) for name in content["words"]["tables"]}
        frames = {name: pd.read_csv(path) for name in FRAMES if (path := folder / f"{name}.csv").exists()}
    except (StoreError, OSError, ValueError, KeyError):
        return None
    figures = {path.stem: path for path in sorted((store.path / "report" / "figures").glob("*.png"))}
    return HandedOver(content["words"], tables, frames, tuple(content["selected"]), figures)


def is_current(store: Store) -> bool:
    """Whether the last hand-over is of the trials that are stored now, asked as now."""
    path = store.path / "wandb" / "analysis" / "analysis.json"
    try:
        return bool(files.read_sealed(path)["state"] == state(store)) and read(store) is not None
    except StoreError:
        return False


def state(store: Store) -> str:
    """A digest of the stored trials and the settings."""
    return files.digest_of([store.settings().model_dump(mode="json"), sorted(store.stored_keys())])


def _arms(store: Store, grid: Grid, analysis: Analysis) -> Sequence[ReportedArm]:
    arms = analysis.result.arms
    return tuning.arms(grid, store.scores(grid.select)) if arms is None else arms


def _bytes(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def _table(store: Store, name: str, digest: str) -> Path | None:
    """Where a table of this content is: in the report, or handed over; None where it is nowhere."""
    places = [store.path / where / "tables" / f"{name}.csv" for where in ("report", "wandb/analysis")]
    return next((path for path in places if path.is_file() and files.sha256(path) == digest), None)
