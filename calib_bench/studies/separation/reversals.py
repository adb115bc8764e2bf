"""Orders of arms by test log loss that repairing, pooling or both reverse.

Selecting among models before what is done to them afterwards may select another than selecting after it: Ranjan et al.
(2024, arXiv 2404.07815) call this post-hoc reversal. A reversal is two claims, that one arm is better as it is and the
other one afterwards, so that it has the larger p-value of the two (intersection-union test; Berger, 1982).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import Evidence, Finding
from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields
from calib_bench.analysis.table_notes import families
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import holm
from calib_bench.planning.tuning import joined
from calib_bench.studies.separation.ensembles import (
    LEFT_OUT,
    POOLED,
    POOLED_REPAIRED,
    SINGLE,
    SINGLE_REPAIRED,
    Ensemble,
)

WAYS = {"repairing": SINGLE_REPAIRED, "pooling": POOLED, "both": POOLED_REPAIRED}
"""What may reverse an order of single seeds as they are, and the method that it leads to."""
MOST = 5
"""Most reversals that a sentence names."""


def rows(ensembles: Sequence[Ensemble]) -> list[Row]:
    """The reversals among the arms of a family, most certain first; only arms of the same seeds are compared.

    Holm's correction is over all pairs and ways, those without a reversal at p = 1. `compared` is their number.
    """
    pairs = [pair for pair in itertools.combinations(ensembles, 2) if pair[0].seeds == pair[1].seeds]
    reversed_rows = [row for pair in pairs for row in _reversals(*pair)]
    compared = len(pairs) * len(WAYS)
    p_values = [row["before_p"] for row in reversed_rows] + [1.0] * (compared - len(reversed_rows))
    for row, p in zip(reversed_rows, holm(p_values), strict=False):
        row |= {"before_holm": p, "after_holm": p, "compared": compared}
        row["evidence"] = str(_evidence(row))
    return sorted(reversed_rows, key=lambda row: row["before_p"])


def _reversals(one: Ensemble, other: Ensemble) -> Iterator[Row]:
    """A row a way that reverses the order of two arms; `before` and `after` are the arm minus the other one."""
    if (one.scores[SINGLE]["log_loss"] - other.scores[SINGLE]["log_loss"]).mean > 0:
        one, other = other, one
    before = one.scores[SINGLE]["log_loss"] - other.scores[SINGLE]["log_loss"]
    for way, method in WAYS.items():
        after = one.scores[method]["log_loss"] - other.scores[method]["log_loss"]
        if before.mean < 0 < after.mean:
            row = (
                one.name
                | {"tuning": joined(arm.name["tuning"] for arm in (one, other))}
                | _other(other.name)
                | {"by": way}
            )
            row |= fields("before", before.interval("log_loss")) | fields("after", after.interval("log_loss"))
            p = max(row["before_p"], row["after_p"])
            yield row | {"before_p": p, "after_p": p} | other.two_kinds | one.two_kinds


def _other(name: Mapping[str, object]) -> Row:
    return {"other_beta": name["beta"], "other_objective": name["objective"]}


def _evidence(row: Row) -> Evidence:
    """That of the weaker of both claims."""
    order = list(Evidence).index
    return max((Finding.of(row, column).evidence for column in ("before", "after")), key=order)


COUNTED = "{where}{reversed} of {compared} orders are reversed in the estimates, {named}"
NO_EVIDENCE = "none of them established or suggestive"


def _words(frame: pd.DataFrame, _: Grid) -> Iterator[str]:
    """Sentences that name the reversals which are established, or suggestive, and count the others."""
    for where, group in families(frame):
        by_evidence = {word: _of_evidence(group, word) for word in (Evidence.ESTABLISHED, Evidence.SUGGESTIVE)}
        clauses = [f"{len(rows)} {word}: {_named(rows)}" for word, rows in by_evidence.items() if rows]
        compared, named = int(group["compared"].iloc[0]), "; ".join(clauses) or NO_EVIDENCE
        yield COUNTED.format(where=where, reversed=len(group), compared=compared, named=named)


def _of_evidence(frame: pd.DataFrame, evidence: Evidence) -> list[dict[Any, Any]]:
    return frame[frame["evidence"] == evidence].to_dict("records")


def headlines(frame: pd.DataFrame) -> list[str]:
    """Sentences for the verdict that name the reversals which are established; none where there are none."""
    established = {where: _of_evidence(group, Evidence.ESTABLISHED) for where, group in families(frame)}
    return [
        f"{where}Orders by test log loss that are reversed: {_named(rows)}."
        for where, rows in established.items()
        if rows
    ]


def _named(reversals: Sequence[Mapping[object, object]]) -> str:
    """The first reversals as "beta=0.1 before beta=10 (by pooling)"."""
    texts = []
    for row in reversals[:MOST]:
        other = _arm(row["other_beta"], row["other_objective"])
        texts.append(f"{_arm(row['beta'], row['objective'])} before {other} (by {row['by']})")
    return ", ".join(texts) + (f" and {len(reversals) - MOST} more" if len(reversals) > MOST else "")


def _arm(beta: object, objective: object) -> str:
    return f"beta={beta:.3g}" + ("" if objective == CROSS_ENTROPY else f" {objective}")


NAMES = ("model", "variant", "beta", "objective", "other_beta", "other_objective", "by")
LIMITS = tuple(f"{column}{end}" for column in ("before", "after") for end in ("", "_low", "_high", "_holm"))


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Names, limits, then what is said of them; p-values before Holm's correction are of no use."""
    return frame[[c for c in (*NAMES, *LIMITS, "evidence", "tuning", TWO_KINDS) if c in frame]]


TABLE = TableSpec(
    "Reversals: orders by test log loss that repairing or pooling turns round",
    (
        "before: the arm minus the other one, single seeds as they are, where the arm is better; after: the same once "
        "both are repaired (temperature scaled), pooled, or pooled and then repaired, where the other one is. All "
        "pairs of a model whose estimates are reversed, most certain first: by chance many are",
        f"95% intervals of either difference, paired by seed and example; {LEFT_OUT}",
        "established: both intervals leave 0 out, and the larger of both p-values is below .05 after Holm's "
        "correction over all pairs and ways; suggestive: not after it; inconclusive: an interval holds 0",
    ),
    names=NAMES,
    rows=_in_order,
    words=_words,
)
