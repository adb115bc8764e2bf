"""Sentences on whether SGD behaves as a system at a temperature."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import Sentences
from calib_bench.analysis.result_rows import SOME_COLLAPSED, cell, revoked
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.dynamics import stationary
from calib_bench.inference import Interval
from calib_bench.studies.sgd_temperature import arms
from calib_bench.studies.sgd_temperature import rows as measured_rows
from calib_bench.studies.sgd_temperature.read import Density, Reading

STATES = {
    stationary.DRIFTS: "still drift",
    "diverged": "diverged",
    "failed": "failed",
    "too short": "are too short to judge",
}
"""States of readings that a warning names, and what it says of them."""


class Says(Sentences):
    """What the study of SGD's temperature says."""

    NOTHING = "Nothing that theory gives could be measured."
    COUNTS = "Of {number} numbers that theory gives, within their tolerance: {counts}."
    SLOPE = (
        "The stationary loss rises by {slope} nats per eta0 at small rates; the heat capacity E||g||^2 / 4 at the "
        "minimum is {capacity:.3g}."
    )
    INTERPOLATES = (
        "Theory does not apply: the model fits every training label (loss {loss:.2g} at its minimum), so that the heat "
        "capacity is zero."
    )
    NO_MINIMUM = (
        "The excess loss cannot be measured: no minimum was reached (gradient norm {norm:.2g}); give more "
        "weight_decay=."
    )
    NO_PLATEAU = "No rate has reached a plateau."
    SUPPRESSED = (
        "Shuffled epochs are colder than theory's independent batches: {smallest:.2g} of the excess loss at the "
        "smallest rate, {largest:.2g} at the largest."
    )
    BREAK_UNKNOWN = "Where the collapse over batch size ends is not established, since {why}."
    BREAK = "At eta0={eta0:.3g} the collapse over batch size is {seen}; theory gives 10% at B={tenth:.0f}."
    BROKEN = "first seen off by more than 10% at B={batch}"
    NOT_BROKEN = "not seen to break up to B={batch}"
    COOLED = (
        "{factor:g} of the rate at eta0={eta0:.3g} takes the excess loss to {cold} of what it was{moves}; with the "
        "rate restored it is {again} times that of runs never cooled ({hysteresis})."
    )
    MOVES = ", while runs that were never cooled keep falling"
    HYSTERESIS_REVOKED = "hysteresis is inconclusive, since {why}"
    HYSTERESIS_OPEN = "hysteresis is inconclusive: the runs had not settled"
    HYSTERESIS = "hysteresis"
    NO_HYSTERESIS = "no hysteresis beyond the tolerance"
    HYSTERESIS_WIDE = "hysteresis is inconclusive: the interval does not lie on one side of the tolerance"
    RULE_UNKNOWN = "Which rule Adam's stationary loss follows over batch sizes is not established, since {why}."
    RULE = "Adam's stationary loss is nearer to the {better} rule over batch sizes: log excess moves (rms) by {moved}."
    GIBBS = "One parameter: total variation distance of the histogram from exp(-2L / (eta0 s2)): {distances}."
    DISTANCE = "{distance:.3f} at eta0={eta0:g} (chance {chance:.3f})"
    ONE_SEED = "One seed: there are no intervals over seeds."
    UNSETTLED = "{model}: {number} of {of} arms {what} ({listed})."
    MIXED = "have some seeds that collapsed and some that did not"


def summary(results: list[measured_rows.FamilyResult], accepted: pd.DataFrame) -> tuple[str, ...]:
    if not len(accepted):
        return (Says.NOTHING,)
    counts = accepted["verdict"].value_counts()
    states = (measured_rows.MET, measured_rows.NOT_MET, measured_rows.OPEN)
    parts = ", ".join(f"{counts.get(state, 0)} {state}" for state in states)
    sentences = [Says.COUNTS.of(number=len(accepted), counts=parts)]
    for one in results:
        measured = measured_rows.slope(one)
        if measured is not None and one.family.convex and one.minimum.converged:
            sentences.append(f"{one.name['model']}: {_slope(one, measured)}")
            break
    return tuple(sentences)


def _slope(one: measured_rows.FamilyResult, measured: Interval) -> str:
    """Sentence on the measured heat capacity beside the one at the minimum."""
    return Says.SLOPE.of(slope=Estimate.of_interval(measured).text, capacity=one.minimum.capacity)


def verdict(one: measured_rows.FamilyResult, several: bool) -> list[str]:
    """Sentences on one family; `several` says whether they must name it."""
    where = f"{one.name['model']}, beta={one.name['beta']:g}: " if several else ""
    sentences = [*_heat(one), *_suppressed(one), *_break(one), *_cooling(one), *_adam(one)]
    return [f"{where}{sentence}" for sentence in sentences]


def _heat(one: measured_rows.FamilyResult) -> list[str]:
    """How the stationary loss rises with the rate, or why that cannot be compared with theory."""
    minimum = one.minimum
    if minimum.interpolates:
        return [Says.INTERPOLATES.of(loss=minimum.loss)]
    if not minimum.converged:
        return [Says.NO_MINIMUM.of(norm=minimum.gradient)]
    measured = measured_rows.slope(one)
    return [Says.NO_PLATEAU if measured is None else _slope(one, measured)]


