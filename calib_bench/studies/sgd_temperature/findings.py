"""Sentences on whether SGD behaves as a system at a temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from calib_bench.analysis.format import estimate
from calib_bench.analysis.result_rows import SOME_COLLAPSED, cell, revoked
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.dynamics import stationary
from calib_bench.inference import Interval
from calib_bench.studies.sgd_temperature import arms
from calib_bench.studies.sgd_temperature import rows as measured_rows
from calib_bench.studies.sgd_temperature.read import Density, Reading

if TYPE_CHECKING:
    import pandas as pd


STATES = {
    stationary.DRIFTS: "still drift",
    "diverged": "diverged",
    "failed": "failed",
    "too short": "are too short to judge",
}
"""States of readings that a warning names, and what it says of them."""


def summary(results: list[measured_rows.FamilyResult], accepted: pd.DataFrame) -> tuple[str, ...]:
    if not len(accepted):
        return ("Nothing that theory gives could be measured.",)
    met = int((accepted["verdict"] == measured_rows.MET).sum())
    sentences = [f"Of {len(accepted)} numbers that theory gives, {met} are met within their tolerance."]
    for one in results:
        measured = measured_rows.slope(one)
        if measured is not None and one.family.convex and one.minimum.converged:
            sentences.append(f"{_slope(one, measured)}")
            break
    return tuple(sentences)


def _slope(one: measured_rows.FamilyResult, measured: object) -> str:

    assert isinstance(measured, Interval)
    text = estimate(measured.mean, measured.low, measured.high)
    return (
        f"{one.name['model']}: the stationary loss rises by {text} nats per unit of eta0 at small rates, where the "
        f"heat capacity E||g||^2 / 4 at the minimum is {one.minimum.capacity:.3g}."
    )


def verdict(one: measured_rows.FamilyResult, several: bool) -> list[str]:
    where = f"{one.name['model']}, beta={one.name['beta']:g}: " if several else ""
    if one.minimum.interpolates:
        sentences = [
            f"{where}Theory does not apply: the model fits every training label (loss {one.minimum.loss:.2g} at its "
            "minimum), the gradients of single examples vanish there, and the heat capacity is zero."
        ]
    elif not one.minimum.converged:
        sentences = [
            f"{where}No minimum was reached (gradient norm {one.minimum.gradient:.2g}), so the excess loss cannot "
            "be measured: give more weight_decay=."
        ]
    else:
        measured = measured_rows.slope(one)
        sentences = [_slope(one, measured)] if measured is not None else [f"{where}No rate has reached a plateau."]
    shuffled = measured_rows.suppression(one)
    if shuffled and math.isfinite(shuffled[0]):
        sentences.append(
            f"{where}Shuffled epochs, in which each example comes once, are colder than theory's independent batches: "
            f"{shuffled[0]:.2g} of the excess loss at the smallest rate, {shuffled[-1]:.2g} at the largest."
        )
    sentences += [f"{where}{sentence}" for sentence in (*_break(one), *_cooling(one), *_adam(one))]
    return sentences


def _break(one: measured_rows.FamilyResult) -> list[str]:
    """Sentence on the batch size at which the collapse ends, measured and in theory."""
    grown = [r for r in one.part(arms.BATCHES) if r.arm.trial.momentum == 0]
    base = {r.arm.temperature: r.mean for r in one.part(arms.HEAT)}
    if not grown or one.minimum.interpolates:
        return []
    if any(r.mixed for r in (*grown, *one.part(arms.HEAT))):
        return [f"Where the collapse over batch size ends is not established, since {SOME_COLLAPSED}."]
    hottest = max(r.arm.temperature for r in grown)
    at_hottest = sorted((r for r in grown if r.arm.temperature == hottest), key=lambda r: r.batch)
    first = at_hottest[0]
    broken = [r for r in at_hottest if _is_off(r, base[hottest])]
    curvature = one.minimum.noise_curvature
    tenth = stationary.breaking_batch(first.eta0, one.family.arms[0].trial.momentum, curvature)
    seen = f"not seen to break up to B={at_hottest[-1].batch}"
    if broken:
        seen = f"first seen off by more than 10% at B={broken[0].batch}"
    return [f"At eta0={first.eta0:.3g} the collapse over batch size is {seen}; theory gives 10% at B={tenth:.0f}."]


def _is_off(reading: Reading, mean: float) -> bool:
    """Whether a batch size diverged, or settled elsewhere than the first at the same eta0, whose excess is `mean`."""
    return reading.state == "diverged" or abs(reading.mean / mean - 1) > measured_rows.COLLAPSE


def _cooling(one: measured_rows.FamilyResult) -> list[str]:
    sentences = []
    for row in measured_rows.cooling_rows(one):
        cold, again = cell(row, "cold_over_hot"), cell(row, "reheated_over_control")
        low, high = row.get("reheated_over_control_low", math.nan), row.get("reheated_over_control_high", math.nan)
        back = (
            "hysteresis"
            if low > 1 + measured_rows.REHEATED or high < 1 - measured_rows.REHEATED
            else "no hysteresis beyond the tolerance"
        )
        if not row["stationary"]:
            back = "the runs had not settled: inconclusive on hysteresis"
        if why := revoked(row):
            back = f"nothing can be said of hysteresis, since {why}"
        moves = "" if row["stationary"] else ", while runs that were never cooled keep falling"
        sentences.append(
            f"{arms.COLD:g} of the rate at eta0={row['eta0']:.3g} takes the excess loss to {cold} of what it was"
            f"{moves}; with the rate restored it is {again} times that of runs that were never cooled ({back})."
        )
    return sentences


def _adam(one: measured_rows.FamilyResult) -> list[str]:
    spread = measured_rows.rule_spread(one)
    if len(spread) < 2 or not all(math.isfinite(value) for value in spread.values()):
        return []
    if why := next((why for row in measured_rows.adam_rows(one) if (why := revoked(row))), ""):
        return [f"Which rule Adam's stationary loss follows over batch sizes is not established, since {why}."]
    better = min(spread, key=lambda rule: spread[rule])
    return [
        f"Adam's stationary loss follows the {better} rule over batch sizes: log excess moves by "
        f"{spread['square root']:.2f} (root mean square) under the square-root rule and by {spread['linear']:.2f} "
        "under the linear one."
    ]


def gibbs_sentences(densities: list[Density]) -> tuple[str, ...]:
    if not densities:
        return ()
    near = [f"{one.fit.distance:.3f} at eta0={one.eta0:g} (chance {one.fit.noise:.3f})" for one in densities]
    return (f"One parameter: total variation distance of the histogram from exp(-2L / (eta0 s2)): {', '.join(near)}.",)


def warnings(grid: Grid, results: list[measured_rows.FamilyResult]) -> tuple[str, ...]:
    messages = smoke_warnings(grid)
    if len(grid.seed) == 1:
        messages.append("One seed: there are no intervals over seeds.")
    for one in results:
        messages += _unsettled(one)
    return tuple(messages)


def _unsettled(one: measured_rows.FamilyResult) -> Iterator[str]:
    """On the arms of a family that did not settle, or whose seeds collapsed in part."""
    settling = [reading for reading in one.readings if reading.arm.part not in (arms.COOLED, arms.UNCOOLED)]
    by_state = {state: [reading for reading in settling if reading.state == state] for state in STATES}
    kinds = [(by_state[state], text) for state, text in STATES.items()]
    kinds.append(([r for r in settling if r.mixed], "have some seeds that collapsed and some that did not"))
    for affected, what in kinds:
        if affected:
            listed = ", ".join(f"{r.arm.part} B={r.batch} eta0={r.eta0:.3g}" for r in affected[:4])
            more = ", ..." if len(affected) > 4 else ""
            yield f"{one.name['model']}: {len(affected)} of {len(settling)} arms {what} ({listed}{more})."
