"""Sentences on when in training beta matters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.result_rows import cell, excludes_zero, is_significant, why_loose
from calib_bench.core.settings import Grid
from calib_bench.studies.beta_switch.rows import ALL_ALONG, NEVER
from calib_bench.studies.beta_switch.switches import FROM, TO

if TYPE_CHECKING:
    import pandas as pd


MOVES = ("accuracy", "log_loss_dyn")
"""Results that only learning changes: no temperature after training does."""


def verdict(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on when in training beta matters.

    Args:
        frame: rows of `analyse`, Holm-adjusted.
        grid: whose arms they are.
    """
    if not len(frame) or "accuracy" not in frame:
        return ["There is nothing to compare: no switched arm shares a finished seed with one that never switches."]
    sentences = []
    keys = [frame[key].fillna("") for key in ("model", "variant", "objective")]
    several = frame.groupby(keys, sort=False).ngroups > 1
    for (*name, beta), beta_rows in frame.groupby([*keys, "beta"], sort=False):
        where = f"{' '.join(part for part in name if part)}: " if several else ""
        rows = beta_rows[beta_rows["accuracy"].notna()].to_dict("records")
        sentences += [where + text for text in _beta_sentences(rows, float(beta), grid)]
    return sentences


def _beta_sentences(rows: Sequence[Mapping[str, Any]], beta: float, grid: Grid) -> list[str]:
    """On one beta of one model and objective: all along, then switches from it and to it."""
    ways = [_way(rows, way, beta, grid) for way in (FROM, TO)]
    return [_all_along(rows, beta, grid), *(text for text in ways if text)]


def summary(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Summary: in how many arms training before, or after, the switch made a significant difference, and where."""
    if not len(frame) or "accuracy" not in frame or frame.groupby(["model", "objective"]).ngroups > 1:
        return []
    rows = frame[frame["accuracy"].notna()].to_dict("records")
    sentences = []
    for against, part in ((ALL_ALONG, "before"), (NEVER, "after")):
        compared = [row for row in rows if row["against"] == against]
        sure = [row for row in compared if moved(row)]
        where = _shares_by_switch(sure, grid)
        at_shares = f", with the switch at {'; '.join(where)}" if where else ""
        sentences.append(
            f"Training {part} the switch made a significant difference in {len(sure)} of {len(compared)}{at_shares}."
        )
    return sentences


def _shares_by_switch(rows: Sequence[Mapping[str, Any]], grid: Grid) -> list[str]:
    """The shares of the updates after which a switch came, by beta and way."""
    texts = []
    for beta in sorted({row["beta"] for row in rows}):
        ends = {FROM: f"beta={beta:.3g} to {grid.reference:g}", TO: f"beta={grid.reference:g} to {beta:.3g}"}
        for way, text in ends.items():
            group = [row for row in rows if (row["beta"], row["way"]) == (beta, way)]
            if group:
                texts.append(f"{_shares(group)} from {text}")
    return texts


def _all_along(rows: Sequence[Mapping[str, Any]], beta: float, grid: Grid) -> str:
    plain = next((row for row in rows if row["against"] == "reference"), None)
    begin = f"All along at beta={beta:.3g} instead of {grid.reference:g}"
    if plain is None:
        return f"{begin}: no seed has finished at both."
    loose = "" if moved(plain) else "; inconclusive"
    if loose and _hints([plain]):
        loose += f" ({why_loose([plain])})"
    return (
        f"{begin}, accuracy changes by {cell(plain, 'accuracy')} and repaired log loss by {cell(plain, 'log_loss_dyn')}"
        f"{loose}."
    )


def _way(rows: Sequence[Mapping[str, Any]], way: str, beta: float, grid: Grid) -> str:
    """Sentence on the effect of training before the switch and of training after it, in one direction."""
    first, last = (f"{beta:.3g}", f"{grid.reference:g}")
    first, last = (first, last) if way == FROM else (last, first)
    begun = [row for row in rows if row["way"] == way and row["against"] == ALL_ALONG]
    rest = [row for row in rows if row["way"] == way and row["against"] == NEVER]
    if not begun or not rest:
        return ""
    return (
        f"From beta={first} to {last}. Beginning at {first} {_times(begun, f'{last} all along')}. "
        f"Switching to {last} {_times(rest, 'never switching')}."
    )


def _times(rows: Sequence[Mapping[str, Any]], than: str) -> str:
    """Text that lists the times of the switch with a significant difference, and the largest one."""
    sure, silent = ([row for row in rows if moved(row) == wanted] for wanted in (True, False))
    if not sure:
        return f"makes no significant difference to {than} at any time of the switch{_why(silent)}"
    most = max(sure, key=lambda row: abs(row["log_loss_dyn"]))
    rest = f"; inconclusive at {_shares(silent)}{_why(silent)}" if silent else ""
    return (
        f"makes a difference to {than} with the switch at {_shares(sure)} of the updates (at {most['at']:.3g}: "
        f"accuracy {cell(most, 'accuracy')}, repaired log loss {cell(most, 'log_loss_dyn')}){rest}"
    )


def _why(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why nothing is established in rows that do not move, where some interval leaves 0 out."""
    hints = _hints(rows)
    return f" (at {_shares(hints)} it may, {why_loose(hints)})" if hints else ""


def _hints(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if any(excludes_zero(row, column) for column in MOVES)]


def _shares(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['at']:.3g}" for row in sorted(rows, key=lambda row: float(row["at"])))


def moved(row: Mapping[str, Any]) -> bool:
    """Whether accuracy or repaired log loss differs significantly."""
    return any(is_significant(row, column) for column in MOVES)
