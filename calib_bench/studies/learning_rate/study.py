"""Which learning rate does each inverse temperature beta want, and which does it stand?

The plane of beta and rate in three units, every seed in every cell: its ridge, where the selection score is best, and
its frontier, above which training fails; `calib_bench.studies.learning_rate.phase` has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import arms as each
from calib_bench.analysis import beta_rate_plane, controls
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import (
    Row,
    adjusted,
    cell,
    drop_single_seed_intervals,
    excludes_zero,
    is_significant,
    marks,
    revoked,
    why_loose,
)
from calib_bench.analysis.table_notes import display_columns, families, table_note
from calib_bench.core.fate import GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import DETAILS, Analysis, Detail, Probe, Section, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.learning_rate import figures, phase

if TYPE_CHECKING:
    import pandas as pd


NAMED = {"lr": "the rate", "lr_eff": "the effective rate beta^2 eta", "lr_rel": "the relative rate eta lambda_max / 2"}

SAID = {
    phase.RIDGE: "the best rate goes", phase.FRONTIER: "the rate where training begins to fail goes",
    phase.CRITICAL: f"the critical rate {phase.LIMIT} goes",
}  # fmt: skip
ENDS = ("", "_low", "_high")


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every cell at every seed; what brackets the frontier; the curvature at each start, where rates leave it out.

    Raises:
        SettingsError: nothing is trained, or there is one beta or one rate.
    """
    _check(settings)
    settings = phase.all_seeds(settings)
    wanted: list[Trial] = []
    for family in tuning.tuned(settings, scores):
        wanted += (*family.trials(), *controls.positive(controls.base(settings, family.arms)))
        for arm in family.arms:
            starts = [phase.start_of(settings, arm.trial, seed) for seed in settings.seed or ()]
            wanted += [start for start in starts if start is not None]
            wanted += beta_rate_plane.wanted(settings, arm, scores)
    return tuning.unique(wanted)


def _check(settings: Settings) -> None:
    for model, space in (settings.spaces or {}).items():
        if 0 in space["epochs"]:
            raise SettingsError("study=learning_rate trains at every rate: give epochs=1 or more")
        for key in ("beta", "lr"):
            if len(space[key]) < 2:
                raise SettingsError(
                    f"study=learning_rate needs several values of {key} to make a plane of, and model {model} has "
                    f"{key}={space[key][0]:g}: give for example {key}=logspace(-2,1,4)"
                )


