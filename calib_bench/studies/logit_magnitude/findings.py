"""What the plane of beta and the initial logit magnitude says, in tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from calib_bench.analysis import interventions
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import Finding, established, hints, largest
from calib_bench.analysis.result_rows import Row, percent, revoked
from calib_bench.analysis.table_notes import by_objective
from calib_bench.core.settings import Grid
from calib_bench.studies.logit_magnitude.plane import BETA, MAGNITUDE
from calib_bench.studies.logit_magnitude.tables import NORM

WEAK = 0.1
"""A share of variance that is surely smaller than this is called small."""
SHARES = ("other_share", "magnitude_share")


def verdict(frames: Mapping[str, pd.DataFrame], grid: Grid) -> list[str]:
    """Sentences on each plane's answer, on changes at fixed beta and at fixed magnitude, then on the 2x2."""
    shares = frames["shares"]
    planes = shares[shares["other"] == BETA] if len(shares) else shares
    if not len(planes) or "other_share" not in planes:
        return ["There is nothing to compare yet: no plane has finished seeds in every cell of two betas."]
    sentences = []
    for where, plane_rows in by_objective(planes):
        answers = " ".join(_answer(row) for row in plane_rows.to_dict("records"))
        sentences.append(f"{where}Does generalization depend strongly on beta and weakly on {NORM}? {answers}")
    for where, pairs in by_objective(frames["contrasts"]):
        sentences += [f"{where}{_moved(pairs[pairs['moves'] == moves], moves)}" for moves in (BETA, MAGNITUDE)]
    return sentences + interventions.words({**frames, "interventions": shares.iloc[:0]}, grid)


def _answer(row: Row) -> str:
    """Sentence on one metric of one plane: the answer and both shares of variance."""
    loose = "" if row["tuning"] == "tuned" else f", rates not all tuned: {row['tuning']}"
    shares = f"share of variance of beta {percent(row, SHARES[0])}, of {NORM} at fixed beta {percent(row, SHARES[1])}"
    return f"{row['metric'].capitalize()} ({row['design']}, {row['seeds']} seeds{loose}): {answer(row)}; {shares}."


def answer(row: Row) -> str:
    """Text that answers whether beta or the initial magnitude has the larger share of variance."""
    if why := revoked(row):
        return f"inconclusive, since {why}"
    beta, magnitude = (Estimate.of(row, column) for column in SHARES)
    if beta is None or magnitude is None or not (beta.is_bounded and magnitude.is_bounded):
        return "inconclusive (shares have no intervals)"
    if beta.low > magnitude.high:
        return _more_on_beta(magnitude)
    if magnitude.low > beta.high:
        return "no, it depends more on the initial magnitude than on beta"
    both = {"beta": beta, "initial magnitude": magnitude}
    sure = " and on ".join(name for name, share in both.items() if share.is_significant)
    dependence = f" (it does depend on {sure})" if sure else ""
    return f"inconclusive on which of the two it depends more{dependence}"


def _more_on_beta(magnitude: Estimate) -> str:
    """The answer where beta's share is surely larger than the magnitude's."""
    if magnitude.high < WEAK:
        return f"yes, on beta, and on the initial magnitude weakly if at all (below {WEAK:.0%} of the variance)"
    how = "it depends too" if magnitude.is_significant else "no dependence is established"
    return f"it depends more on beta than on the initial magnitude, on which {how}"


def _moved(frame: pd.DataFrame, moves: str) -> str:
    """Sentence on where changing beta alone, or the magnitude alone, changed accuracy or repaired log loss."""
    rows = frame.to_dict("records")
    if moves == BETA:
        head = f"Beta moved at equal {NORM} ({len(rows)} pairs)"
    else:
        head = f"{NORM} moved at fixed beta ({len(rows)} betas), from the smallest to the largest"
    clauses = [_moved_metric(rows, metric, moves) for metric in ("accuracy", "repaired_log_loss")]
    return f"{head}: {'; '.join(clauses)}."


def _moved_metric(rows: Sequence[Row], metric: str, moves: str) -> str:
    """In how many pairs one metric surely changed, and where most."""
    findings = [Finding.of(row, metric, where=_place(row, moves)) for row in rows]
    most = largest(findings)
    if most is None:
        return f"{metric.replace('_', ' ')} did not change significantly{hints(findings)}"
    return f"{most.quantity} changed in {len(established(findings))}, most at {most.where}, by {most.text}"


def _place(row: Row, moves: str) -> str:
    """The pair that a row compares: which beta against which, or which magnitudes."""
    against = f" against {row['from_beta']:.3g}" if moves == BETA else ""
    return f"beta={row['beta']:.3g}{against} ({NORM} {_norms(row, moves)})"


def _norms(row: Row, moves: str) -> str:
    return f"{row['initial_norm']:.2g}" if moves == BETA else f"{row['from_norm']:.2g} to {row['initial_norm']:.2g}"
