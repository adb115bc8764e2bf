"""Sentences on peak and reliability over beta."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.findings import NO_RATIO, Finding, Sentences, betas, findings_of, hints, places
from calib_bench.analysis.result_rows import adjusted, cell, is_significant
from calib_bench.analysis.table_notes import families
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY


class Says(Sentences):
    """What the study of stability says."""

    NOTHING = "There is nothing to compare: no other arm shares enough finished seeds with the reference."
    PEAK = "{where}Peak: the best of {of} seeds is better than that of beta={reference:g} {better}."
    COST = "{where}Cost: seeds spread more {wide}; the worst is worse {worse}; training fails more often {fails}."
    CLAIM = "{where}That small beta peaks higher at the cost of reliability {conclusion}."
    BOTH = "is established at {betas}"
    NO_COST = "is not established: where it peaks higher, a cost in reliability is inconclusive"
    NO_PEAK = "is inconclusive: no smaller beta peaks significantly higher{hints}"
    NOWHERE = "at no smaller beta"


def verdict(frames: Mapping[str, pd.DataFrame], grid: Grid) -> list[str]:
    """Sentences on peak against reliability.

    Args:
        frames: "peaks", Holm-adjusted within each result, "seeds" and "gain".
    """
    if "best_change" not in frames["peaks"]:
        return [Says.NOTHING]
    sentences = []
    spread = adjusted(frames["seeds"], "result")
    for where, peaks in families(frames["peaks"]):
        peaks = peaks[peaks["objective"] == CROSS_ENTROPY]
        same = spread[(spread["model"] == peaks["model"].iloc[0]) & (spread["objective"] == CROSS_ENTROPY)]
        same = same[same["variant"].fillna("") == (peaks["variant"].iloc[0] or "")]
        sentences += _claim(where, peaks, same, grid)
    gain = frames["gain"]
    sentences += sown.words(frames["seeds"], grid)
    return sentences + sown.gain_words(gain[gain["objective"] == CROSS_ENTROPY] if len(gain) else gain, grid)


def summary(frames: Mapping[str, pd.DataFrame], sentences: Sequence[str]) -> list[str]:
    """Those of the verdict's sentences that begin a report; none with several families."""
    if "best_change" not in frames["peaks"] or len(list(families(frames["peaks"]))) > 1:
        return []
    return [text for text in sentences if text.startswith(("Peak:", "That small beta"))]


def _claim(where: str, peaks: pd.DataFrame, spread: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on whether betas below the reference peak higher, and depend more on the seed."""
    small = [row for row in peaks.to_dict("records") if row["beta"] < grid.reference]
    if not small:
        return []
    better = _surely(small, "best_change", better=True)
    worse = _surely(small, "worst_change", better=False)
    wide = [row for row in spread.to_dict("records") if row["beta"] < grid.reference and _spreads_more(row)]
    fails = _fails_more(peaks, small, grid)
    costs = {"wide": (wide, "spread_ratio"), "worse": (worse, "worst_change"), "fails": (fails, "failed")}
    listed = {name: _listed(rows, column) for name, (rows, column) in costs.items()}
    peak = {"of": small[0]["of"], "reference": grid.reference, "better": _listed(better, "best_change")}
    return [
        Says.PEAK.of(where=where, **peak),
        Says.COST.of(where=where, **listed),
        Says.CLAIM.of(where=where, conclusion=_conclusion(small, better, [*wide, *worse, *fails])),
    ]


def _surely(rows: Sequence[Mapping[str, Any]], column: str, better: bool) -> list[Mapping[str, Any]]:
    """The rows whose result is surely better than the reference's, or surely worse."""
    return [row for row in rows if is_significant(row, column) and _better(row, column) == better]


def _spreads_more(row: Mapping[str, Any]) -> bool:
    """Whether seeds surely spread more than the reference's."""
    ratio = Finding.of(row, "spread_ratio", expectation=NO_RATIO)
    return ratio.is_established and ratio.departure > 0


def _fails_more(peaks: pd.DataFrame, small: Sequence[Mapping[str, Any]], grid: Grid) -> list[Mapping[str, Any]]:
    """The rows `small` whose training surely fails more often than the reference's."""
    reference = peaks[peaks["beta"] == grid.reference].to_dict("records")
    ceiling = reference[0].get("failed_high", math.nan) if reference else math.nan
    return [row for row in small if row.get("failed_low", math.nan) > ceiling]


def _conclusion(
    small: Sequence[Mapping[str, Any]], better: Sequence[Mapping[str, Any]], costly: Sequence[Mapping[str, Any]]
) -> str:
    """Whether some of the smaller betas peak higher and are less reliable."""
    both = {row["beta"] for row in better} & {row["beta"] for row in costly}
    if both:
        return Says.BOTH.of(betas=places(f"beta={beta:.3g}" for beta in sorted(both)))
    if better:
        return Says.NO_COST
    higher = [row for row in small if _better(row, "best_change")]
    return Says.NO_PEAK.of(hints=hints(findings_of(higher, "best_change")))


def _better(row: Mapping[str, Any], column: str) -> bool:
    return bool((row[column] > 0) == (row["result"] == "accuracy"))


def _listed(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Text on the smaller betas of which something is established, with the estimates."""
    if not rows:
        return Says.NOWHERE
    parts = [f"{betas([row])} ({row.get('result', 'share')} {cell(row, column)})" for row in rows]
    return f"at {', '.join(parts)}"