def analyse(settings: Settings, store: Results) -> Analysis:
    """The plane of every model, recipe and objective.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    settings = phase.all_seeds(settings)
    tuned_families = tuning.tuned(settings, store.scores(settings.select))
    variants = each.variants(family.arms[0].trial.family() for family in tuned_families)
    nested = own_tests(store, [arm for family in tuned_families for arm in family.arms])
    phases, control_rows = [], []  # type: list[phase.Phase], list[Row]
    for family in tuned_families:
        variant = variants[family.arms[0].trial.family()]
        control_rows += controls.read(settings, store, family.arms, variant, nested)
        for objective in dict.fromkeys(arm.trial.objective for arm in family.arms):
            objective_arms = [arm for arm in family.arms if arm.trial.objective == objective]
            name = {"model": objective_arms[0].trial.model, "variant": variant, "objective": objective}
            if all(arm.status != "pending" for arm in objective_arms):
                phases.append(phase.read(settings, store, objective_arms, name, settings.split == "seed"))
    frames = {
        "phase": pd.DataFrame([row for one in phases for row in one.rows()]),
        "slopes": pd.DataFrame([row for one in phases for row in one.slopes()]),
        "cells": pd.DataFrame([row for one in phases for row in one.cells()]),
        "controls": drop_single_seed_intervals(pd.DataFrame(control_rows), settings),
    }
    if len(frames["slopes"]):
        frames["slopes"] = adjusted(frames["slopes"], "rate", "unit")
    return Analysis(
        verdict=(*_verdict(settings, frames), *controls.told(frames["controls"])),
        tables=_tables(settings, frames, phases),
        warnings=_warnings(settings, phases, frames, store),
        summary=_summary(frames),
        data={
            "arms": [arm for family in tuned_families for arm in family.arms],
            "phases": phases,
            "cap": beta_rate_plane.guess(settings),
            "limit": settings.limit,
        },
    )


def _verdict(settings: Settings, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    if not len(frames["slopes"]):
        return ("The data cannot say how the best rate moves with beta: fewer than two betas have one.",)
    sentences = []
    for where, slopes in _groups(frames["slopes"]):
        points = next(rows for name, rows in _groups(frames["phase"]) if name == where)
        sentences += [where + text for text in (*_ridge(slopes), *_collapses(points), *_frontier(slopes, points))]
    return tuple(sentences)


def _summary(frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """What to read first, of one plane."""
    slopes = frames["slopes"]
    if not len(slopes) or len(_groups(slopes)) > 1:
        return ()
    rows = {what: _row(slopes, what, "lr") for what in (phase.RIDGE, phase.FRONTIER, phase.CRITICAL)}
    parts = [f"{SAID[what]} as beta^s with s = {cell(row, 'slope')}" for what, row in rows.items() if row]
    sentences = [f"{'; '.join(parts).capitalize()}."] if parts else []
    points = next(rows for _, rows in _groups(frames["phase"]))
    sentences += [text for text in _frontier(slopes, points) if text.startswith("Against")]
    return (*sentences, *_ridge(slopes)[1:], *controls.outcome(frames["controls"])) if sentences else ()


def details(analysis: Analysis) -> list[Detail]:
    """Each beta: its best rate, the rate where training begins to fail and the critical one, in three units."""
    import pandas as pd

    frame = analysis.tables["phase"].frame
    groups = _groups(frame) if len(frame) else []
    beta_details = []
    for where, rows in groups:
        for row in rows.to_dict("records"):
            present = [what for what in SAID if phase.column(what, "lr") in row]
            table = [{"rate": SAID[what].split(" goes")[0]} | _units(row, what) for what in present]
            parts = [f"{one['rate']} {cell(one, 'lr')}" for one in table if one["lr"] == one["lr"]]
            edge = () if row["inside"] else ("The best rate stands at the edge of the grid.",)
            shown = Table("In three units", pd.DataFrame(table), names=("rate",))
            beta_details.append(Detail(f"{where}beta = {row['beta']:.3g}", ", ".join(parts), edge, shown))
    return beta_details


def _units(row: Mapping[str, Any], what: str) -> Row:
    """A rate's columns, the rate's own name left out of theirs."""
    columns = {unit: phase.column(what, unit) for unit in phase.UNITS}
    return {f"{unit}{end}": row.get(f"{name}{end}", math.nan) for unit, name in columns.items() for end in ENDS}


def _groups(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of one model, variant and objective, with the words that begin a sentence on them."""
    out = []
    for where, family_rows in families(frame):
        several = frame["objective"].nunique() > 1
        for objective, rows in family_rows.groupby("objective", sort=False):
            out.append((f"{where}{objective}: " if several else where, rows))
    return out


def _row(frame: pd.DataFrame, rate: str, unit: str, where: str = "all") -> dict[str, Any] | None:
    rows = frame[(frame["rate"] == rate) & (frame["unit"] == unit) & (frame["range"] == where)].to_dict("records")
    return {str(key): value for key, value in rows[0].items()} if rows else None


