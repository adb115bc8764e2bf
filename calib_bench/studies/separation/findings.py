"""The verdict: what of beta's effect was confidence and what was dynamics, said as far as the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis import best_beta, collapse, controls, interventions, seed_spread
from calib_bench.analysis.findings import EQUAL, Finding, Sentences, betas, changes, evidence, findings_of
from calib_bench.analysis.result_rows import cell
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.table_notes import families
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.studies.separation import equal_confidence, factorial, reversals, settling, speed, warm_up

Row = Mapping[str, Any]
MAIN = ("log_loss_total", "accuracy")
NAMES = {
    "accuracy": "accuracy", "log_loss_total": "test log loss", "log_loss_dyn": "log loss after temperature scaling",
    "log_loss_conf": "what temperature scaling repairs",
}  # fmt: skip
UNITS = {"log_loss_total": "nats", "log_loss_dyn": "nats", "log_loss_conf": "nats"}
WIDEST = 1.0
"""Widest interval of a share that is reported."""


class Says(Sentences):
    """What the verdict of the separation study says."""

    ARM = (
        "beta={beta:.3g}, {objective}: accuracy {accuracy}, log loss {log_loss}, after temperature scaling {repaired}, "
        "kappa {kappa}. Every calibrator beside it: see Baselines."
    )
    NOTHING = "There is nothing to compare: no other arm shares a finished seed with beta={reference:g}."
    ACCURACY = (
        "{where}Cross-entropy at another beta than {reference:g}{how}. Accuracy, which no temperature changes: "
        "{changes}."
    )
    ONE_SEED = " (one seed: intervals over test examples only)"
    LOG_LOSS = (
        "{where}Test log loss: {total}{shares}. Its dynamics, which no temperature repairs: {dyn}. Its confidence, "
        "which one repairs: {conf}."
    )
    CONFIDENCE = "{where}Confidence itself: {kappas}."
    SHARE = "; at {betas} {share}"
    NO_SHARE = "its split into confidence and dynamics is inconclusive"
    OPPOSITE = "confidence {conf} and dynamics {dyn} pull in opposite directions"
    OF_IT = "{part:.0%} [{low:.0%}, {high:.0%}] of it confidence, the rest dynamics"
    OBJECTIVE = "{where}{objective}{flag} instead of cross-entropy at beta={reference:g} changed {changes}{split}."


def verdict(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Sentences of the verdict, most important first; the details are in the tables."""
    contrasts = frames["separation"]
    if "log_loss_total" not in contrasts or not contrasts["log_loss_total"].notna().any():
        alone = list(_alone(frames["baselines"]))
        return (*alone, Says.NOTHING.of(reference=grid.reference), *controls.without(frames["controls"]))
    sentences = [text for where, group in families(contrasts) for text in _over_beta(where, group, grid)]
    sentences += settling.words(frames["comparisons"], grid) + speed.words(frames["comparisons"], grid)
    sentences += equal_confidence.headlines(frames["matched"], grid)
    sentences += factorial.tests_words(frames["factorial_tests"], grid)
    sentences += interventions.words(frames, grid)
    sentences += warm_up.words(frames["warm_up"], grid)
    sentences += [text for where, group in families(contrasts) for text in _objectives(where, group, grid)]
    sentences += best_beta.words(
        frames["best_beta"], f"{CROSS_ENTROPY}: " if contrasts["objective"].nunique() > 1 else ""
    )
    gain = frames["gain"]
    sentences += seed_spread.gain_words(gain[gain["objective"] == CROSS_ENTROPY] if len(gain) else gain, grid)
    sentences += reversals.headlines(frames["reversals"])
    sentences += collapse.words(collapse.rows(frames["trials"], grid))
    return (*sentences, *controls.words(frames["controls"]))


def _alone(frame: pd.DataFrame) -> Iterator[str]:
    """Sentence on the run's only arm, with its intervals; none where there are more, or it was not repaired."""
    rows = {row["method"]: row for row in frame.to_dict("records")}
    if len(rows) < len(frame) or REPAIRED not in rows:
        return
    raw, repaired = rows[RAW], rows[REPAIRED]
    cells = {name: cell(raw, name) for name in ("accuracy", "log_loss")}
    cells |= {"repaired": cell(repaired, "log_loss"), "kappa": cell(repaired, "kappa")}
    yield Says.ARM.of(beta=raw["beta"], objective=raw["objective"], **cells)


def _over_beta(where: str, frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on what changed with beta under cross-entropy: accuracy, log loss and its parts, confidence itself."""
    measured = frame[frame["log_loss_total"].notna() & (frame["objective"] == CROSS_ENTROPY)]
    rows = measured.to_dict("records")
    if not rows:
        return []
    how = Says.ONE_SEED if len(grid.seed) == 1 else ""
    parts = {part: _changes(rows, f"log_loss_{part}") for part in ("total", "conf", "dyn")}
    changes = _changes(rows, "accuracy")
    return [
        Says.ACCURACY.of(where=where, reference=grid.reference, how=how, changes=changes),
        Says.LOG_LOSS.of(where=where, shares=_shares(rows), **parts),
        Says.CONFIDENCE.of(where=where, kappas=_kappas(rows)),
    ]


def effects(rows: Iterable[Row], column: str) -> list[Finding]:
    """The findings of a column of the contrasts, log losses in nats; equal within `MARGIN` is an answer too."""
    return findings_of(rows, column, NAMES[column], UNITS.get(column, ""), EQUAL)


def _changes(rows: Sequence[Row], column: str) -> str:
    return evidence(effects(rows, column), estimates=True)


def _shares(rows: Sequence[Row]) -> str:
    """Text on the share of confidence wherever the change of log loss is established."""
    changed = [row for row in rows if Finding.of(row, "log_loss_total", expectation=EQUAL).is_established]
    return "".join(Says.SHARE.of(betas=betas([row]), share=share(row)) for row in changed)


def share(row: Row, score: str = "log_loss") -> str:
    """What share of a change was confidence, in words; the change itself is taken to be established."""
    column = f"{score}_conf_share"
    part, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    if not high - low <= WIDEST:
        return Says.NO_SHARE
    if low > 1 or high < 0:
        return Says.OPPOSITE.of(conf=cell(row, f"{score}_conf"), dyn=cell(row, f"{score}_dyn"))
    return Says.OF_IT.of(part=part, low=low, high=high).replace("-", "−")


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
        findings = [Finding.of(row, column, NAMES[column], UNITS.get(column, "")) for column in MAIN]
        split = f"; {share(row)}" if findings[0].is_established else ""
        about = {"where": where, "objective": row["objective"], "flag": flag, "reference": grid.reference}
        yield Says.OBJECTIVE.of(**about, changes=changes(findings), split=split)
