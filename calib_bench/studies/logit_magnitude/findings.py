"""What the plane of beta and the initial logit magnitude says, in tables and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from calib_bench.analysis import interventions
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import Finding, Sentences, established, hints, largest
from calib_bench.analysis.result_rows import Row, percent, revoked
from calib_bench.analysis.table_notes import by_objective
from calib_bench.core.settings import Grid
from calib_bench.studies.logit_magnitude.plane import BETA, MAGNITUDE
from calib_bench.studies.logit_magnitude.tables import NORM

WEAK = 0.1
"""A share of variance that is surely smaller than this is called small."""
SHARES = ("other_share", "magnitude_share")


class Says(Sentences):
    """What the study of initial logit magnitude says."""

    NOTHING = "There is nothing to compare yet: no plane has finished seeds in every cell of two betas."
    QUESTION = f"{{where}}Does generalization depend strongly on beta and weakly on {NORM}? {{answers}}"
    ANSWER = (
        "{metric} ({design}, {seeds} seeds{loose}): {answer}; share of variance of beta {beta}, of "
        f"{NORM} at fixed beta {{magnitude}}."
    )
    LOOSE = ", rates not all tuned: {tuning}"
    REVOKED = "inconclusive, since {why}"
    UNBOUNDED = "inconclusive (shares have no intervals)"
    MAGNITUDE = "no, it depends more on the initial magnitude than on beta"
    OPEN = "inconclusive on which of the two it depends more{dependence}"
    DEPENDS = " (it does depend on {sure})"
    BETA_ALONE = f"yes, on beta, and on the initial magnitude weakly if at all (below {WEAK:.0%} of the variance)"
    BETA_MORE = "it depends more on beta than on the initial magnitude, on which {how}"
    TOO = "it depends too"
    NOT_ESTABLISHED = "no dependence is established"
    BETA_MOVED = f"{{where}}Beta moved at equal {NORM} ({{number}} pairs): {{clauses}}."
    MAGNITUDE_MOVED = (
        f"{{where}}{NORM} moved at fixed beta ({{number}} betas), from the smallest to the largest: {{clauses}}."
    )
    UNCHANGED = "{metric} did not change significantly{hints}"
    CHANGED = "{metric} changed in {number}, most at {where}, by {change}"


def verdict(frames: Mapping[str, pd.DataFrame], grid: Grid) -> list[str]:
    """Sentences on each plane's answer, on changes at fixed beta and at fixed magnitude, then on the 2x2."""
    shares = frames["shares"]
    planes = shares[shares["other"] == BETA] if len(shares) else shares
    if not len(planes) or "other_share" not in planes:
        return [Says.NOTHING]
    sentences = []
    for where, plane_rows in by_objective(planes):
        answers = " ".join(_answer(row) for row in plane_rows.to_dict("records"))
        sentences.append(Says.QUESTION.of(where=where, answers=answers))
    for where, pairs in by_objective(frames["contrasts"]):
        sentences += [_moved(where, pairs[pairs["moves"] == moves], moves) for moves in (BETA, MAGNITUDE)]
    return sentences + interventions.words({**frames, "interventions": shares.iloc[:0]}, grid)


def _answer(row: Row) -> str:
    """Sentence on one metric of one plane: the answer and both shares of variance."""
    loose = "" if row["tuning"] == "tuned" else Says.LOOSE.of(tuning=row["tuning"])
    beta, magnitude = (percent(row, column) for column in SHARES)
    about = {"metric": row["metric"].capitalize(), "design": row["design"], "seeds": row["seeds"], "loose": loose}
    return Says.ANSWER.of(**about, answer=answer(row), beta=beta, magnitude=magnitude)


def answer(row: Row) -> str:
    """Text that answers whether beta or the initial magnitude has the larger share of variance."""
    if why := revoked(row):
        return Says.REVOKED.of(why=why)
    beta, magnitude = (Estimate.of(row, column) for column in SHARES)
    if beta is None or magnitude is None or not (beta.is_bounded and magnitude.is_bounded):
        return Says.UNBOUNDED
    if beta.low > magnitude.high:
        return _more_on_beta(magnitude)
    return Says.MAGNITUDE if magnitude.low > beta.high else _open(beta, magnitude)


def _open(beta: Estimate, magnitude: Estimate) -> str:
    """The answer where neither share is surely larger."""
    both = {"beta": beta, "initial magnitude": magnitude}
    sure = " and on ".join(name for name, share in both.items() if share.is_significant)
    return Says.OPEN.of(dependence=Says.DEPENDS.of(sure=sure) if sure else "")


def _more_on_beta(magnitude: Estimate) -> str:
    """The answer where beta's share is surely larger than the magnitude's."""
    if magnitude.high < WEAK:
        return Says.BETA_ALONE
    return Says.BETA_MORE.of(how=Says.TOO if magnitude.is_significant else Says.NOT_ESTABLISHED)


def _moved(where: str, frame: pd.DataFrame, moves: str) -> str:
    """Sentence on where changing beta alone, or the magnitude alone, changed accuracy or repaired log loss."""
    rows = frame.to_dict("records")
    clauses = "; ".join(_moved_metric(rows, metric, moves) for metric in ("accuracy", "repaired_log_loss"))
    sentence = Says.BETA_MOVED if moves == BETA else Says.MAGNITUDE_MOVED
    return sentence.of(where=where, number=len(rows), clauses=clauses)


def _moved_metric(rows: Sequence[Row], metric: str, moves: str) -> str:
    """In how many pairs one metric surely changed, and where most."""
    findings = [Finding.of(row, metric, where=_place(row, moves)) for row in rows]
    most = largest(findings)
    if most is None:
        return Says.UNCHANGED.of(metric=metric.replace("_", " "), hints=hints(findings))
    number = len(established(findings))
    return Says.CHANGED.of(metric=most.quantity, number=number, where=most.where, change=most.text)


def _place(row: Row, moves: str) -> str:
    """The pair that a row compares: which beta against which, or which magnitudes."""
    against = f" against {row['from_beta']:.3g}" if moves == BETA else ""
    return f"beta={row['beta']:.3g}{against} ({NORM} {_norms(row, moves)})"


def _norms(row: Row, moves: str) -> str:
    return f"{row['initial_norm']:.2g}" if moves == BETA else f"{row['from_norm']:.2g} to {row['initial_norm']:.2g}"
