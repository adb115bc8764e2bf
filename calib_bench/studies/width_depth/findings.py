"""Sentences on how the best beta moves with the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from calib_bench.analysis import best_beta
from calib_bench.analysis.findings import NO_RATIO, Finding, Sentences
from calib_bench.analysis.result_rows import cell


class Says(Sentences):
    """What the study of architectures says."""

    NOTHING = "There is nothing to compare: no architecture has three betas at which every seed finished."
    MOVING = "Of what some architectures differ in alone ({tested}), {moving} moves it significantly."
    RANGE = (
        "By {result}, the best beta of {number} architectures lies between {low} and {high}; significantly different "
        "from {first}'s: {sure}."
    )
    POWER = "Among {models}, the best beta by {result} goes as {over}^s with s = {slope}{note}."
    NORM = "Among {models}, the best beta by {result} is {slope} times as large with normalization{note}."


def verdict(best: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """Sentences on the best beta of each architecture and on its trends.

    Args:
        best, trends: rows of `analyse`, Holm-adjusted within each result.
    """
    if not len(best):
        return [Says.NOTHING]
    several = best["objective"].nunique() > 1
    return best_beta.words(best) + [
        f"{row['objective']}: {_trend(row)}" if several else _trend(row) for row in trends.to_dict("records")
    ]


def summary(best: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """Summary: the range of best betas and what changes them significantly; empty with several objectives."""
    if not len(best) or best["objective"].nunique() > 1:
        return []
    sentences = [_range_of_best(str(result), rows) for result, rows in best.groupby("result", sort=False)]
    if len(trends):
        moving = [
            f"{row['over']} (by {row['result']})" for row in trends.to_dict("records") if _slope(row).is_established
        ]
        tested = ", ".join(dict.fromkeys(trends["over"]))
        sentences.append(Says.MOVING.of(tested=tested, moving=" and ".join(moving) or "none"))
    return sentences


def _range_of_best(result: str, best: pd.DataFrame) -> str:
    """Between which values the best betas lie by one result, and which significantly differ from the first's."""
    rows = best.sort_values("best_beta").to_dict("records")
    low, high = (f"{cell(row, 'best_beta')} ({best_beta.named(row)})" for row in (rows[0], rows[-1]))
    first = best_beta.named(best.to_dict("records")[0])
    sure = [best_beta.named(row) for row in rows if best_beta.ratio(row).is_established]
    about = {"result": result, "number": len(rows), "low": low, "high": high}
    return Says.RANGE.of(**about, first=first, sure=", ".join(sure) or "none")


def _slope(row: Mapping[Any, Any]) -> Finding:
    return Finding.of(row, "slope", "slope", where="")


def _trend(row: Mapping[Any, Any]) -> str:
    """Sentence on how the best beta moves with width, depth or normalization."""
    slope, sentence = _slope(row), Says.POWER
    if row["over"] == "norm":
        slope, sentence = replace(slope, estimate=slope.estimate.exp(), expectation=NO_RATIO), Says.NORM
    about = {"models": row["models"], "result": row["result"], "over": row["over"]}
    return sentence.of(**about, slope=slope.text, note=slope.note)
