"""A result table as the page shows it: what names a row in one cell, intervals under means, numbers to sort by."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import SIBLINGS, number, places, title
from calib_bench.core.study import Table

if TYPE_CHECKING:
    import pandas as pd


MOST_ROWS = 1_000
"""Rows of a table on the page; the CSV has them all."""
NUMBERED = ("beta", "seed", "split", "order")
"""Columns of numbers that name a row."""
PARTICULAR = ("method", "metric", "result")
"""Columns of text that name a row wherever they stand."""
COUNTS = ("seeds", "dropped", "failed", "missing", "limit", "nested")
"""Columns that are equal in most rows."""
FLAG, GOOD = "tuning", "tuned"
"""A column that is a mark beside the name, and its value that needs none."""
BEST_HIGH = ("accuracy", "mean_confidence", "repaired_accuracy")


@dataclass(frozen=True)
class Cell:
    """One number: as text, its limits, what sorts it, whether it is starred, and its p-values in words."""

    text: str
    limits: str = ""
    value: str = ""
    star: bool = False
    p_text: str = ""


@dataclass(frozen=True)
class Row:
    """One row: its name, what stands over that, a mark, its naming values one by one, and its numbers."""

    name: str
    over: str
    flag: str
    keys: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Column:
    """A column of numbers: heading, whether it is shown at first, whether more is better, whether it holds numbers."""

    title: str
    first: bool
    high: bool
    numeric: bool


@dataclass(frozen=True)
class Grid:
    """A whole table; `same` says what all rows have in common."""

    name: str
    title: str
    note: str
    same: str
    keys: list[str]
    columns: list[Column]
    rows: list[Row]

    @property
    def hidden(self) -> int:
        """Columns that are not shown at first."""
        return sum(not column.first for column in self.columns)


def grid(name: str, table: Table) -> Grid:
    """The table in the page's form; columns without a value are left out, columns of one value listed below it."""
    frame = table.frame.head(MOST_ROWS)
    cut = f" The first {MOST_ROWS} of {len(table.frame)} rows." if len(table.frame) > MOST_ROWS else ""
    keys, alike = _keys_and_alike(frame, naming(table))
    columns = _value_columns(frame, {*keys, *alike, FLAG})
    first = set(table.first) & set(columns) or set(columns)
    return Grid(
        name=name,
        title=table.title,
        note=table.note + cut,
        same="; ".join(f"{title(c)}: {number(frame[c].iloc[0])}" for c in alike if _known(frame[c].iloc[0])),
        keys=[title(c) for c in keys],
        columns=[Column(title(c), c in first, c in BEST_HIGH, _numeric(frame[c])) for c in columns],
        rows=_rows(frame, keys, columns),
    )


