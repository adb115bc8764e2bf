"""What a result table shows, chosen once for all who render it: names of rows, columns, intervals, what is alike."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import SIBLINGS, TWO_KINDS, number, title
from calib_bench.core.study import Table

if TYPE_CHECKING:
    import pandas as pd


NUMBERED = ("beta", "seed", "split", "order")
"""Columns of numbers that name a row."""
PARTICULAR = ("method", "metric", "result")
"""Columns of text that name a row wherever they stand."""
COUNTS = ("seeds", "dropped", "failed", "missing", "limit", "nested")
"""Columns that are equal in most rows."""
MARKS = (TWO_KINDS, "doubtful", "remark")
"""Columns of text that say something of a row's numbers and never name it."""
FLAG, GOOD = "tuning", "tuned"
"""A column that is a mark beside the name, and its value that needs none."""
BEST_HIGH = ("accuracy", "mean_confidence", "repaired_accuracy")
"""Columns of which more is better."""


@dataclass(frozen=True)
class Column:
    """A column of a table as it is shown, the columns of its limits and p-values folded into it.

    Attributes:
        name: in the frame.
        values: one a row, as plain Python values.
        estimates: one a row; None where the row has no number or the column has no limits.
    """

    name: str
    values: tuple[object, ...]
    estimates: tuple[Estimate | None, ...]

    @property
    def title(self) -> str:
        """The heading."""
        return title(self.name)

    @cached_property
    def is_numeric(self) -> bool:
        """Whether all its values are numbers."""
        return is_numeric(self.values)

    @property
    def more_is_better(self) -> bool:
        """Whether the highest value is the best."""
        return self.name in BEST_HIGH

    def texts(self, write: Callable[[object, Estimate | None], str]) -> list[str]:
        """A text for each row, as `write` makes it of the value and its estimate."""
        return list(map(write, self.values, self.estimates))


@dataclass(frozen=True)
class TableView:
    """A result table ready for a renderer.

    Attributes:
        title, note: the table's.
        frame: the rows in view.
        naming: columns that name a row, the most particular last.
        declared_first: columns that the table wants to be shown at first.
    """

    title: str
    note: str
    frame: pd.DataFrame
    naming: tuple[str, ...]
    declared_first: tuple[str, ...]

    @classmethod
    def of(cls, table: Table) -> TableView:
        """The view of all rows."""
        return cls(table.title, table.note, table.frame, tuple(_naming(table)), table.first)

    def with_rows(self, frame: pd.DataFrame) -> TableView:
        """The view of some of the rows, in an order of the caller's; what names a row stays."""
        return replace(self, frame=frame)

    def head(self, most: int) -> TableView:
        """The view of the first rows, with a sentence in the note where that leaves any out."""
        if len(self.frame) <= most:
            return self
        note = f"{self.note} The first {most:,} of {len(self.frame):,} rows."
        return replace(self, frame=self.frame.head(most), note=note)

    def without(self, names: Collection[str]) -> TableView:
        """The view without some columns."""
        return replace(self, frame=self.frame.drop(columns=list(names)))

    def brief(self, most: int) -> TableView:
        """The view with the kinds of its marks alone and, of more columns than `most`, with those declared first."""
        view = self
        if len(self.shown) > most and self.declared_first:
            hidden = set(self.shown) - {*self.naming, *self.declared_first, *MARKS}
            view = self.without({f"{name}{end}" for name in hidden for end in ("", *SIBLINGS)} & set(self.frame))
        kinds = {mark: view.frame[mark].str.partition(":")[0] for mark in MARKS if mark in view.frame}
        return replace(view, frame=view.frame.assign(**kinds))

    @cached_property
    def shown(self) -> tuple[str, ...]:
        """The columns that hold any value, without those of limits and p-values."""
        folded = {f"{name}{end}" for name in self.frame for end in SIBLINGS}
        return tuple(name for name in self.frame if name not in folded and bool(self.frame[name].notna().any()))

    def columns(self, names: Iterable[str]) -> list[Column]:
        """Columns of these names, in order."""
        return [self._column(name) for name in names]

    def first(self, names: Collection[str]) -> list[str]:
        """Those of some columns that are shown at first: the declared ones, or all where none of them is declared."""
        return [name for name in names if name in self.declared_first] or list(names)

    def alike(self, names: Iterable[str], missing_counts: bool = True) -> list[str]:
        """Those of some columns that have one value in all of several rows.

        Args:
            missing_counts: whether a missing value is a value of its own.
        """
        if len(self.frame) < 2:
            return []
        present = [name for name in names if name in self.frame]
        return [name for name in present if self.frame[name].nunique(dropna=not missing_counts) == 1]

    def in_words(self, names: Iterable[str]) -> str:
        """The values of columns that are alike in all rows, "model: mlp; seeds: 3"; without those that are missing."""
        present = {name: self.frame[name].dropna() for name in names}
        return "; ".join(f"{title(name)}: {number(v.iloc[0])}" for name, v in present.items() if len(v))

    def sentence(self, names: Iterable[str]) -> str:
        """`in_words` as a sentence; empty where no column is named."""
        words = self.in_words(names)
        return f"{words}." if words else ""

    @cached_property
    def rows(self) -> list[dict[Any, Any]]:
        """The rows as plain Python values by column."""
        return self.frame.to_dict("records")

    def _column(self, name: str) -> Column:
        has_limits = f"{name}_low" in self.frame
        estimates = (Estimate.of(row, name) if has_limits else None for row in self.rows)
        return Column(name, tuple(row[name] for row in self.rows), tuple(estimates))


def star(estimate: Estimate) -> str:
    """The mark of a difference that is significant after Holm's correction; empty of any other."""
    return "*" if estimate.is_significant else ""


def is_known(value: object) -> bool:
    """Whether a value is there: neither None nor NaN."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def is_numeric(values: Iterable[object]) -> bool:
    """Whether the values that are there are numbers, and there are any."""
    present = [value for value in values if is_known(value)]
    return len(present) > 0 and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in present)


def _naming(table: Table) -> list[str]:
    """The columns that name a row: the table's own word, else the leading ones of text, NUMBERED and PARTICULAR."""
    frame = table.frame
    if declared := [name for name in table.names if name in frame]:
        return declared
    columns = [str(name) for name in frame.columns if name not in MARKS]
    keys = list(itertools.takewhile(lambda name: name in NUMBERED or not is_numeric(frame[name]), columns))
    keys += [name for name in PARTICULAR if name in columns and name not in keys and not is_numeric(frame[name])]
    return keys or columns[:1]
