"""The verdict in three plain sentences: dynamics, confidence, controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis import controls
from calib_bench.analysis.findings import (
    Evidence,
    Finding,
    Sentences,
    changes,
    established,
    evidence,
    hints,
    largest,
    overview,
    places,
)
from calib_bench.analysis.table_notes import families
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.studies.separation import speed
from calib_bench.studies.separation.findings import effects

Row = Mapping[str, Any]
MOST = 3
"""Most families of arms that are summarized one by one."""


class Says(Sentences):
    """What the summary of the separation study says."""

    LEARNED = (
        "Beta changes what is learned, not only how confident the model is: {where} instead of {reference:g} changes "
        "{changes}, which no temperature repairs.{speed}{more}"
    )
    UNTOLD = (
        " Speed or generalization is told from log loss after temperature scaling, and no change of it is established "
        "there."
    )
    ELSEWHERE = " Elsewhere, {rest}."
    EQUAL = "Beta made no difference to what is learned: {effects}, against beta={reference:g}."
    OPEN = "Under cross-entropy no effect of beta on what is learned is established against beta={reference:g}{hints}."
    CONFIDENCE = "Confidence changes too, under cross-entropy: at {where}, {changes}{more}."
    ALSO = "; also established at {others}"
    HARDLY = "Under cross-entropy confidence hardly matters: {effects}."
    NO_CHANGE = "Under cross-entropy no change of what temperature scaling repairs is established: {evidence}."


def summary(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Summary of dynamics, confidence and controls; empty without a comparison or with more than MOST families."""
    contrasts = frames["separation"]
    if "log_loss_total" not in contrasts:
        return ()
    measured = contrasts[contrasts["log_loss_total"].notna() & (contrasts["objective"] == CROSS_ENTROPY)]
    groups = [(where, rows.to_dict("records")) for where, rows in families(measured)]
    if not groups or len(groups) > MOST:
        return ()
    sentences = []
    for where, rows in groups:
        sentences += [where + _dynamics(rows, frames["comparisons"], grid), where + _confidence(rows)]
    return (*sentences, *controls.outcome(frames["controls"]))


def _dynamics(rows: Sequence[Row], compared: pd.DataFrame, grid: Grid) -> str:
    """Sentences on what no temperature can repair, the repaired log loss and accuracy, and whether it is speed."""
    log_loss, accuracy = effects(rows, "log_loss_dyn"), effects(rows, "accuracy")
    findings = [*log_loss, *accuracy]
    most = largest(log_loss) or largest(accuracy)
    if most is None:
        return _no_dynamics(findings, grid)
    there = established(finding for finding in findings if finding.where == most.where)
    rest = [finding for finding in findings if finding.where != most.where]
    more = Says.ELSEWHERE.of(rest=overview(rest)) if rest else ""
    is_speed = speed.remark(compared, rows[log_loss.index(most)]) if most in log_loss else Says.UNTOLD
    fields = {"where": most.where, "reference": grid.reference, "changes": changes(there), "more": more}
    return Says.LEARNED.of(**fields, speed=is_speed)


def _no_dynamics(findings: Sequence[Finding], grid: Grid) -> str:
    """Where nothing that is learned surely differs: whether it is equal."""
    if all(finding.evidence is Evidence.EQUIVALENT for finding in findings):
        return Says.EQUAL.of(effects=overview(findings), reference=grid.reference)
    return Says.OPEN.of(reference=grid.reference, hints=hints(findings))


def _confidence(rows: Sequence[Row]) -> str:
    """Sentence on what a temperature repairs."""
    findings = effects(rows, "log_loss_conf")
    most = largest(findings)
    if most is not None:
        others = places(one.where for one in findings if one.is_established and one is not most)
        more = Says.ALSO.of(others=others) if others else ""
        return Says.CONFIDENCE.of(where=most.where, changes=changes([most]), more=more)
    if all(finding.evidence is Evidence.EQUIVALENT for finding in findings):
        return Says.HARDLY.of(effects=overview(findings))
    return Says.NO_CHANGE.of(evidence=evidence(findings))
