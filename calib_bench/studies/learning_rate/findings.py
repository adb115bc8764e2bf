"""Sentences on which learning rate each beta wants, and which it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import Finding, Sentences, betas, hints
from calib_bench.analysis.result_rows import cell, percent
from calib_bench.analysis.table_notes import by_objective, smoke_warnings
from calib_bench.analysis.warnings import data_notes, one_seed
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.studies.learning_rate import phase

NAMES = {"lr": "the rate", "lr_eff": "the effective rate beta^2 eta", "lr_rel": "the relative rate eta lambda_max / 2"}
PHRASES = {
    phase.RIDGE: "the best rate goes", phase.FRONTIER: "the rate where training begins to fail goes",
    phase.CRITICAL: f"the critical rate {phase.LIMIT} goes",
}  # fmt: skip


class Says(Sentences):
    """What the study of learning rates says."""

    NO_SLOPES = "How the best rate depends on beta is inconclusive: fewer than two betas have one."
    NO_RIDGE = "How the best rate depends on beta is inconclusive: fewer than two betas have one inside the grid."
    RIDGE = "Over {betas} betas the best rate goes as beta^s, s = {slopes}{by_range}."
    BY_RANGE = "; for the rate itself {ranges}"
    DEPENDS = "So the best value depends on beta in each of the {units} units."
    STILL = "Whether the best value of {names} depends on beta is inconclusive{hints}."
    COLLAPSED = "beta={beta:.3g}, {collapsed_trials} trials, {share}"
    NO_FRONTIER = "Where training fails was found at fewer than two betas: how that depends on beta is inconclusive."
    FRONTIER = "Training fails above a rate that goes as beta^s with s = {slope} over all betas{by_range}."
    THEORY = "; {slope} for {where} (theory at zero initial logits {theory:g}, {agrees}{beside})"
    INSIDE = "inside the interval"
    OUTSIDE = "outside the interval"
    UNBOUNDED = "without an interval to compare with"
    BESIDE = ", measured for the critical rate {slope}"
    AGAINST = (
        f"Against the critical rate {phase.LIMIT} at initialization, training begins to fail {{sides}}; elsewhere "
        "inconclusive."
    )
    AT_EDGE = "{which}: the best rate is at the edge of its grid."
    OPEN = "{which}: no frontier, since some seed trains at every rate above its best one or at none; give extend=."
    UNCOVERED = (
        "Trials collapsed at the best rate, which intervals do not cover: {listed}; where only some of a beta's seeds "
        "did, no slope of the best rate is established."
    )
    LOST = "{model} beta={beta:.3g}, {collapsed_trials} trials"
    UNCONVERGED = "lambda_max had not converged at {starts} starts: there it is an underestimate."
    NO_RELATIVE = "No relative unit: lambda_max limits the rate of gradient descent, not that of another optimizer."


def verdict(frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Sentences on every plane: its best rates, its collapses, and the rates at which training fails."""
    if not len(frames["slopes"]):
        return (Says.NO_SLOPES,)
    points_of = dict(by_objective(frames["phase"]))
    sentences = []
    for where, slopes in by_objective(frames["slopes"]):
        points = points_of[where]
        sentences += [where + text for text in (*_ridge(slopes), *_collapses(points), *_frontier(slopes, points))]
    return tuple(sentences)


