"""Sentences on early learning: which of the theory's numbers are met, and where descent is lost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from calib_bench.analysis.findings import Sentences, betas
from calib_bench.analysis.table_notes import families, smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.studies.early_learning.claims import LARGE
from calib_bench.studies.early_learning.probes import TOLERANCE
from calib_bench.studies.early_learning.rows import ORDINARY


class Says(Sentences):
    """What the study of early learning says."""

    NOTHING = "Nothing has been measured yet."
    COUNTS = "Of {number} numbers that the theory of early learning gives: {counts}."
    CLAIM = "{met}{of}: {claim}, {where}, expected {wanted}{measured}."
    MISSED = "{where}2 / lambda_max misses where descent is lost; the ratio of the two rates is {ends}."
    SATURATION = "{where}Saturation bends the second law: at ordinary initial logits lambda_max/beta^2 is {values}."
    LOST = "{where}The rate at which descent is lost, in critical rates: {ends}."
    CATAPULTS = "{where}Above the critical rate the loss rose and came back at {betas}."
    SLOPES = "{where}Slopes over beta: {exponents}."
    NOT_CURVATURE = "{where}The curvature of the start does not set where descent is lost."
    PARTED = (
        "{where}From equal initial logits ({start}) networks leave the tangent model's common path, by a tenth of the "
        "way, at tau {times}{together}."
    )
    TOGETHER = "; not within the path followed at {betas}"
    UNCONVERGED = f"lambda_max has not converged to {TOLERANCE:g} at {{betas}}: it is an underestimate there."
    NO_FRONTIER = "For some seeds training was lost at no rate tried, or at every rate: their frontier is missing."
    ONE_SEED = "One seed: variation between initializations is unknown."


def verdict(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """Every claim of the theory, then the rates at which descent is lost, and when networks leave the common path."""
    accepted = frames["acceptance"]
    yield from _counts(accepted)
    for row in accepted.to_dict("records"):
        measured = "" if row["met"] == "not measured" else f": {row['smallest']:.3f} to {row['largest']:.3f}"
        yield Says.CLAIM.of(**row | {"of": _of(row, accepted), "measured": measured})
    yield from _saturation(frames["curves"])
    yield from _lost(frames["edges"], frames["slopes"])
    yield from _parted(frames["common"])


def summary(frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """How many of the theory's numbers are met, and where the critical rate misses that at which descent is lost."""
    yield from _counts(frames["acceptance"])
    yield from _missed(frames["edges"])


def _missed(edges: pd.DataFrame) -> Iterator[str]:
    """Sentences on where the critical rate misses that at which descent is lost, see `_is_missed`."""
    for where, rows in families(edges):
        relative = _relative(rows)
        if _is_missed(relative):
            ends = " and ".join(_at(relative, beta) for beta in (relative.idxmin(), relative.idxmax()))
            yield Says.MISSED.of(where=where, ends=ends)


def _counts(accepted: pd.DataFrame) -> Iterator[str]:
    if not len(accepted):
        yield Says.NOTHING
        return
    counts = accepted["met"].value_counts()
    parts = ", ".join(f"{counts.get(state, 0)} {state}" for state in ("met", "not met", "not measured"))
    yield Says.COUNTS.of(number=len(accepted), counts=parts)


def _of(row: Mapping[str, Any], frame: pd.DataFrame) -> str:
    several = len(frame[["model", "variant"]].drop_duplicates()) > 1
    return f" ({row['model']}{', ' + row['variant'] if row['variant'] else ''})" if several else ""


def _saturation(curves: pd.DataFrame) -> Iterator[str]:
    """How ordinary logits bend the second law: confident predictions have no curvature."""
    for where, rows in families(curves):
        large = LARGE.of(rows[rows["logits"] == ORDINARY])
        mean = large.groupby("beta")["over_beta2"].mean()
        if len(mean) > 1:
            ends = dict.fromkeys((mean.index[0], mean.idxmax(), mean.index[-1]))
            yield Says.SATURATION.of(where=where, values=", ".join(_at(mean, beta) for beta in ends))


def _at(values: pd.Series, beta: float) -> str:
    """One value of a series over beta, with its beta."""
    return f"{values[beta]:.3g} at beta={beta:.3g}"


def _relative(edges: pd.DataFrame) -> pd.Series:
    """By beta, the rate at which descent is lost in critical rates: the geometric mean over seeds."""
    finite = edges[edges["relative"].notna()]
    mean: pd.Series = np.exp(np.log(finite["relative"]).groupby(finite["beta"]).mean())
    return mean


def _is_missed(relative: pd.Series) -> bool:
    """Whether descent is lost at other rates than the critical one, by more than a factor of two at some beta."""
    return bool(len(relative) and np.abs(np.log(relative)).max() > math.log(2))


def _lost(edges: pd.DataFrame, slopes: pd.DataFrame) -> Iterator[str]:
    """Sentences on the rate at which descent is lost, its exponents over beta, and the catapults above it."""
    for where, rows in families(edges):
        relative = _relative(rows)
        if not len(relative):
            continue
        ends = " and ".join(_at(relative, beta) for beta in (relative.index[0], relative.index[-1]))
        yield Says.LOST.of(where=where, ends=ends)
        catapults = rows[rows["catapults"] > 0].sort_values("beta")
        if len(catapults):
            yield Says.CATAPULTS.of(where=where, betas=_betas(catapults))
        exponents = _exponents(slopes, rows["model"].iloc[0], rows["variant"].iloc[0])
        if exponents:
            yield Says.SLOPES.of(where=where, exponents=exponents)
        if _is_missed(relative):
            yield Says.NOT_CURVATURE.of(where=where)


def _exponents(slopes: pd.DataFrame, model: str, variant: str | None) -> str:
    """The exponents of the rates of one model and variant, with the range of each."""
    if not len(slopes):
        return ""
    rates = slopes[slopes["quantity"].str.startswith(("rate at", "critical"))].to_dict("records")
    model_rates = [row for row in rates if (row["model"], row["variant"]) == (model, variant)]
    return "; ".join(f"{row['quantity']} {row['slope']:.2f} ({row['range']})" for row in model_rates)


def _parted(common: pd.DataFrame) -> Iterator[str]:
    """Sentences on when networks leave the path that all betas share, by the logits that they start from."""
    for where, family_rows in families(common):
        for start, rows in family_rows.groupby("start", sort=False):
            left, stayed = rows.dropna(subset="tau_nl"), rows[rows["tau_nl"].isna()]
            times = ", ".join(f"{row.tau_nl:.2g} at beta={row.beta:.3g}" for row in left.itertuples())
            together = Says.TOGETHER.of(betas=_betas(stayed)) if len(stayed) else ""
            yield Says.PARTED.of(where=where, start=start, times=times or "none", together=together)


def _betas(frame: pd.DataFrame) -> str:
    return betas(frame.to_dict("records"))


def warnings(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """What a reader must know before quoting a number."""
    yield from smoke_warnings(grid)
    curves = frames["curves"]
    if len(curves) and not curves["converged"].all():
        yield Says.UNCONVERGED.of(betas=_betas(curves[~curves["converged"]].sort_values("beta")))
    edges = frames["edges"]
    if len(edges) and edges["frontier"].isna().any():
        yield Says.NO_FRONTIER
    if len(grid.seed) == 1:
        yield Says.ONE_SEED
