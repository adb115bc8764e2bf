"""A result table as the page shows it: what names a row in one cell, intervals under means, numbers to sort by."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import estimate_texts, fixed, number, places, title
from calib_bench.core.study import Table
from calib_bench.report.table_view import COUNTS, FLAG, GOOD, Column, TableView, is_known, star

MOST_ROWS = 1_000
"""Rows of a table on the page; the CSV has them all."""
MOST_PLACES = 6
"""Decimal places of a column; what needs more is written with an exponent."""
WIDTH = 148
"""Characters of numbers that fit on a page of 1280 pixels, the names of rows and each column's margins counted."""
NAME = (30, 46)
"""Characters that the names of rows take, at least and at most."""
MARGIN = 4
"""A column's margins, in characters."""


@dataclass(frozen=True)
class Cell:
    """One number: as text, its limits, what sorts it, its mark, and its p-values in words."""

    text: str
    limits: str = ""
    value: str = ""
    star: str = ""
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
class PageTable:
    """A whole table; `same` says what all rows have in common, `first` names the columns that are shown at first."""

    name: str
    title: str
    note: str
    same: str
    keys: list[str]
    columns: list[Column]
    first: list[str]
    rows: list[Row]

    @property
    def hidden(self) -> int:
        """Columns that are not shown at first."""
        return len(self.columns) - len(self.first)


def page_table(name: str, table: Table) -> PageTable:
    """The table in the page's form; columns without a value are left out, columns of one value listed below it."""
    view = TableView.of(table).head(MOST_ROWS)
    keys, alike = _keys_and_alike(view)
    shown = [name for name in view.shown if name not in {*keys, *alike, FLAG}]
    names = list(dict.fromkeys((*(name for name in view.declared_first if name in shown), *shown)))
    columns = view.columns(names)
    rows = _rows(view, keys, columns)
    return PageTable(
        name=name,
        title=view.title,
        note=view.note,
        same=view.in_words(alike),
        keys=[title(key) for key in keys],
        columns=columns,
        first=_fitting(view.first(names), names, rows),
        rows=rows,
    )


def _fitting(first: Sequence[str], columns: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """The leading ones of some columns that fit beside one another, at least one; those of long text come last."""
    widths = dict(zip(columns, map(_width, columns, zip(*(row.cells for row in rows), strict=True)), strict=False))
    longest = max((len(row.name) + len(row.flag) for row in rows), default=0)
    total: float = min(max(longest + MARGIN, NAME[0]), NAME[1])
    fitting: list[str] = []
    for name in first:
        total += widths.get(name, 0)
        if total <= WIDTH or not fitting:
            fitting.append(name)
    return fitting


def _width(name: str, cells: Sequence[Cell]) -> float:
    """Characters that a column takes: those of its longest cell, or of the longest word of its heading, which is bold
    and has an arrow."""
    words = [1.3 * len(word) + 3 for word in title(name).split()]
    return MARGIN + max(*words, *(max(len(cell.text) + len(cell.star), len(cell.limits)) for cell in cells))


def _keys_and_alike(view: TableView) -> tuple[list[str], list[str]]:
    """The naming columns that tell the rows apart, and the columns, naming or counting, that are alike in all rows."""
    candidates = (*view.naming, *COUNTS, FLAG)
    alike = view.alike(name for name in view.frame if name in candidates)
    keys = [name for name in view.naming if name not in alike and name != FLAG] or list(view.naming[-1:])
    return keys, [name for name in alike if name not in keys]


def _rows(view: TableView, keys: Sequence[str], columns: Sequence[Column]) -> list[Row]:
    cells = list(map(_cells, columns))
    return [
        Row(*_named(row, keys), [number(row[key]) for key in keys], [by_row[i] for by_row in cells])
        for i, row in enumerate(view.rows)
    ]


def _named(row: Mapping[Any, Any], names: Sequence[str]) -> tuple[str, str, str]:
    """The last of the names, the others, and the mark."""
    parts = [_name_part(name, row[name]) for name in names if is_known(row[name])] or ["–"]
    flag = row.get(FLAG)
    mark = flag if isinstance(flag, str) and flag != GOOD else ""
    return parts[-1], " · ".join(parts[:-1]), mark


def _name_part(column: str, value: object) -> str:
    return number(value) if isinstance(value, str) else f"{title(column)} {number(value)}"


def _cells(column: Column) -> list[Cell]:
    """A column's cells, intervals to as many places as three quarters of them need."""
    bounded = [one for one in column.estimates if one is not None and one.is_bounded]
    alone = None if bounded else _common_places(column.values)
    usual = _usual_places(bounded)
    cells = []
    for value, one in zip(column.values, column.estimates, strict=True):
        if one is not None and one.is_bounded:
            cells.append(_interval_cell(one, _sortable(value), usual))
        else:
            cells.append(_plain_cell(value, alone))
    return cells


def _usual_places(estimates: Sequence[Estimate]) -> int:
    """Places that are enough for three quarters of the estimates."""
    wanted = sorted(places(one.low, one.high) for one in estimates)
    return wanted[min(3 * len(wanted) // 4, len(wanted) - 1)] if wanted else 0


def _common_places(values: Sequence[object]) -> int | None:
    """Places that show three digits of every one of some fractions alike in size; None for what is no such column."""
    fractions = [float(v) for v in values if isinstance(v, float) and math.isfinite(v) and v != 0]
    if all(v == round(v, 2) for v in fractions):
        return None
    sizes = sorted(map(abs, fractions))
    if sizes[-1] >= 1e3 or sizes[-1] > 100 * sizes[0]:
        return None
    digits = max(0, 2 - math.floor(math.log10(sizes[len(sizes) // 2])))
    return digits if digits <= MOST_PLACES else None


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
    mean, low, high = estimate_texts(estimate.mean, estimate.low, estimate.high, digits)
    p_values = (("p", estimate.p), ("Holm-adjusted p", estimate.holm))
    p_texts = [f"{what} = {p:.2g}" for what, p in p_values if not math.isnan(p)]
    return Cell(mean, f"[{low}, {high}]", sortable, star(estimate), ", ".join(p_texts))


def _sortable(value: object) -> str:
    if isinstance(value, numbers.Real) and not math.isnan(float(value)):
        return f"{float(value):.8g}".replace("inf", "Infinity")
    return "" if not is_known(value) or isinstance(value, numbers.Real) else str(value)
