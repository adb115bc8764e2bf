"""What intervals allow one to say, in one vocabulary: sentences, notes after an estimate, and summary lines.

A study chooses which findings are told; the words on the evidence are made here. The sentences that a study puts them
in are listed once, as members of a class of its own: see `Sentences`.

    established       the 95% interval leaves out what is expected without an effect, and Holm's correction agrees
    suggestive        the interval leaves it out, but not after Holm's correction
    not established   as one of these two, but few seeds chose the rate or some seeds collapsed
    equivalent        the interval lies within a margin of what is expected
    inconclusive      everything else
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.result_rows import revoked

Row = Mapping[Any, Any]
MARGIN = 0.01
"""A difference in accuracy, or of log loss in nats, that is surely smaller than this is called equivalent to none."""


class Evidence(StrEnum):
    """What an interval says of a finding, see the module's table."""

    ESTABLISHED = "established"
    SUGGESTIVE = "suggestive"
    REVOKED = "not established"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True)
class Expectation:
    """What a quantity is without an effect.

    Attributes:
        value: 0 for a difference, 1 for a ratio.
        margin: a departure that is surely smaller is no effect; 0 where no equivalence is claimed.
    """

    value: float = 0.0
    margin: float = 0.0


NO_CHANGE = Expectation()
NO_RATIO = Expectation(1.0)
EQUAL = Expectation(margin=MARGIN)


@dataclass(frozen=True)
class Finding:
    """One estimate that a sentence may tell.

    Attributes:
        quantity: its name for people, "repaired log loss".
        unit: of the estimate, "nats"; empty where it has none.
        where: the setting that it is of, "beta=0.1 (edge)".
        estimate: after Holm's adjustment.
        expectation: what it would be without an effect.
        revoked: reason why nothing of it is established, whatever its interval; empty if there is none.
    """

    quantity: str
    unit: str
    where: str
    estimate: Estimate
    expectation: Expectation = NO_CHANGE
    revoked: str = ""

    @classmethod
    def of(
        cls,
        row: Row,
        column: str,
        quantity: str = "",
        unit: str = "",
        expectation: Expectation = NO_CHANGE,
        where: str | None = None,
    ) -> Finding:
        """The finding of a table's row: the estimate in `column` at the row's beta, or at `where`."""
        estimate = Estimate.of(row, column) or Estimate(row.get(column, math.nan), math.nan, math.nan)
        place = at_beta(row) if where is None else where
        return cls(quantity or column.replace("_", " "), unit, place, estimate, expectation, revoked(row))

    @property
    def evidence(self) -> Evidence:
        """What the interval, Holm's correction and what revokes them allow one to say."""
        low, high = self.estimate.low - self.expectation.value, self.estimate.high - self.expectation.value
        margin = self.expectation.margin
        if -margin < low and high < margin and not self.revoked:
            return Evidence.EQUIVALENT
        if not (low > 0 or high < 0):
            return Evidence.INCONCLUSIVE
        if self.revoked:
            return Evidence.REVOKED
        return Evidence.ESTABLISHED if self.estimate.is_significant else Evidence.SUGGESTIVE

    @property
    def is_established(self) -> bool:
        """Whether the effect is established."""
        return self.evidence is Evidence.ESTABLISHED

    @property
    def departure(self) -> float:
        """The estimate less what is expected."""
        return self.estimate.mean - self.expectation.value

    @property
    def text(self) -> str:
        """The estimate with its unit: "0.14 [0.13, 0.16] nats"."""
        return f"{self.estimate.text} {self.unit}".strip()

    @property
    def label(self) -> str:
        """The word for the evidence: "established", "equivalent within 0.01"."""
        within = f" within {self.expectation.margin:g}" if self.evidence is Evidence.EQUIVALENT else ""
        return f"{self.evidence}{within}"

    @property
    def reason(self) -> str:
        """Why an effect is not established though the interval leaves out what is expected; else empty."""
        if self.evidence is Evidence.REVOKED:
            return self.revoked
        return "not after Holm's correction" if self.evidence is Evidence.SUGGESTIVE else ""

    @property
    def note(self) -> str:
        """Text after the estimate in a sentence: empty for what is established, else " (inconclusive)" or the like."""
        if self.is_established:
            return ""
        return f" ({self.label}: {self.reason})" if self.reason else f" ({self.label})"


