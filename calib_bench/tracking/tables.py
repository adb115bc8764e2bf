"""Data frames as tables of wandb, each kept in one file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.system import files

if TYPE_CHECKING:
    import pandas as pd
    import wandb

ROWS = 10_000
"""wandb shows no more rows of a table: longer ones are logged in parts."""
TYPED = 200
"""Rows from which wandb finds out a table's types: to look at every cell would take seconds."""
DIGITS = 7
"""Of a table's numbers, as many as single precision tells apart: the store and the report's tables have them all."""
SUFFIX = ".table.json"


def parts(name: str, frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The frame by name; a long one as `<name>`, `<name>-2`..."""
    starts = range(0, max(len(frame), 1), ROWS)
    return {name if n == 0 else f"{name}-{n + 1}": frame.iloc[at : at + ROWS] for n, at in enumerate(starts)}


def table(frame: pd.DataFrame, locate: Callable[[Path], str] = str) -> wandb.Table:
    """A wandb table: numbers as numbers, infinite and missing ones as wandb writes them, all else as text.

    Args:
        locate: what its artifact calls the table's file, see `client.Session.locate`.
    """
    columns = {str(name): _cells(frame[name]) for name in frame.columns}
    rows = [list(row) for row in zip(*columns.values(), strict=True)]
    made = _kind()(columns=list(columns), data=rows[:TYPED])
    made.data.extend(rows[TYPED:])
    made.locate = locate
    return made


@cache
def _kind() -> Any:
    import wandb

    class Table(wandb.Table):
        """A table whose file in the run is also the one in its artifact: wandb would write the first in another form,
        and the second twice."""

        locate: Callable[[Path], str]

        def _set_artifact_target(self, artifact: wandb.Artifact, name: Any = None) -> None:
            super()._set_artifact_target(artifact, name)
            entry, run = artifact.manifest.entries[name], wandb.run
            assert entry.local_path is not None
            assert run is not None
            staged = Path(entry.local_path)
            key, digest = name.removesuffix(SUFFIX), files.sha256(staged)
            self.kept = Path(run.dir, self.get_media_subdir(), f"{key}_{run.step}_{digest[:20]}{SUFFIX}")
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(staged, self.kept)
            staged.unlink()
            entry.local_path = self.locate(self.kept)

        def bind_to_run(self, *where: Any, **how: Any) -> None:
            self._set_file(str(self.kept), extension=SUFFIX)
            super(wandb.Table, self).bind_to_run(*where, **how | {"ignore_copy_err": True})  # it is there already

    return Table


def _cells(values: pd.Series[Any]) -> list[Any]:
    """A column's values as wandb takes them."""
    from pandas.api import types

    if values.isna().all():
        return [""] * len(values)  # empty to the eye, not a column of NaN
    if types.is_bool_dtype(values):
        return [bool(value) for value in values]
    if types.is_float_dtype(values):
        return [float(f"{value:.{DIGITS}g}") for value in values]
    if types.is_numeric_dtype(values):
        return [int(value) for value in values]
    return ["" if _missing(value) else str(value) for value in values]


def _missing(value: Any) -> bool:
    return value is None or value != value