def _suppressed(one: measured_rows.FamilyResult) -> list[str]:
    """How much colder shuffled epochs are than independent batches."""
    shuffled = measured_rows.suppression(one)
    if not shuffled or not math.isfinite(shuffled[0]):
        return []
    return [Says.SUPPRESSED.of(smallest=shuffled[0], largest=shuffled[-1])]


def _break(one: measured_rows.FamilyResult) -> list[str]:
    """Sentence on the batch size at which the collapse ends, measured and in theory."""
    grown = [r for r in one.part(arms.BATCHES) if r.arm.trial.momentum == 0]
    heated = one.part(arms.HEAT)
    if not grown or one.minimum.interpolates:
        return []
    if any(r.mixed for r in (*grown, *heated)):
        return [Says.BREAK_UNKNOWN.of(why=SOME_COLLAPSED)]
    first, seen = _first_off(grown, {r.arm.temperature: r.mean for r in heated})
    momentum = one.family.arms[0].trial.momentum
    tenth = stationary.breaking_batch(first.eta0, momentum, one.minimum.noise_curvature)
    return [Says.BREAK.of(eta0=first.eta0, seen=seen, tenth=tenth)]


def _first_off(grown: Sequence[Reading], base: Mapping[float, float]) -> tuple[Reading, str]:
    """The smallest of the larger batches at the hottest temperature, and text on the size first seen off `base`."""
    hottest = max(r.arm.temperature for r in grown)
    at_hottest = sorted((r for r in grown if r.arm.temperature == hottest), key=lambda r: r.batch)
    broken = [r.batch for r in at_hottest if _is_off(r, base[hottest])]
    if broken:
        return at_hottest[0], Says.BROKEN.of(batch=broken[0])
    return at_hottest[0], Says.NOT_BROKEN.of(batch=at_hottest[-1].batch)


def _is_off(reading: Reading, mean: float) -> bool:
    """Whether a batch size diverged, or settled elsewhere than the first at the same eta0, whose excess is `mean`."""
    return reading.state == "diverged" or abs(reading.mean / mean - 1) > measured_rows.COLLAPSE


def _cooling(one: measured_rows.FamilyResult) -> list[str]:
    """Sentences on the excess loss after cooling, and after the rate is restored."""
    return [
        Says.COOLED.of(
            factor=arms.COLD,
            eta0=row["eta0"],
            cold=cell(row, "cold_over_hot"),
            moves="" if row["stationary"] else Says.MOVES,
            again=cell(row, "reheated_over_control"),
            hysteresis=_hysteresis(row),
        )
        for row in measured_rows.cooling_rows(one)
    ]


def _hysteresis(row: Mapping[str, Any]) -> str:
    """Text on whether runs that were cooled end elsewhere than those that were not."""
    if why := revoked(row):
        return Says.HYSTERESIS_REVOKED.of(why=why)
    if not row["stationary"]:
        return Says.HYSTERESIS_OPEN
    return _beyond(row.get("reheated_over_control_low", math.nan), row.get("reheated_over_control_high", math.nan))


def _beyond(low: float, high: float) -> str:
    """What the limits of reheated over control say of hysteresis."""
    tolerance = measured_rows.REHEATED
    if low > 1 + tolerance or high < 1 - tolerance:
        return Says.HYSTERESIS
    return Says.NO_HYSTERESIS if max(1 - low, high - 1) <= tolerance else Says.HYSTERESIS_WIDE


def _adam(one: measured_rows.FamilyResult) -> list[str]:
    spread = measured_rows.rule_spread(one)
    if len(spread) < 2 or not all(math.isfinite(value) for value in spread.values()):
        return []
    if why := next((why for row in measured_rows.adam_rows(one) if (why := revoked(row))), ""):
        return [Says.RULE_UNKNOWN.of(why=why)]
    better = min(spread, key=lambda rule: spread[rule])
    moved = " and ".join(f"{value:.2f} under the {rule} rule" for rule, value in spread.items())
    return [Says.RULE.of(better=better, moved=moved)]


def gibbs_sentences(densities: list[Density]) -> tuple[str, ...]:
    if not densities:
        return ()
    near = [Says.DISTANCE.of(distance=one.fit.distance, eta0=one.eta0, chance=one.fit.noise) for one in densities]
    return (Says.GIBBS.of(distances=", ".join(near)),)


def warnings(grid: Grid, results: list[measured_rows.FamilyResult]) -> tuple[str, ...]:
    messages = smoke_warnings(grid)
    if len(grid.seed) == 1:
        messages.append(Says.ONE_SEED)
    return (*messages, *(text for one in results for text in _unsettled(one)))


def _unsettled(one: measured_rows.FamilyResult) -> Iterator[str]:
    """On the arms of a family that did not settle, or whose seeds collapsed in part."""
    settling = [reading for reading in one.readings if reading.arm.part not in (arms.COOLED, arms.UNCOOLED)]
    kinds = {text: [r for r in settling if r.state == state] for state, text in STATES.items()}
    kinds[Says.MIXED] = [r for r in settling if r.mixed]
    about = {"model": one.name["model"], "of": len(settling)}
    for what, affected in kinds.items():
        if affected:
            yield Says.UNSETTLED.of(**about, number=len(affected), what=what, listed=_first_few(affected))


def _first_few(readings: Sequence[Reading], most: int = 4) -> str:
    """The first readings by their part, batch size and eta0."""
    listed = ", ".join(f"{r.arm.part} B={r.batch} eta0={r.eta0:.3g}" for r in readings[:most])
    return f"{listed}, ..." if len(readings) > most else listed
