"""What the plane of beta and the initial logit magnitude says, in tables and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from calib_bench.analysis import collapse, interventions
from calib_bench.analysis.findings import Finding, established, hints, largest
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.result_rows import Row, revoked
from calib_bench.analysis.table_notes import families
from calib_bench.core.settings import Grid
from calib_bench.studies.logit_magnitude.plane import BETA, MAGNITUDE
from calib_bench.studies.logit_magnitude.tables import NORM

if TYPE_CHECKING:
    import pandas as pd


WEAK = 0.1
"""A share of variance that is surely smaller than this is called small."""
SHARES = ("other_share", "magnitude_share")


def verdict(frames: Mapping[str, pd.DataFrame], grid: Grid) -> tuple[str, ...]:
    """Sentences on each plane's answer, on changes at fixed beta and at fixed magnitude, then on the 2x2."""
    shares = frames["shares"]
    planes = shares[shares["other"] == BETA] if len(shares) else shares
    if not len(planes) or "other_share" not in planes:
        return ("There is nothing to compare yet: no plane has finished seeds in every cell of two betas.",)
    sentences = []
    for where, plane_rows in _planes(planes):
        answers = " ".join(_answer(row) for row in plane_rows.to_dict("records"))
        sentences.append(f"{where}Does generalization depend strongly on beta and weakly on {NORM}? {answers}")
    for where, pairs in _planes(frames["contrasts"]):
        sentences += [f"{where}{_moved(pairs[pairs['moves'] == moves], moves)}" for moves in (BETA, MAGNITUDE)]
    sentences += interventions.words({**frames, "interventions": shares.iloc[:0]}, grid)
    return (*sentences, *collapse.words(collapse.rows(frames["trials"], grid)))


def _planes(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one plane, with the words that begin a sentence on them: none when there is one."""
    several = len(frame) > 0 and frame["objective"].nunique() > 1
    for where, family_rows in families(frame):
        for objective, rows in family_rows.groupby("objective", sort=False):
            begin = ", ".join(text for text in (where.removesuffix(": "), str(objective)) if text)
            yield (f"{begin}: " if several else where), rows


def _answer(row: Row) -> str:
    """Sentence on one metric of one plane: the answer and both shares of variance."""
    loose = "" if row["tuning"] == "tuned" else f", rates not all tuned: {row['tuning']}"
    shares = f"share of variance of beta {_share(row, SHARES[0])}, of {NORM} at fixed beta {_share(row, SHARES[1])}"
    return f"{row['metric'].capitalize()} ({row['design']}, {row['seeds']} seeds{loose}): {answer(row)}; {shares}."


def answer(row: Row) -> str:
    """Text that answers whether beta or the initial magnitude has the larger share of variance."""
    if why := revoked(row):
        return f"inconclusive, since {why}"
    (_, beta_low, beta_high), (_, low, high) = (_limits(row, column) for column in SHARES)
    if math.isnan(beta_low + low):
        return "inconclusive (shares have no intervals)"
    if beta_low > high:
        return _more_on_beta(row, high)
    if low > beta_high:
        return "no, it depends more on the initial magnitude than on beta"
    sure = [name for name, c in (("beta", SHARES[0]), ("initial magnitude", SHARES[1])) if _moves(row, c)]
    dependence = f" (it does depend on {' and on '.join(sure)})" if sure else ""
    return f"inconclusive on which of the two it depends more{dependence}"


def _more_on_beta(row: Row, high: float) -> str:
    """The answer where beta's share is surely the larger one; `high` is the upper limit of the magnitude's."""
    if high < WEAK:
        return f"yes, on beta, and on the initial magnitude weakly if at all (below {WEAK:.0%} of the variance)"
    how = "it depends too" if _moves(row, SHARES[1]) else "no dependence is established"
    return f"it depends more on beta than on the initial magnitude, on which {how}"


def _limits(row: Row, column: str) -> tuple[float, float, float]:
    return row[column], row.get(f"{column}_low", math.nan), row.get(f"{column}_high", math.nan)


def _moves(row: Row, column: str) -> bool:
    return bool(row.get(f"{column}_holm", math.nan) < ALPHA) and not revoked(row)


def _share(row: Row, column: str) -> str:
    value, low, high = _limits(row, column)
    text = f"{value:.0%}" if math.isnan(low) else f"{value:.0%} [{low:.0%}, {high:.0%}]"
    return text.replace("-", "−")


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