class Sentences(StrEnum):
    """What a study may say: its subclass lists the sentences, each with fields in braces."""

    def of(self, **fields: object) -> str:
        """The sentence, its fields filled."""
        return self.format(**fields)


def at_beta(row: Row) -> str:
    """The beta of a row as "beta=0.1", followed by what is amiss with its rate: "beta=1 (edge)"."""
    tuning = row.get("tuning", "tuned")
    amiss = "" if tuning == "tuned" else f" ({tuning})"
    return f"beta={row['beta']:.3g}{amiss}" if "beta" in row else ""


def findings_of(
    rows: Iterable[Row], column: str, quantity: str = "", unit: str = "", expectation: Expectation = NO_CHANGE
) -> list[Finding]:
    """One finding a row of a table, see `Finding.of`."""
    return [Finding.of(row, column, quantity, unit, expectation) for row in rows]


def established(findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are established."""
    return [finding for finding in findings if finding.is_established]


def largest(findings: Iterable[Finding]) -> Finding | None:
    """The established finding farthest from what is expected; None where none is established."""
    return max(established(findings), key=lambda finding: abs(finding.departure), default=None)


def places(wheres: Iterable[str]) -> str:
    """Settings in one list, each once: "beta=0.1, 1 (edge)"."""
    by_key: dict[str, list[str]] = {}
    for where in dict.fromkeys(wheres):
        key, equals, value = where.rpartition("=")
        by_key.setdefault(key + equals, []).append(value)
    return ", ".join(f"{key}{', '.join(values)}" for key, values in by_key.items())


def betas(rows: Iterable[Row]) -> str:
    """The betas of rows as "beta=0.1, 1 (edge)"."""
    return places(map(at_beta, rows))


def evidence(findings: Sequence[Finding], estimates: bool = False) -> str:
    """Where a quantity's effect is established, and where not: "established at beta=0.1; inconclusive at beta=3".

    Args:
        findings: of one quantity.
        estimates: write the established ones with their estimates: "changed by 0.1 [0.05, 0.15] at beta=0.1".
    """
    groups: dict[tuple[str, str], list[str]] = {}
    clauses = []
    for finding in sorted(findings, key=lambda finding: list(Evidence).index(finding.evidence)):
        if estimates and finding.is_established:
            clauses.append(f"changed by {finding.text} at {finding.where}")
        else:
            groups.setdefault((finding.label, finding.reason), []).append(finding.where)
    for (label, reason), wheres in groups.items():
        clauses.append(f"{label} at {places(wheres)}" + (f" ({reason})" if reason else ""))
    return "; ".join(clauses)


def overview(findings: Iterable[Finding], estimates: bool = False) -> str:
    """`evidence` of every quantity: "accuracy: established at beta=0.1. Log loss: inconclusive at beta=0.1"."""
    by_quantity: dict[str, list[Finding]] = {}
    for finding in findings:
        by_quantity.setdefault(finding.quantity, []).append(finding)
    clauses = [f"{quantity}: {evidence(group, estimates)}" for quantity, group in by_quantity.items()]
    return ". ".join([*clauses[:1], *(clause[:1].upper() + clause[1:] for clause in clauses[1:])])


def changes(findings: Iterable[Finding]) -> str:
    """Every estimate with the note after it: "accuracy by 0.1 [0.05, 0.15], log loss by 0.2 [−0.1, 0.5]
    (inconclusive)"."""
    return ", ".join(f"{finding.quantity} by {finding.text}{finding.note}" for finding in findings)


def hints(findings: Iterable[Finding]) -> str:
    """Text on findings that are not established though their intervals leave out what is expected; empty if none."""
    loose = [one for one in findings if one.evidence in (Evidence.SUGGESTIVE, Evidence.REVOKED)]
    return f" ({evidence(loose)})" if loose else ""