def _ridge(slopes: pd.DataFrame) -> list[str]:
    """How the best rate moves, in each unit, and in which it stays."""
    rows = {unit: _row(slopes, phase.RIDGE, unit) for unit in phase.UNITS}
    fitted = {unit: row for unit, row in rows.items() if row is not None}
    if not fitted:
        return ["The data cannot say how the best rate moves with beta: fewer than two betas have one inside the grid."]
    parts = [f"{cell(row, 'slope')} for {NAMED[unit]}" for unit, row in fitted.items()]
    text = f"Over {next(iter(fitted.values()))['betas']} betas the best rate goes as beta^s, s = {', '.join(parts)}"
    fine = {where: row for where in phase.THEORY if (row := _row(slopes, phase.RIDGE, "lr", where))}
    if fine:
        ranges = " and ".join(f"{cell(row, 'slope')} for {where}" for where, row in fine.items())
        text += f"; for the rate itself {ranges}"
    still = [NAMED[unit] for unit, row in fitted.items() if not is_significant(row, "slope")]
    if still:
        hints = [row for row in fitted.values() if revoked(row) and excludes_zero(row, "slope")]
        why = f" ({why_loose(hints)})" if hints else ""
        return [
            f"{text}.",
            f"Whether beta moves the best value of {' or of '.join(still)} at all, the data cannot say{why}.",
        ]
    return [f"{text}.", f"So one value for every beta is best in none of the {len(fitted)} units."]


def _collapses(points: pd.DataFrame) -> list[str]:
    """How many trials failed or collapsed at the best rates."""
    rows = [row for row in points.to_dict("records") if row.get("collapsed", 0) > 0]
    listed = "; ".join(
        f"beta={row['beta']:.3g}, {row['collapsed_trials']} trials, {row['collapsed']:.0%} "
        f"[{row['collapsed_low']:.0%}, {row['collapsed_high']:.0%}]"
        for row in rows
    )
    return [f"Collapse at the best rate: {listed}."] if rows else []


