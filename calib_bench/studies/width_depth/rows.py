"""Rows of every architecture over beta, and how the best beta moves with width, depth and normalization."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, beta_rate_plane
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields, limits
from calib_bench.analysis.tuned_arms import Reader
from calib_bench.inference import percentile
from calib_bench.inference.arrays import Array
from calib_bench.models.variations import Form, form
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm


def curves_of(
    reader: Reader, arms: Sequence[Arm], variant: str | None
) -> tuple[list[best_beta.Curve], list[Row], list[str]]:
    """An architecture's curves, a row an arm, and which arms are left out."""
    seeds = list(reader.grid.seed)
    name = {"model": arms[0].trial.model, "variant": variant, "objective": arms[0].trial.objective}
    choices: dict[float, dict[str, Array]] = {}
    fits: dict[float, dict[str, Array]] = {}
    values: dict[float, dict[str, Array]] = {}
    kinds: Row = {}
    rows = []
    for arm in sorted(arms, key=lambda arm: arm.trial.beta):
        measures = reader.measure(arm, each.named(arm, variant))
        row: Row = {**name, "beta": arm.trial.beta, "tuning": arm.tuning, "seeds": len(measures.seeds)}
        for result, interval in best_beta.levels(measures, reader.nested).items():
            row |= limits(result.replace(" ", "_"), interval)
        rows.append(row | two_kinds(measures))
        if list(measures.seeds) == seeds:
            kinds |= two_kinds(measures)
            beta = arm.trial.beta
            values[beta], choices[beta] = best_beta.results(measures), best_beta.moves(measures)
            fits[beta] = best_beta.refits(measures)
    lacking = [arm.trial.beta for arm in arms if arm.trial.beta not in values]
    messages = best_beta.left_out(str(name["model"]), lacking, len(values))
    about = {**name, "tuning": tuning.together(arms), **kinds}
    return best_beta.curves(about, values, reader.nested, choices, fits), rows, messages


Architecture = tuple[Form, best_beta.Curve]


def trend_rows(curves: Sequence[best_beta.Curve]) -> list[Row]:
    """Among architectures that differ in one of width, depth and normalization: the log-log slope of the best beta over
    the first two, and the ratio with and without the third."""
    architectures = [(one, curve) for curve in curves if (one := form(str(curve.name["model"])))]
    rows: list[Row] = []
    for over in ("width", "depth", "norm"):
        rows += [_trend_row(over, members) for members in _alike_but_for(over, architectures)]
    return rows


def _alike_but_for(over: str, architectures: Sequence[Architecture]) -> list[list[Architecture]]:
    """Curves of one result, objective and variant, of architectures that differ in `over` alone."""
    groups: dict[Any, list[Architecture]] = {}
    for one, curve in architectures:
        rest = tuple(getattr(one, key) for key in ("kind", "width", "depth", "norm") if key != over)
        curve_key = (curve.result, curve.name["objective"], curve.name["variant"])
        groups.setdefault((curve_key, rest), []).append((one, curve))
    return [members for members in groups.values() if len({getattr(one, over) for one, _ in members}) > 1]


def _place(architecture: Form, over: str) -> float:
    """Where an architecture goes on a slope's axis: log width, log depth, or 1 with normalization, else 0."""
    value = getattr(architecture, over)
    return float(value != "none") if over == "norm" else math.log(value)


def _trend_row(over: str, members: Sequence[Architecture]) -> Row:
    """The slope of the best beta over one property of the architectures."""
    x = [_place(one, over) for one, _ in members]
    bests = [curve.best() for _, curve in members]
    slope = beta_rate_plane.slope(x, [place for place, _, _ in bests])
    slopes = beta_rate_plane.slope(x, np.stack([drawn for _, drawn, _ in bests], -1))
    curve, names = members[0][1], [curve.name for _, curve in members]
    row: Row = {"over": over, "models": ", ".join(str(name["model"]) for name in names)}
    row |= {"objective": curve.name["objective"], "result": curve.result}
    row["tuning"] = ", ".join(dict.fromkeys(str(name.get("tuning", "tuned")) for name in names))
    if any(TWO_KINDS in name for name in names):
        row[TWO_KINDS] = "these arms"
    return row | fields("slope", percentile(float(slope), slopes, curve.found))
