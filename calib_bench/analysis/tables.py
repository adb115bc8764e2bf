"""Tables stated once, as data: what each says of itself, to which a run adds its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.result_rows import DOUBTFUL, KINDS, TWO_KINDS
from calib_bench.analysis.table_notes import display_columns, sample, smoke_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table

if TYPE_CHECKING:
    import pandas as pd


STAR = "* Holm-adjusted p < .05"
"""What the star after an estimate means; over which rows, a note says after it."""


@dataclass(frozen=True)
class TableSpec:
    """A table before it has rows, see `calib_bench.core.study.Table`.

    Texts may hold fields in braces: {reference}, the beta that others are compared with; {seeds}, their number;
    {score}, what chooses rates; {sample}, n and the kind of interval of the rows; and those that a caller adds.

    Attributes:
        title: what it shows.
        note: its sentences, without full stops.
        columns: of columns that only some runs have, what the note says.
        hidden: columns that are not shown.
        paper, names, first: of `Table`.
    """

    title: str
    note: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    paper: bool = False
    names: tuple[str, ...] = ()
    first: tuple[str, ...] = ()

    def table(self, frame: pd.DataFrame, grid: Grid, **fields: Any) -> Table:
        """The table of some rows; columns "doubtful" and TWO_KINDS are explained where they are there.

        Args:
            frame: its rows.
            grid: of the run: its reference, seeds, selection score, and whether it is a smoke run.
            fields: texts that are put in place of fields in braces.
        """
        fields = _fields(frame, grid) | fields
        columns = {"doubtful": DOUBTFUL, TWO_KINDS: KINDS, **self.columns}
        parts = [*self.note, *(text for column, text in columns.items() if column in frame)]
        sentences = [part.format(**fields) for part in parts]
        note = smoke_note(grid) + " ".join(f"{sentence}." for sentence in sentences if sentence)
        shown = display_columns(frame.drop(columns=[c for c in self.hidden if c in frame]), grid)
        return Table(self.title.format(**fields), shown, note.rstrip(), self.paper, self.names, self.first)


def _fields(frame: pd.DataFrame, grid: Grid) -> dict[str, Any]:
    """The fields that every table's texts may hold, see `TableSpec`."""
    seeds = f"{len(grid.seed)} seed{'s' if len(grid.seed) > 1 else ''}"
    n = sample(frame) if {"seeds", "examples", "nested"} <= set(frame) else ""
    score = grid.select.replace("_", " ")
    return {"reference": f"beta={grid.reference:g}", "seeds": seeds, "score": score, "sample": n}


def make_tables(
    specs: Mapping[str, TableSpec], frames: Mapping[str, pd.DataFrame], grid: Grid, **fields: Any
) -> dict[str, Table]:
    """The tables that have rows, in the order of `specs`; see `TableSpec.table`."""
    return {name: spec.table(frames[name], grid, **fields) for name, spec in specs.items() if len(frames[name])}
