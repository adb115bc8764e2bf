"""A result table as the page shows it: what names a row in one cell, intervals under means, numbers to sort by."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.format import ALPHA, SIBLINGS, number, places, title
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
"""Columns that say the same of most rows."""
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
    told: str = ""


@dataclass(frozen=True)
class Line:
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
    lines: list[Line]

    @property
    def hidden(self) -> int:
        """Columns that are not shown at first."""
        return sum(not column.first for column in self.columns)


def grid(name: str, table: Table) -> Grid:
    """The table in the page's form; columns without a value are left out, columns of one value told in words."""
    frame = table.frame.head(MOST_ROWS)
    cut = f" The first {MOST_ROWS} of {len(table.frame)} rows." if len(table.frame) > MOST_ROWS else ""
    names = naming(table)
    alike = [
        c for c in frame if c in (*names, *COUNTS, FLAG) and len(frame) > 1 and frame[c].nunique(dropna=False) == 1
    ]
    varying = [c for c in names if c not in alike and c != FLAG] or names[-1:]
    alike = [c for c in alike if c not in varying]
    left_out = {*alike, *varying, FLAG}
    folded = {f"{c}{end}" for c in frame for end in SIBLINGS}
    shown = [c for c in frame if c not in left_out | folded and bool(frame[c].notna().any())]
    cells = {c: _cells(frame, c) for c in shown}
    first = set(table.first) & set(shown) or set(shown)
    lines = [
        Line(*_named(row, varying), [number(row[c]) for c in varying], [cells[c][i] for c in shown])
        for i, row in enumerate(frame.to_dict("records"))
    ]
    return Grid(
        name,
        table.title,
        table.note + cut,
        "; ".join(f"{title(c)}: {number(frame[c].iloc[0])}" for c in alike if _known(frame[c].iloc[0])),
        [title(c) for c in varying],
        [Column(title(c), c in first, c in BEST_HIGH, _numeric(frame[c])) for c in shown],
        lines,
    )


def naming(table: Table) -> list[str]:
    """The columns that name a row: the table's own word, else the leading ones of text, NUMBERED and PARTICULAR."""
    frame = table.frame
    if declared := [c for c in table.names if c in frame]:
        return declared
    keys: list[str] = []
    for column in map(str, frame.columns):
        if column not in NUMBERED and _numeric(frame[column]):
            break
        keys.append(column)
    keys += [c for c in PARTICULAR if c in frame and c not in keys and not _numeric(frame[c])]
    return keys or [str(c) for c in frame.columns[:1]]


def _numeric(values: pd.Series) -> bool:
    present = values.dropna()
    return len(present) > 0 and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in present)


def _known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _named(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[str, str, str]:
    """The last of the names, the others, and the mark."""
    parts = [
        number(row[c]) if isinstance(row[c], str) else f"{title(c)} {number(row[c])}" for c in names if _known(row[c])
    ]
    flag = row.get(FLAG)
    mark = flag if isinstance(flag, str) and flag != GOOD else ""
    return (parts[-1] if parts else "–"), " · ".join(parts[:-1]), mark


def _cells(frame: pd.DataFrame, column: str) -> list[Cell]:
    """A column's cells, intervals to as many places as three quarters of them need."""
    rows = frame[[c for c in frame if c == column or str(c).removeprefix(column) in SIBLINGS]].to_dict("records")
    wanted = sorted(places(row[f"{column}_low"], row[f"{column}_high"]) for row in rows if _bounded(row, column))
    usual = wanted[min(3 * len(wanted) // 4, len(wanted) - 1)] if wanted else 0
    alone = _common_places([row[column] for row in rows]) if not wanted else None
    return [_cell(row, column, usual, alone) for row in rows]


def _common_places(values: Sequence[object]) -> int | None:
    """Places that show three digits of every one of some fractions alike in size; None for what is no such column."""
    fractions = [float(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    sizes = [abs(v) for v in fractions]
    if not fractions or max(sizes) >= 1e3 or max(sizes) > 100 * min(sizes) or all(v == round(v, 2) for v in fractions):
        return None
    return max(0, 2 - math.floor(math.log10(sorted(sizes)[len(sizes) // 2])))


def _bounded(row: Mapping[Any, Any], column: str) -> bool:
    ends = [row.get(f"{column}{end}") for end in ("", "_low", "_high")]
    return all(isinstance(v, numbers.Real) and math.isfinite(v) for v in ends)


def _cell(row: Mapping[Any, Any], column: str, usual: int, alone: int | None) -> Cell:
    value = row[column]
    raw = _sortable(value)
    if not _bounded(row, column):
        if isinstance(value, bool):
            return Cell("yes" if value else "no", value=raw)
        finite = isinstance(value, float) and math.isfinite(value)
        return Cell(fixed(value, alone) if finite and alone is not None else number(value), value=raw)
    low, high = float(row[f"{column}_low"]), float(row[f"{column}_high"])
    needed = places(low, high)
    digits = usual if abs(needed - usual) <= 1 else needed
    p, holm = row.get(f"{column}_p"), row.get(f"{column}_holm")
    p_texts = [f"{what} = {v:.2g}" for what, v in (("p", p), ("Holm-adjusted p", holm)) if v is not None and _known(v)]
    starred = isinstance(holm, numbers.Real) and float(holm) < ALPHA
    limits = f"[{fixed(low, digits)}, {fixed(high, digits)}]"
    return Cell(fixed(float(value), digits), limits, raw, starred, ", ".join(p_texts))


def fixed(value: float, digits: int) -> str:
    """The number to so many places, a true minus sign, no minus zero."""
    value = 0.0 if abs(value) < 0.5 * 10**-digits else value
    return f"{value:.{digits}f}".replace("-", "−")


def _sortable(value: object) -> str:
    if isinstance(value, numbers.Real) and not math.isnan(float(value)):
        return f"{float(value):.8g}".replace("inf", "Infinity")
    return "" if not _known(value) or isinstance(value, numbers.Real) else str(value)
