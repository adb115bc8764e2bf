"""Claims of the literature that the separation's data answer, each in one measurable form, and what becomes of them.

established    the interval leaves 0 out on the side that the claim says, and Holm's correction agrees
contradicted   the same on the other side
otherwise      `findings.Evidence`: suggestive, not established, equivalent or inconclusive

The forms are fixed here, before any run: a claim says what its source's abstract says, at the reference beta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from calib_bench.analysis.calibration_variance import set_influence
from calib_bench.analysis.contrast import difference_of, is_reference
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import EQUAL, NO_CHANGE, Evidence, Expectation, Finding
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import TWO_KINDS, Row, adjusted, fields
from calib_bench.analysis.table_notes import NAMES
from calib_bench.analysis.tables import TableSpec
from calib_bench.analysis.trial_predictions import RAW, REPAIRED
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import Fitted, at_threshold
from calib_bench.studies.separation import decisions

CONTRADICTED, AGAINST = "contradicted", "against it"
REGULARIZERS = ("label_smoothing", "confidence_penalty", "focal_loss")
"""Objectives of Wang et al. (2021), by the name before their strength."""
ADAPTIVE_SETS = ("aps_size", "raps_size")
SPEC = TableSpec(
    "Claims of the literature, on these data",
    (
        "Each claim is that of its source's abstract in one measurable form, chosen before any run, at {reference}; "
        "a claim is a change above 0",
        "Objectives are compared with cross-entropy, sets after temperature scaling with those before (cross-entropy; "
        "the calibration examples behind thresholds are counted, those behind the temperature are not), the epoch of "
        "the least repaired selection loss with that of the least raw one",
        "AUGRC falls with more right answers too: auroc, among the decisions, judges the order alone. Sets that hold "
        "one label before and after, as they do where nine of ten answers are right, can show no change: no evidence",
        f"{CONTRADICTED}: established below 0; {AGAINST}: the interval lies below 0; other words as on the rest of the "
        "page, Holm's correction over the rows of a claim. These are not the sources' data and nets: whatever is said "
        "holds here alone",
    ),
    names=("claim", "source", "quantity", *NAMES),
    first=("verdict", "change"),
)


@dataclass(frozen=True)
class Claim:
    """A claim, and where the study's rows hold its change, which the claim says is above 0.

    Attributes:
        source: the paper; its BibTeX entry is in `references.bib`.
        text: what it says.
        rows: the rows of a table, of which one each is judged.
        columns: the changes in them, with their names for people.
        expectation: what equivalence to no change is.
    """

    source: str
    text: str
    table: str
    rows: Callable[[pd.DataFrame, Grid], pd.DataFrame]
    columns: Mapping[str, str]
    expectation: Expectation = NO_CHANGE


def _regularized(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    return _trained_with(frame, grid, REGULARIZERS)


def _smoothed(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    smoothed = _trained_with(frame, grid, ("label_smoothing",))
    return smoothed[smoothed["method"] == RAW]


def _trained_with(frame: pd.DataFrame, grid: Grid, objectives: tuple[str, ...]) -> pd.DataFrame:
    """Rows of objectives alone, without another one added, at the reference beta."""
    names = frame["objective"].str.partition(":")[0]
    return frame[names.isin(objectives) & ~frame["objective"].str.contains("+", regex=False) & _at(frame, grid)]


def _reference(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    return frame[(frame["objective"] == CROSS_ENTROPY) & _at(frame, grid)]


def _at(frame: pd.DataFrame, grid: Grid) -> pd.Series:
    return frame["beta"] == grid.reference


CLAIMS = (
    Claim(
        "Wang et al. (2021)",
        "a regularized net is worse after temperature scaling",
        "separation",
        _regularized,
        {"log_loss_dyn": "log loss after temperature scaling"},
        EQUAL,
    ),
    Claim(
        "Xia et al. (2025)",
        "label smoothing harms selective prediction",
        "decisions",
        _smoothed,
        {"augrc": "AUGRC"},
    ),
    Claim(
        "Dabah & Tirer (2025)",
        "temperature scaling enlarges adaptive conformal sets",
        "repaired_sets",
        _reference,
        {"aps_size": "size of APS's sets", "raps_size": "size of RAPS's sets"},
        EQUAL,
    ),
    Claim(
        "Berta et al. (2025)",
        "the loss that calibration leaves is least later than the raw one",
        "best_epochs",
        _reference,
        {"later": "epochs"},
    ),
)
REVERSALS = ("Ranjan et al. (2024)", "orders of models are reversed by repairing or pooling", "established reversals")
"""Source, claim and quantity of what `reversals` tests, pair by pair."""


def set_rows(measures: Measures, grid: Grid, name: Row, nested: bool) -> list[Row]:
    """What temperature scaling changes in the size of the reference's adaptive sets: one row; none of other arms."""
    if not is_reference(name, grid) or not measures.seeds or REPAIRED not in measures.sets:
        return []
    row: Row = {**name, "seeds": len(measures.seeds), "nested": nested}
    for metric in ADAPTIVE_SETS:
        d_SN = measures.sets[REPAIRED][metric] - measures.sets[RAW][metric]
        row |= fields(metric, difference_of(metric, d_SN, nested, _thresholds(measures, metric)))
    return [row]


