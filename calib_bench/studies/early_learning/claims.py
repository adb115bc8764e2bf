"""The theory's numbers beside the measured ones: claims that are met or not, and exponents of beta."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd

from calib_bench.analysis.result_rows import Row, limits
from calib_bench.analysis.table_notes import by_model
from calib_bench.inference import crossed_interval
from calib_bench.studies.early_learning.probes import TOLERANCE
from calib_bench.studies.early_learning.rows import ORDINARY, ZERO, slope


class Range(NamedTuple):
    """Inverse temperatures from `low` to `high`, both among them, and the range's name."""

    name: str
    low: float
    high: float

    def of(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a frame whose beta lies in the range."""
        return frame[(frame["beta"] >= self.low / NEAR) & (frame["beta"] <= self.high * NEAR)]


NEAR = 1 + 1e-6
EVERY = Range("every beta", 0.0, math.inf)
SMALLEST = Range("beta up to 0.01", 0.0, 0.01)
"""Where the curvature at zero logits is proportional to beta."""
SMALL, LARGE = Range("beta up to 0.1", 0.0, 0.1), Range("beta from 1", 1.0, math.inf)
"""Where the laws of small inverse temperatures hold, and those of large ones."""


def _values(column: str, rows: pd.DataFrame) -> list[float]:
    return [float(value) for value in rows[column]]


def _slopes(column: str, rows: pd.DataFrame) -> list[float]:
    """The exponent of beta of each seed."""
    return [slope(seed_rows, column) for _, seed_rows in rows.groupby("seed")]


def _spreads(column: str, rows: pd.DataFrame) -> list[float]:
    """The largest over the smallest value of each seed at zero logits; NaN of a seed with fewer than two."""
    by_seed = [seed_rows[column] for _, seed_rows in rows[rows["logits"] == ZERO].groupby("seed")]
    return [values.max() / values.min() if len(values) > 1 else math.nan for values in by_seed]


def _share(column: str, rows: pd.DataFrame) -> list[float]:
    return [float(rows[column].mean())]


class Claim(NamedTuple):
    """A number that the theory gives.

    Attributes:
        frame: of measurements.
        claim: the number's name.
        where: the inverse temperatures that it holds for.
        values: what was measured of it, of the frame's rows of one model.
        low, high: between which every value must lie.
    """

    frame: str
    claim: str
    where: Range
    values: Callable[[pd.DataFrame], Sequence[float]]
    low: float
    high: float


SPREAD = "at zero logits, largest over smallest"
CLAIMS = (
    Claim("times", "time to move by ||Z0||/10, over tau_z/10", EVERY, partial(_values, "tenth"), 0.85, 1.15),
    Claim("times", "time to move by ||Z0||, over tau_z", SMALL, partial(_values, "whole"), 0.9, 1.1),
    Claim("times", "slope of tau_nl over beta", SMALL, partial(_slopes, "tau_nl"), 0.9, 1.1),
    Claim("curves", f"lambda_max/beta {SPREAD}", SMALLEST, partial(_spreads, "over_beta"), 1.0, 1.02),
    Claim("curves", f"lambda_max/beta^2 {SPREAD}", LARGE, partial(_spreads, "over_beta2"), 1.0, 1.02),
    Claim("curves", f"lambda_max known to {TOLERANCE:g}, share", EVERY, partial(_share, "converged"), 1.0, 1.0),
)
CURVATURE, RATES = "1 at small beta, 2 at large beta", "-1 at small beta, -2 at large beta"
EXPONENTS = (
    ("times", None, "tau_nl", "nonlinear time tau_nl", "1 at small beta"),
    ("curves", ORDINARY, "lambda_max", "lambda_max, ordinary logits", CURVATURE),
    ("curves", ZERO, "lambda_max", "lambda_max, zero logits", CURVATURE),
    ("edges", None, "critical_rate", "critical rate 2 / lambda_max", RATES),
    ("edges", None, "frontier", "rate at which descent is lost", RATES),
)
"""Frame, kind of initial logits where there are several, column, its name, and the theory's exponents."""


def acceptance(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """The theory's claims, each with the smallest and largest of what was measured over beta and seeds."""
    for table in ("times", "curves"):
        for name, rows in by_model(frames[table]):
            for claim in CLAIMS:
                if claim.frame == table:
                    yield name | judged(claim, claim.values(claim.where.of(rows)))


def judged(claim: Claim, values: Sequence[float]) -> Row:
    """The row of a claim, which every value must meet."""
    row = {"claim": claim.claim, "where": claim.where.name, "wanted": f"{claim.low:.3g} to {claim.high:.3g}"}
    if not values or any(map(math.isnan, values)):
        return row | {"smallest": math.nan, "largest": math.nan, "met": "not measured"}
    smallest, largest = min(values), max(values)
    met = claim.low <= smallest and largest <= claim.high
    return row | {"smallest": smallest, "largest": largest, "met": "met" if met else "not met"}


def exponents(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """Exponents of beta, with intervals over seeds."""
    for table, logits, column, title, theory in EXPONENTS:
        for name, rows in by_model(frames[table]):
            kind = rows if logits is None else rows[rows["logits"] == logits]
            for where in (SMALL, LARGE):
                slopes = [value for value in _slopes(column, where.of(kind)) if math.isfinite(value)]
                if slopes:
                    interval = limits("slope", crossed_interval([[value] for value in slopes], nested=True))
                    about = {"quantity": title, "range": where.name, **name}
                    yield about | interval | {"seeds": len(slopes), "theory": theory}
