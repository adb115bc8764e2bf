"""The vocabulary of findings: what intervals, Holm's correction and revoked rows allow one to say."""

import math

import pytest

from calib_bench.analysis import findings
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import EQUAL, NO_CHANGE, NO_RATIO, Evidence, Expectation, Finding
from calib_bench.analysis.result_rows import SOME_COLLAPSED


@pytest.mark.parametrize(
    ("low", "high", "holm", "expectation", "revoked", "evidence"),
    [
        (0.1, 0.3, 0.01, NO_CHANGE, "", Evidence.ESTABLISHED),
        (0.1, 0.3, 0.2, NO_CHANGE, "", Evidence.SUGGESTIVE),
        (0.1, 0.3, math.nan, NO_CHANGE, "", Evidence.SUGGESTIVE),
        (0.1, 0.3, 0.01, NO_CHANGE, SOME_COLLAPSED, Evidence.REVOKED),
        (-0.1, 0.3, 0.01, NO_CHANGE, "", Evidence.INCONCLUSIVE),
        (0.001, 0.009, 0.01, EQUAL, "", Evidence.EQUIVALENT),
        (0.001, 0.009, 0.01, EQUAL, SOME_COLLAPSED, Evidence.REVOKED),
        (-0.001, 0.01, 1.0, EQUAL, "", Evidence.INCONCLUSIVE),
        (1.1, 1.4, 0.01, NO_RATIO, "", Evidence.ESTABLISHED),
        (0.8, 1.4, 0.01, NO_RATIO, "", Evidence.INCONCLUSIVE),
        (math.nan, math.nan, math.nan, EQUAL, "", Evidence.INCONCLUSIVE),
    ],
)
def test_evidence_follows_interval_correction_and_what_revokes_them(
    low: float, high: float, holm: float, expectation: Expectation, revoked: str, evidence: Evidence
) -> None:
    estimate = Estimate((low + high) / 2, low, high, holm, holm)
    assert Finding("accuracy", "", "beta=1", estimate, expectation, revoked).evidence is evidence


def test_sentences_name_places_once_and_say_why_a_hint_is_no_more() -> None:
    rows = [
        {"beta": beta, "tuning": tuning, "x": 0.2, "x_low": low, "x_high": 0.3, "x_holm": p}
        for beta, tuning, low, p in ((0.1, "tuned", 0.1, 0.01), (0.3, "edge", 0.1, 0.01), (3.0, "tuned", 0.1, 0.9))
    ]
    three = findings.findings_of(rows, "x", "log loss", "nats")
    assert findings.overview(three) == (
        "log loss: established at beta=0.1, 0.3 (edge); suggestive at beta=3 (not after Holm's correction)"
    )
    both = [*three[:1], *findings.findings_of(rows[:1], "x", "accuracy")]
    assert findings.overview(both) == "log loss: established at beta=0.1. Accuracy: established at beta=0.1"
    assert findings.evidence(three[:1], estimates=True) == "changed by 0.20 [0.10, 0.30] nats at beta=0.1"
    assert findings.changes(three[2:]) == "log loss by 0.20 [0.10, 0.30] nats (suggestive: not after Holm's correction)"
    assert findings.hints(three[:2]) == ""
    assert findings.hints(three) == " (suggestive at beta=3 (not after Holm's correction))"


def test_the_largest_finding_is_an_established_one() -> None:
    small, large = (Finding("x", "", "beta=1", Estimate(m, m - 0.1, m + 0.1, 0.0, 0.0), NO_RATIO) for m in (1.2, 0.5))
    revoked = Finding("x", "", "beta=2", Estimate(9, 8, 10, 0.0, 0.0), NO_RATIO, SOME_COLLAPSED)
    assert findings.largest([small, large, revoked]) is large
    assert findings.largest([revoked]) is None