def _thresholds(measures: Measures, metric: str) -> Fitted | None:
    """What the calibration examples behind both thresholds add; None where calibration splits differ by seed."""
    seeds = range(len(measures.seeds))
    after, before = (
        set_influence((weight, measures, seeds), method, metric) for weight, method in ((1.0, REPAIRED), (-1.0, RAW))
    )
    if after is None or before is None or after.influence_SM is None or before.influence_SM is None:
        return None
    return at_threshold(after.influence_SM + before.influence_SM)


def rows(frames: Mapping[str, pd.DataFrame], grid: Grid) -> list[Row]:
    """A row for each claim and each arm that can answer it, with its verdict; none where no arm can."""
    judged = [row for claim in CLAIMS for row in _judged(claim, frames[claim.table], grid)]
    return judged + _reversals(frames["reversals"])


def _judged(claim: Claim, frame: pd.DataFrame, grid: Grid) -> list[Row]:
    arms = claim.rows(frame, grid) if len(frame) else frame
    changes = [_change(claim, row, column) for row in arms.to_dict("records") for column in claim.columns]
    return [row | {"verdict": _verdict(claim, row)} for row in _adjusted([row for row in changes if row])]


def _change(claim: Claim, row: Mapping[Any, Any], column: str) -> Row:
    """The claim's change in a row of the study's tables; empty where the row has none."""
    estimate = Estimate.of(row, column)
    if estimate is None:
        return {}
    name = {key: row[key] for key in (*NAMES, "seeds", TWO_KINDS) if key in row}
    about = {"claim": claim.text, "source": claim.source, "quantity": claim.columns[column]}
    return {**about, **name, **Estimate(estimate.mean, estimate.low, estimate.high, estimate.p).fields("change")}


def _adjusted(changes: list[Row]) -> list[Row]:
    return adjusted(pd.DataFrame(changes)).to_dict("records") if changes else []


def _verdict(claim: Claim, row: Row) -> str:
    finding = Finding.of(row, "change", expectation=claim.expectation)
    if claim.table == "decisions":
        finding = decisions.as_counted(finding, row)
    if finding.is_established and finding.departure < 0:
        return CONTRADICTED
    leaning = finding.evidence in (Evidence.SUGGESTIVE, Evidence.REVOKED) and finding.departure < 0
    return f"{finding.label}, {AGAINST}" if leaning else finding.label


def _reversals(frame: pd.DataFrame) -> list[Row]:
    """One row a family: how many of the orders compared are surely reversed."""
    if not len(frame):
        return []
    source, text, quantity = REVERSALS
    keys = [key for key in ("model", "variant") if key in frame]
    families = frame.groupby(keys, sort=False, dropna=False)
    return [
        dict(zip(keys, values, strict=True))
        | {"claim": text, "source": source, "quantity": quantity}
        | {"change": int((group["evidence"] == Evidence.ESTABLISHED).sum()), "verdict": _best(group["evidence"])}
        for values, group in families
    ]


def _best(evidence: pd.Series) -> str:
    """The strongest evidence among reversals."""
    return next(str(word) for word in Evidence if word in set(evidence))