def _keys_and_alike(frame: pd.DataFrame, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The naming columns that tell the rows apart, and the columns, naming or counting, that are alike in all rows."""
    alike = _alike(frame, (*names, *COUNTS, FLAG)) if len(frame) > 1 else []
    keys = [c for c in names if c not in alike and c != FLAG] or list(names[-1:])
    return keys, [c for c in alike if c not in keys]


def _alike(frame: pd.DataFrame, names: Collection[str]) -> list[str]:
    """The frame's columns among `names` that have one value."""
    return [c for c in frame if c in names and frame[c].nunique(dropna=False) == 1]


def _value_columns(frame: pd.DataFrame, left_out: Collection[str]) -> list[str]:
    """The columns that the page shows beside the names: those with a value, limits and p-values folded into theirs."""
    folded = {f"{c}{end}" for c in frame for end in SIBLINGS}
    candidates = [c for c in frame if c not in left_out and c not in folded]
    return [c for c in candidates if bool(frame[c].notna().any())]


def _rows(frame: pd.DataFrame, keys: Sequence[str], columns: Sequence[str]) -> list[Row]:
    cells = [_cells(frame, column) for column in columns]
    return [
        Row(*_named(row, keys), [number(row[key]) for key in keys], [by_row[i] for by_row in cells])
        for i, row in enumerate(frame.to_dict("records"))
    ]


def naming(table: Table) -> list[str]:
    """The columns that name a row: the table's own word, else the leading ones of text, NUMBERED and PARTICULAR."""
    frame = table.frame
    if declared := [c for c in table.names if c in frame]:
        return declared
    columns = list(map(str, frame.columns))
    keys = list(itertools.takewhile(lambda c: c in NUMBERED or not _numeric(frame[c]), columns))
    keys += [c for c in PARTICULAR if c in columns and c not in keys and not _numeric(frame[c])]
    return keys or columns[:1]


def _numeric(values: pd.Series) -> bool:
    present = values.dropna()
    return len(present) > 0 and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in present)


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _named(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[str, str, str]:
    """The last of the names, the others, and the mark."""
    parts = [_name_part(c, row[c]) for c in names if _known(row[c])] or ["–"]
    flag = row.get(FLAG)
    mark = flag if isinstance(flag, str) and flag != GOOD else ""
    return parts[-1], " · ".join(parts[:-1]), mark


def _name_part(column: str, value: object) -> str:
    return number(value) if isinstance(value, str) else f"{title(column)} {number(value)}"


def _cells(frame: pd.DataFrame, column: str) -> list[Cell]:
    """A column's cells, intervals to as many places as three quarters of them need."""
    rows = frame[[c for c in frame if c == column or str(c).removeprefix(column) in SIBLINGS]].to_dict("records")
    estimates = [_bounded(row, column) for row in rows]
    bounded = list(filter(None, estimates))
    alone = None if bounded else _common_places([row[column] for row in rows])
    usual = _usual_places(bounded)
    cells = []
    for row, one in zip(rows, estimates, strict=True):
        value = row[column]
        cells.append(_plain_cell(value, alone) if one is None else _interval_cell(one, _sortable(value), usual))
    return cells


def _usual_places(estimates: Sequence[Estimate]) -> int:
    """Places that are enough for three quarters of the estimates."""
    wanted = sorted(places(one.low, one.high) for one in estimates)
    return wanted[min(3 * len(wanted) // 4, len(wanted) - 1)] if wanted else 0


def _bounded(row: Mapping[Any, Any], column: str) -> Estimate | None:
    """The estimate in a column; None where it or a limit is missing or infinite."""
    estimate = Estimate.of(row, column)
    return estimate if estimate is not None and estimate.is_bounded else None


def _common_places(values: Sequence[object]) -> int | None:
    """Places that show three digits of every one of some fractions alike in size; None for what is no such column."""
    fractions = [float(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    if all(v == round(v, 2) for v in fractions):
        return None
    sizes = sorted(map(abs, fractions))
    if sizes[-1] >= 1e3 or sizes[-1] > 100 * sizes[0]:
        return None
    return max(0, 2 - math.floor(math.log10(sizes[len(sizes) // 2])))


def _plain_cell(value: object, digits: int | None) -> Cell:
    """The cell of a value without limits; a finite fraction has so many places, if any are given."""
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif digits is not None and isinstance(value, float) and math.isfinite(value):
        text = fixed(value, digits)
    else:
        text = number(value)
    return Cell(text, value=_sortable(value))


def _interval_cell(estimate: Estimate, sortable: str, usual: int) -> Cell:
    """The cell of an estimate to the column's usual places, or to its own where those are two or more off."""
    needed = places(estimate.low, estimate.high)
    digits = usual if abs(needed - usual) <= 1 else needed
    limits = f"[{fixed(estimate.low, digits)}, {fixed(estimate.high, digits)}]"
    p_values = (("p", estimate.p), ("Holm-adjusted p", estimate.holm))
    p_texts = [f"{what} = {p:.2g}" for what, p in p_values if not math.isnan(p)]
    return Cell(fixed(estimate.mean, digits), limits, sortable, estimate.is_significant, ", ".join(p_texts))


def fixed(value: float, digits: int) -> str:
    """The number to so many places, a true minus sign, no minus zero."""
    value = 0.0 if abs(value) < 0.5 * 10**-digits else value
    return f"{value:.{digits}f}".replace("-", "−")


def _sortable(value: object) -> str:
    if isinstance(value, numbers.Real) and not math.isnan(float(value)):
        return f"{float(value):.8g}".replace("inf", "Infinity")
    return "" if not _known(value) or isinstance(value, numbers.Real) else str(value)
