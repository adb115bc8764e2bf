"""Tables stated once, as data: what each says of itself, to which a run adds its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.format import stem
from calib_bench.analysis.result_rows import DOUBTFUL, KINDS, TWO_KINDS, adjusted, has_any
from calib_bench.analysis.table_notes import display_columns, sample, smoke_note
from calib_bench.core.settings import Grid
from calib_bench.core.study import Table
from calib_bench.errors import counted

if TYPE_CHECKING:
    import pandas as pd


STAR = "* Holm-adjusted p < .05"
"""What the star after an estimate means; over which rows, a note says after it."""


@dataclass(frozen=True)
class TableSpec:
    """A table before it has rows, see `calib_bench.core.study.Table`.

    Texts may hold fields in braces: {reference}, the beta that others are compared with; {seeds}, their number;
    {score}, what chooses rates; {sample}, n and the kind of interval of the rows; those of `fields`; and those that a
    caller adds. A note's sentence that is nothing but an empty field is left out.

    Attributes:
        title: what it shows.
        note: its sentences, without full stops.
        columns: of columns that only some runs have, what the note says.
        hidden: columns that are not shown.
        shown: columns, or their names without `_low` and the like, that alone are shown; all where empty.
        paper, names, first: of `Table`.
        of: the frame that it is made of, where that has another name.
        holm: columns within whose values Holm's adjustment is made; None where it is made before, or not at all.
        rows: which of the frame's rows are shown, and how.
        words: (frame, grid) -> the sentences on its rows that begin the note.
        fields: (frame, grid) -> texts that fields in braces stand for.
        even_empty: made where there are no rows too.
    """

    title: str
    note: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    paper: bool = False
    names: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    of: str = ""
    holm: tuple[str, ...] | None = None
    rows: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    words: Callable[[pd.DataFrame, Grid], Iterable[str]] | None = None
    fields: Callable[[pd.DataFrame, Grid], Mapping[str, str]] | None = None
    even_empty: bool = False

    def table(self, frame: pd.DataFrame, grid: Grid, **fields: Any) -> Table:
        """The table of some rows; columns "doubtful" and TWO_KINDS are explained where a row has them.

        Args:
            frame: its rows.
            grid: of the run: its reference, seeds, selection score, and whether it is a smoke run.
            fields: texts that are put in place of fields in braces.
        """
        frame = frame if self.holm is None else adjusted(frame, *self.holm)
        fields = _fields(frame, grid) | dict(self.fields(frame, grid) if self.fields else {}) | fields
        words = self.words(frame, grid) if self.words else ()
        frame = self._of_rows(frame)
        columns = {"doubtful": DOUBTFUL, TWO_KINDS: KINDS, **self.columns}
        parts = [*self.note, *(text for column, text in columns.items() if has_any(frame, column))]
        sentences = [text.removesuffix(".") for text in (*words, *(part.format(**fields) for part in parts)) if text]
        note = smoke_note(grid) + " ".join(f"{sentence}." for sentence in sentences)
        title = self.title.format(**fields)
        return Table(title, display_columns(frame, grid), note.rstrip(), self.paper, self.names, self.first)

    def _of_rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows and columns that are shown."""
        frame = frame if self.rows is None else self.rows(frame)
        shown = {column for column in frame if not self.shown or column in self.shown or stem(column) in self.shown}
        return frame[[column for column in frame if column in shown and column not in self.hidden]]


def _fields(frame: pd.DataFrame, grid: Grid) -> dict[str, Any]:
    """The fields that every table's texts may hold, see `TableSpec`."""
    n = sample(frame) if {"seeds", "examples", "nested"} <= set(frame) else ""
    score = grid.select.replace("_", " ")
    seeds = counted(len(grid.seed), "seed")
    return {"reference": f"beta={grid.reference:g}", "seeds": seeds, "score": score, "sample": n}


def make_tables(
    specs: Mapping[str, TableSpec], frames: Mapping[str, pd.DataFrame], grid: Grid, **fields: Any
) -> dict[str, Table]:
    """The tables that have rows, or are made without, in the order of `specs`; see `TableSpec.table`."""
    frame_of = {name: frames[spec.of or name] for name, spec in specs.items()}
    return {
        name: spec.table(frame_of[name], grid, **fields)
        for name, spec in specs.items()
        if spec.even_empty or len(frame_of[name])
    }
