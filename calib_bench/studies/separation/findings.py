"""The verdict: what of beta's effect was confidence and what was dynamics, said as far as the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import best_beta, collapse, controls, interventions, seed_spread
from calib_bench.analysis.result_rows import cell, excludes_zero, is_significant, revoked, significance_note, why_loose
from calib_bench.analysis.table_notes import betas, families
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import EQUAL, Interval, equivalence
from calib_bench.studies.separation import equal_confidence, factorial

if TYPE_CHECKING:
    import pandas as pd


Row = Mapping[str, Any]
MARGIN = 0.01
"""A difference in accuracy, or of log loss in nats, that is surely smaller than this is called equal."""
WIDEST = 1.0
"""Widest interval of a share that is reported."""


def verdict(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Sentences of the verdict, most important first; the details are in the tables."""
    contrasts = frames["separation"]
    if "log_loss_total" not in contrasts or not contrasts["log_loss_total"].notna().any():
        return (
            f"There is nothing to compare: no other arm shares a finished seed with the reference "
            f"(beta={grid.reference:g}, cross-entropy).",
            *controls.without(frames["controls"]),
        )
    sentences = [text for where, group in families(contrasts) for text in _over_beta(where, group, grid)]
    sentences += equal_confidence.headlines(frames["matched"], grid)
    sentences += factorial.tests_words(frames["factorial_tests"], grid)
    sentences += interventions.words(frames, grid)
    sentences += [text for where, group in families(contrasts) for text in _objectives(where, group, grid)]
    sentences += best_beta.words(
        frames["best_beta"], f"{CROSS_ENTROPY}: " if contrasts["objective"].nunique() > 1 else ""
    )
    gain = frames["gain"]
    sentences += seed_spread.gain_words(gain[gain["objective"] == CROSS_ENTROPY] if len(gain) else gain, grid)
    sentences += collapse.words(collapse.rows(frames["trials"], grid))
    return (*sentences, *controls.words(frames["controls"]))


def _over_beta(where: str, frame: pd.DataFrame, grid: Grid) -> list[str]:
    measured = frame[frame["log_loss_total"].notna() & (frame["objective"] == CROSS_ENTROPY)]
    rows = measured.to_dict("records")
    if not rows:
        return []
    how = " (one seed: intervals over test examples only)" if len(grid.seed) == 1 else ""
    head = f"{where}Training with cross-entropy at another beta than {grid.reference:g}{how}"
    return [
        f"{head}. Accuracy, which is all dynamics since no temperature changes a predicted class: "
        f"{_changes(rows, 'accuracy')}.",
        f"{where}Test log loss (nats): {_changes(rows, 'log_loss_total', _shared)}. Its dynamics, the part that no "
        f"temperature repairs: {_changes(rows, 'log_loss_dyn')}. Its confidence, the part that one repairs: "
        f"{_changes(rows, 'log_loss_conf')}.",
        f"{where}Confidence itself: {_kappas(rows)}.",
    ]


def _changes(rows: Sequence[Row], column: str, more: Any = None) -> str:
    """Text on a quantity's change over beta: by how much, where it is equivalent, and where it is inconclusive."""
    groups = _by_evidence(rows, column)
    clauses = [f"changed by {cell(row, column)} at {betas([row])}{more(row) if more else ''}" for row in groups["sure"]]
    if groups["equal"]:
        clauses.append(f"equal within {MARGIN:g} at {betas(groups['equal'])}")
    if groups["hint"]:
        clauses.append(f"may differ at {betas(groups['hint'])}, {why_loose(groups['hint'])}")
    if groups["silent"]:
        clauses.append(f"inconclusive at {betas(groups['silent'])}")
    return "; ".join(clauses)


def _by_evidence(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """The rows where a quantity is equal, surely differs, may differ and neither."""
    groups: dict[str, list[Row]] = {"sure": [], "equal": [], "hint": [], "silent": []}
    for row in rows:
        if is_equal(row, column):
            groups["equal"].append(row)
        elif is_significant(row, column):
            groups["sure"].append(row)
        else:
            groups["hint" if excludes_zero(row, column) else "silent"].append(row)
    return groups


def is_equal(row: Row, column: str) -> bool:
    """Whether the 95% interval lies within MARGIN of 0, and nothing keeps it from being established."""
    if revoked(row):
        return False
    mean, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    return equivalence(Interval(mean, low, high, 0, 0, math.nan, math.nan, ""), MARGIN) == EQUAL


def _shared(row: Row) -> str:
    return f" ({share(row)})"


def share(row: Row, score: str = "log_loss") -> str:
    """What share of a change was confidence, in words; the change itself is taken to be established."""
    column = f"{score}_conf_share"
    part, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    if not high - low <= WIDEST:
        return "its split into confidence and dynamics is inconclusive"
    conf, dyn = (cell(row, f"{score}_{part}") for part in ("conf", "dyn"))
    if low > 1 or high < 0:
        return f"confidence {conf} and dynamics {dyn} pull in opposite directions"
    return f"{part:.0%} [{low:.0%}, {high:.0%}] of it confidence, the rest dynamics".replace("-", "−")


def _kappas(rows: Sequence[Row]) -> str:
    """Text that lists where models are over- or underconfident, with kappa."""
    by_state: dict[str, list[str]] = {}
    for row in rows:
        low, high = row.get("kappa_low", math.nan), row.get("kappa_high", math.nan)
        state = "overconfident" if low > 1 else "underconfident" if high < 1 else "inconclusive"
        value = f" (kappa {row['kappa']:.2f})" if state != "inconclusive" and "kappa" in row else ""
        by_state.setdefault(state, []).append(f"{row['beta']:.3g}{value}")
    return "; ".join(f"{state} at beta={', '.join(values)}" for state, values in by_state.items())


def _objectives(where: str, frame: pd.DataFrame, grid: Grid) -> Iterable[str]:
    """Sentences on other training losses at the reference's beta."""
    others = frame[(frame["objective"] != CROSS_ENTROPY) & (frame["beta"] == grid.reference)]
    for row in others[others["log_loss_total"].notna()].to_dict("records"):
        flag = "" if row["tuning"] == "tuned" else f" ({row['tuning']})"
        part = f", {share(row)}" if is_significant(row, "log_loss_total") else significance_note(row, "log_loss_total")
        yield (
            f"{where}{row['objective']}{flag} instead of cross-entropy at beta={grid.reference:g} changed test log "
            f"loss by {cell(row, 'log_loss_total')} nats{part}; accuracy by {cell(row, 'accuracy')}"
            f"{significance_note(row, 'accuracy')}."
        )