def _frontier(slopes: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    """Where training fails, against the critical rate and its theory."""
    overall = _row(slopes, phase.FRONTIER, "lr")
    if overall is None:
        return [
            "Where training fails was not found at two betas or more: the data cannot say how that moves with beta."
        ]
    text = f"Training fails above a rate that moves as beta^s with s = {cell(overall, 'slope')} over all betas"
    for where, theory in phase.THEORY.items():
        mine, critical = (_row(slopes, what, "lr", where) for what in (phase.FRONTIER, phase.CRITICAL))
        if mine is None:
            continue
        low, high = mine["slope_low"], mine["slope_high"]
        agrees = "which is within the interval" if low <= theory <= high else "which the interval leaves out"
        agrees = agrees if low < high else "and there is no interval to hold it against"
        beside = f", that of the critical rate measured {cell(critical, 'slope')}" if critical else ""
        text += f"; {cell(mine, 'slope')} for {where} (theory at zero initial logits {theory:g}, {agrees}{beside})"
    sentences = [f"{text}."]
    column = phase.column(phase.FRONTIER, "lr_rel")
    rows = points.to_dict("records")
    limit = phase.column(phase.CRITICAL, "lr_rel")
    above = [f"{row['beta']:.3g}" for row in rows if row.get(f"{column}_low", math.nan) > row.get(limit, math.nan)]
    below = [f"{row['beta']:.3g}" for row in rows if row.get(f"{column}_high", math.nan) < row.get(limit, math.nan)]
    parts = [f"above it at beta={', '.join(above)}"] * bool(above) + [f"below it at beta={', '.join(below)}"] * bool(
        below
    )
    if parts:
        sentences.append(
            f"Against the critical rate {phase.LIMIT} at initialization, training begins to fail "
            f"{' and '.join(parts)}; elsewhere the data cannot say on which side."
        )
    return sentences


def _tables(settings: Settings, frames: Mapping[str, pd.DataFrame], phases: Sequence[phase.Phase]) -> dict[str, Table]:
    n = f"{len(settings.seed or ())} seeds, every one of them in every cell"
    how = "95% percentile intervals, seeds and selection examples resampled together"
    fails = f"fails: diverges, or ends at {GUESS:.0%} or more of the loss of guessing, the entropy of the labels"
    control_tables = {"controls": controls.table(frames["controls"], settings)} if len(frames["controls"]) else {}
    tables = {
        "slopes": Table(
            "Slopes over beta on log-log axes",
            display_columns(frames["slopes"], settings),
            table_note(
                settings,
                f"least squares over the betas of the range where the rate is known and, for the best one, inside the "
                f"grid; {n}; {how}; theory: of {phase.LIMIT} at zero initial logits",
                "* Holm-adjusted p < .05 that the slope is not 0, for each rate and unit",
                *marks(frames["slopes"]),
            ),
            paper=True,
        ),
        "phase": Table(
            "The best rate, the rate where training begins to fail, and the critical rate",
            display_columns(frames["phase"], settings),
            table_note(
                settings,
                f"lr: the rate; lr eff: beta^2 rate; lr rel: rate lambda_max / 2; geometric means over {n}; {how}",
                "best rate: vertex of a parabola through the lowest mean selection score and its neighbours; inside: "
                f"it has a worse rate on either side; {fails}, bracketed for every seed to a factor of "
                f"{beta_rate_plane.FINE:.2f}; critical rate: {phase.LIMIT} of the Hessian at initialization, on a "
                "batch of training examples; headroom: where training fails over the best rate",
                "collapsed: share of seeds at the best rate of the grid that fail, or part from the better half by a "
                "gap (exact limits)"
                if "collapsed" in frames["phase"]
                else "",
            ),
            paper=True,
            first=(
                "seeds",
                "inside",
                *(phase.column(w, "lr") for w in (phase.RIDGE, phase.FRONTIER, phase.CRITICAL)),
                "headroom",
                "limit",
            ),
        ),
        "cells": Table(
            "Every cell of the plane",
            display_columns(frames["cells"], settings),
            table_note(
                settings, f"{settings.select.replace('_', ' ')} on the selection split, mean over seeds; failed: share"
            ),
        ),
    }
    return tables | control_tables


def _warnings(
    settings: Settings, phases: Sequence[phase.Phase], frames: Mapping[str, pd.DataFrame], store: Results
) -> tuple[str, ...]:
    messages, frontier = [], phase.column(phase.FRONTIER, "lr")  # type: list[str], str
    if settings.limit is not None:
        messages.append(f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results.")
    if len(settings.seed or ()) == 1:
        messages.append(
            "One seed: intervals hold for this one initialization and batch order, and the frontier has none."
        )
    for row in frames["phase"].to_dict("records"):
        if not row["inside"]:
            messages.append(f"{row['model']} beta={row['beta']:.3g}: the best rate stands at the edge of its grid.")
        if not row.get(frontier, math.nan) > 0:
            messages.append(
                f"{row['model']} beta={row['beta']:.3g}: some seed trains at every rate tried above its best one, or "
                "at none, so no frontier is given; extend= lets the grid go on."
            )
    lost = [row for row in frames["phase"].to_dict("records") if row.get("collapsed", 0) > 0]
    if lost:
        listed = "; ".join(f"{row['model']} beta={row['beta']:.3g}, {row['collapsed_trials']} trials" for row in lost)
        messages.append(
            f"Trials that collapsed at the best rate: {listed}. Intervals of best rates do not cover what so few seeds "
            "have not shown; where only some of a beta's seeds collapsed, no slope of the best rate is established."
        )
    loose = sum(one.unconverged for one in phases)
    if loose:
        messages.append(f"lambda_max had not converged at {loose} starts: there it is an underestimate.")
    if any(not one.relative for one in phases):
        messages.append(
            "No relative unit: lambda_max limits the rate of gradient descent, not that of another optimizer."
        )
    for split in store.provenance().get("splits", ()):
        messages += [f"Data: {note}." for note in split.get("notes", {}).values()]
    return tuple(dict.fromkeys(messages))


STUDY = Study(
    question="Which learning rate does each inverse temperature beta want, at which does training fail, and in which "
    "unit of the rate do they stand still?",
    plan=plan,
    analyse=analyse,
    figures={"phase_plane": figures.phase_plane, "ridge": figures.ridge},
    defaults={"objective": (CROSS_ENTROPY,), "seed": (0, 1, 2, 3, 4)},
    sections=(
        Section("How the best rate and the failing one move with beta", ("ridge", "slopes")),
        Section("Each beta", ("phase", DETAILS)),
        Section("The plane of beta and rate", ("phase_plane", "cells")),
        controls.SECTION,
    ),
    details=details,
    references=("agarwala2023temperature", "holm1979"),
    probes={"curvature": Probe(arrays=phase.measure_curvature)},
)