def summary(frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Summary of one plane; empty with several."""
    slopes = frames["slopes"]
    if len(list(by_objective(slopes))) != 1:
        return ()
    rows = {rate: _row(slopes, rate, "lr") for rate in phase.RATES}
    parts = [f"{PHRASES[rate]} as beta^s with s = {cell(row, 'slope')}" for rate, row in rows.items() if row]
    if not parts:
        return ()
    against = _against_critical(frames["phase"]) if rows[phase.FRONTIER] else []
    return (f"{'; '.join(parts).capitalize()}.", *against, *_ridge(slopes)[1:])


def _row(frame: pd.DataFrame, rate: str, unit: str, where: str = "all") -> dict[str, Any] | None:
    rows = frame[(frame["rate"] == rate) & (frame["unit"] == unit) & (frame["range"] == where)].to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _ridge(slopes: pd.DataFrame) -> list[str]:
    """Sentences on how the best rate depends on beta in each unit."""
    rows = {unit: _row(slopes, phase.RIDGE, unit) for unit in phase.UNITS}
    fitted = {unit: row for unit, row in rows.items() if row is not None}
    if not fitted:
        return [Says.NO_RIDGE]
    parts = ", ".join(f"{cell(row, 'slope')} for {NAMES[unit]}" for unit, row in fitted.items())
    betas = next(iter(fitted.values()))["betas"]
    ridge = Says.RIDGE.of(betas=betas, slopes=parts, by_range=_ridge_by_range(slopes))
    return [ridge, _where_ridge_stays(fitted)]


def _ridge_by_range(slopes: pd.DataFrame) -> str:
    """The best rate's slope in each range of beta that the theory tells apart; empty where there is none."""
    by_range = {where: _row(slopes, phase.RIDGE, "lr", where) for where in phase.THEORY}
    ranges = " and ".join(f"{cell(row, 'slope')} for {where}" for where, row in by_range.items() if row)
    return Says.BY_RANGE.of(ranges=ranges) if ranges else ""


def _where_ridge_stays(fitted: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether one value for every beta may be best in some unit; `fitted` are the slopes over all betas by unit."""
    slopes = [Finding.of(row, "slope", where=NAMES[unit]) for unit, row in fitted.items()]
    still = [slope for slope in slopes if not slope.is_established]
    if not still:
        return Says.DEPENDS.of(units=len(fitted))
    return Says.STILL.of(names=" or of ".join(slope.where for slope in still), hints=hints(still))


def _collapses(points: pd.DataFrame) -> list[str]:
    """How many trials failed or collapsed at the best rates."""
    listed = "; ".join(Says.COLLAPSED.of(**row, share=percent(row, "collapsed")) for row in _collapsed(points))
    return [f"Collapse at the best rate: {listed}."] if listed else []


def _collapsed(points: pd.DataFrame) -> list[dict[Any, Any]]:
    """The rows of betas at which a trial failed or collapsed at the best rate."""
    return [row for row in points.to_dict("records") if row.get("collapsed", 0) > 0]


def _frontier(slopes: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Sentences on the rate at which training fails, against the critical rate and its theory."""
    overall = _row(slopes, phase.FRONTIER, "lr")
    if overall is None:
        return [Says.NO_FRONTIER]
    by_range = "".join(_against_theory(slopes, where, theory) for where, theory in phase.THEORY.items())
    return [Says.FRONTIER.of(slope=cell(overall, "slope"), by_range=by_range), *_against_critical(points)]


def _against_theory(slopes: pd.DataFrame, where: str, theory: float) -> str:
    """The frontier's slope in one range of beta beside the theory's and the critical rate's; empty if not measured."""
    row, critical = (_row(slopes, rate, "lr", where) for rate in (phase.FRONTIER, phase.CRITICAL))
    if row is None:
        return ""
    low, high = row["slope_low"], row["slope_high"]
    agrees = Says.INSIDE if low <= theory <= high else Says.OUTSIDE
    agrees = agrees if low < high else Says.UNBOUNDED
    beside = Says.BESIDE.of(slope=cell(critical, "slope")) if critical else ""
    return Says.THEORY.of(slope=cell(row, "slope"), where=where, theory=theory, agrees=agrees, beside=beside)


def _against_critical(points: pd.DataFrame) -> list[str]:
    """At which betas training surely begins to fail above, or below, the critical rate; nothing where at none."""
    frontier, limit = (phase.column(rate, "lr_rel") for rate in (phase.FRONTIER, phase.CRITICAL))
    rows = points.to_dict("records")
    sides = {
        "above": [row for row in rows if row.get(f"{frontier}_low", math.nan) > row.get(limit, math.nan)],
        "below": [row for row in rows if row.get(f"{frontier}_high", math.nan) < row.get(limit, math.nan)],
    }
    parts = [f"{side} it at {betas(side_rows)}" for side, side_rows in sides.items() if side_rows]
    return [Says.AGAINST.of(sides=" and ".join(parts))] if parts else []


def warnings(
    grid: Grid, phases: Sequence[phase.Phase], frames: Mapping[str, pd.DataFrame], store: Results
) -> tuple[str, ...]:
    """What a reader must know before quoting a number of the planes."""
    messages = [*smoke_warnings(grid), *one_seed(grid, ", and the frontier has none")]
    for row in frames["phase"].to_dict("records"):
        messages += _open_ends(row)
    messages += [*_collapse_warning(frames["phase"]), *_curvature_warnings(phases), *data_notes(store.provenance())]
    return tuple(dict.fromkeys(messages))


def _open_ends(row: Mapping[str, Any]) -> Iterator[str]:
    """Of a beta whose best rate is at the edge of the grid, or whose frontier was not found."""
    which = f"{row['model']} beta={row['beta']:.3g}"
    if not row["inside"]:
        yield Says.AT_EDGE.of(which=which)
    if not row.get(phase.column(phase.FRONTIER, "lr"), math.nan) > 0:
        yield Says.OPEN.of(which=which)


def _collapse_warning(points: pd.DataFrame) -> list[str]:
    listed = "; ".join(Says.LOST.of(**row) for row in _collapsed(points))
    return [Says.UNCOVERED.of(listed=listed)] if listed else []


def _curvature_warnings(phases: Sequence[phase.Phase]) -> Iterator[str]:
    unconverged = sum(one.unconverged for one in phases)
    if unconverged:
        yield Says.UNCONVERGED.of(starts=unconverged)
    if any(not one.relative for one in phases):
        yield Says.NO_RELATIVE
