"""Rows of a table of intervals: `x` with `x_low`, `x_high`, `x_p`, and `x_holm` once corrected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import TWO_KINDS, number
from calib_bench.core.settings import Grid
from calib_bench.inference import FEWEST, Interval, holm
from calib_bench.planning.tuning import FEW_SEEDS, FEWEST_SEEDS

if TYPE_CHECKING:
    import pandas as pd


TRAINED, RATE, MAGNITUDE = "train at beta", "head rate", "initial magnitude"
"""Names of interventions: all of what beta does, its rate alone, its initial logits alone."""

Row = dict[str, Any]


def fields(name: str, interval: Interval) -> Row:
    """An interval as columns `name`, `_low`, `_high`, and `_p` where it has one."""
    return Estimate.of_interval(interval).fields(name)


def limits(name: str, interval: Interval) -> Row:
    """An interval as columns `name`, `_low` and `_high`."""
    return Estimate.of_interval(interval).limits(name)


def bounded(name: str, interval: Interval) -> Row:
    """The same of an interval with finite limits; no column of any other."""
    estimate = Estimate.of_interval(interval)
    return estimate.limits(name) if math.isfinite(estimate.low) and math.isfinite(estimate.high) else {}


def doubtful(intervals: Mapping[str, Interval]) -> Row:
    """A column "doubtful" that names the quantities whose limits are in doubt, by reason; no column where none are."""
    reasons: dict[str, list[str]] = {}
    for name, one in intervals.items():
        if one.doubt:
            reasons.setdefault(one.doubt, []).append(name.replace("_", " "))
    words = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in reasons.items())
    return {"doubtful": words} if words else {}


DOUBTFUL = (
    f"doubtful: limits that may cover less than 95% of the time, since fewer than {FEWEST} examples are wrong (few "
    "errors) or there are fewer than 25 times the squared skewness of their values (heavy tails)"
)
"""Note on the column "doubtful" of a table."""
TRIALS_DOUBTFUL = f"doubtful: ECE rests on fewer than {FEWEST} wrong examples (few errors)"
"""What that of a table of trials says."""


def row_of(intervals: Mapping[str, Interval]) -> Row:
    """Intervals as the columns of one row, with what casts doubt on them."""
    row: Row = {}
    for name, interval in intervals.items():
        row |= fields(name, interval)
    return row | doubtful(intervals)


def has_any(frame: pd.DataFrame, column: str) -> bool:
    """Whether any row of the frame has a value in the column."""
    return column in frame and bool(frame[column].notna().any())


def adjusted(frame: pd.DataFrame, *by: str) -> pd.DataFrame:
    """The frame with a column `<name>_holm` for every `<name>_p`: Holm's adjustment over all rows alike in `by`.

    Where a quantity has no p-value it was not tested, and does not count.
    """
    out = frame.copy()
    columns = [c for c in frame.columns if c.endswith("_p")]
    group = frame.groupby([*by]).ngroup().to_numpy() if by and columns else np.zeros(len(frame))
    families = [group == family for family in np.unique(group[group >= 0])]
    for column in columns:
        p = frame[column].to_numpy("float64")
        values = np.full(len(p), math.nan)
        for family in families:
            tested = family & ~np.isnan(p)
            values[tested] = holm(p[tested])
        out[f"{column[:-2]}_holm"] = values
    return out


def drop_single_seed_intervals(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The frame without limits and p-values where one seed of several is left: they would count examples alone.

    A study that was given one seed keeps them, and says so.
    """
    if len(grid.seed) < 2 or "seeds" not in frame:
        return frame
    ends = [c for c in frame.columns if c.endswith(("_low", "_high", "_p"))]
    out = frame.copy()
    out.loc[frame["seeds"] == 1, ends] = math.nan
    return out


def table_frames(
    rows: Mapping[str, Sequence[Row]], grid: Grid, adjust: Mapping[str, tuple[str, ...]]
) -> dict[str, pd.DataFrame]:
    """Frames of the rows of tables, without limits where one seed of several is left.

    Args:
        rows: by table.
        grid: that the study was given.
        adjust: by table that has Holm's adjustment, the columns within whose values it is made.
    """
    import pandas as pd

    frames = {name: drop_single_seed_intervals(pd.DataFrame(table_rows), grid) for name, table_rows in rows.items()}
    return frames | {name: adjusted(frames[name], *by) for name, by in adjust.items()}


def cell(row: Mapping[str, Any], column: str) -> str:
    """ "mean [low, high]"."""
    estimate = Estimate.of(row, column)
    return number(row[column]) if estimate is None else estimate.text


def percent(row: Mapping[str, Any], column: str) -> str:
    """A share as "20% [1%, 72%]", or without limits where it has none."""
    share = Estimate.of(row, column)
    text = share.percent if share is not None and share.is_bounded else f"{row[column]:.0%}"
    return text.replace("-", "−").replace("nan%", "–")


def excludes_zero(row: Mapping[str, Any], column: str) -> bool:
    """Whether the 95% interval lies on one side of zero."""
    estimate = Estimate.of(row, column)
    return estimate is not None and estimate.excludes_zero


def is_significant(row: Mapping[str, Any], column: str) -> bool:
    """Whether an effect is established: its interval excludes 0, Holm's p is below ALPHA, and it is not `revoked`."""
    estimate = Estimate.of(row, column)
    return estimate is not None and estimate.excludes_zero and estimate.is_significant and not revoked(row)


FEW_CHOSE = f"fewer than {FEWEST_SEEDS} seeds chose the rate"


def few_chose(row: Mapping[str, Any]) -> bool:
    """Whether a row's column `tuning` says that too few seeds chose a rate for anything to be established."""
    return FEW_SEEDS in str(row.get("tuning", ""))


SOME_COLLAPSED = "some seeds of the arm or its reference collapsed"
KINDS = f"{TWO_KINDS.replace('_', ' ')}: whose seeds collapsed in part, so that no effect in the row is established"
"""Note on the column TWO_KINDS of a table."""


def marks_note(frame: pd.DataFrame) -> str:
    """Sentences on the columns "doubtful" and TWO_KINDS, where a row of the frame has them; a space before each."""
    texts = {"doubtful": DOUBTFUL, TWO_KINDS: KINDS}
    return "".join(f" {text}." for column, text in texts.items() if has_any(frame, column))


def revoked(row: Mapping[str, Any]) -> str:
    """Reason why no effect in a row is called established, whatever its intervals; empty if there is none.

    Too few seeds chose a rate, or some of an arm's seeds collapsed: no interval over few seeds covers such a mean.
    """
    if few_chose(row):
        return FEW_CHOSE
    kinds = row.get(TWO_KINDS)
    return SOME_COLLAPSED if isinstance(kinds, str) and kinds else ""
