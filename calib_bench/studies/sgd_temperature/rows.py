"""Rows of the study's tables, and its acceptance numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from calib_bench.analysis.findings import Sentences
from calib_bench.analysis.result_rows import TWO_KINDS, Row, limits
from calib_bench.dynamics import stationary
from calib_bench.inference import Interval, crossed_interval
from calib_bench.inference.arrays import Array
from calib_bench.inference.interval import no_interval
from calib_bench.studies.sgd_temperature.arms import (
    ADAM,
    BATCHES,
    COLD,
    COOLED,
    HEAT,
    MOMENTA,
    SHUFFLED,
    UNCOOLED,
    Family,
)
from calib_bench.studies.sgd_temperature.read import Density, Minimum, Phases, Reading, phases, predicted

MET, NOT_MET, OPEN = "met", "not met", "undecided"
SLOPE, COLLAPSE, REHEATED, DISTANCE, SMALL = 0.10, 0.10, 0.10, 0.05, 0.25
"""Tolerances: of the slope, of the collapse, of the reheated loss, of the Gibbs density up to the temperature SMALL."""
LAW = 1.1
"""The collapse is claimed where the rate is small enough for theory to change the excess by less than this factor."""


@dataclass
class FamilyResult:
    """All that was read of one family."""

    family: Family
    minimum: Minimum
    readings: list[Reading] = field(default_factory=list)

    def part(self, *names: str) -> list[Reading]:
        """The readings of these parts."""
        return [reading for reading in self.readings if reading.arm.part in names]

    @property
    def name(self) -> Row:
        """What names its rows."""
        trial = self.family.minimum
        name: Row = {"model": trial.model, "beta": trial.beta, "label_noise": trial.label_noise}
        return name | ({"objective": trial.objective} if trial.terms else {})


def over_seeds(values_S: Array) -> Interval:
    """Mean and Student's interval over seeds."""
    if not np.isfinite(values_S).all():
        return no_interval(math.nan, len(values_S), 1, "a seed has no value")
    return crossed_interval(values_S[:, None])


def stationary_rows(result: FamilyResult, *parts: str) -> list[Row]:
    """One row an arm: its excess loss and what theory says."""
    rows = []
    for reading in result.part(*parts):
        trial, theory = reading.arm.trial, result.minimum.capacity * reading.eta0
        row = result.name | {"part": reading.arm.part, "eta0": reading.eta0, "batch": reading.batch}
        row |= {"momentum": trial.momentum, "sampling": trial.sampling, "rate": reading.eta0 * reading.batch}
        row["rate"] *= 1 - trial.momentum
        row |= limits("excess", over_seeds(reading.excess)) | {"theory": theory}
        row["theory_finite_rate"] = predicted(reading, result.minimum)
        ratio = over_seeds(reading.excess / theory) if theory > 0 else no_interval(math.nan, 0, 0, "theory gives 0")
        row |= limits("ratio", ratio) | {"plateau": reading.state}
        row |= {TWO_KINDS: "this arm"} if reading.mixed else {}
        if reading.plateau is not None:
            gap = float(np.diff(reading.epochs).mean())
            row |= {"drift": reading.plateau.drift, "correlation_epochs": reading.plateau.tau * gap}
        rows.append(row)
    return rows


def minimum_row(result: FamilyResult) -> Row:
    """The constants of a family's minimum."""
    names = ("objective", "loss", "gradient", "accuracy", "mean_square", "noise_curvature", "norm")
    minimum = result.minimum
    row = result.name | {name: getattr(minimum, name) for name in names}
    row |= {"weight_decay": result.family.minimum.weight_decay, "capacity": minimum.capacity}
    if minimum.interpolates:
        return row | {"state": "every label fitted"}
    return row | {"state": "found" if minimum.converged else "not reached"}


def cooling_rows(result: FamilyResult) -> list[Row]:
    """Excess loss hot, cold and reheated, and of runs that were not cooled."""
    rows = []
    for reading, got in cooled(result):
        row = result.name | {"eta0": reading.eta0, "factor": COLD}
        for name, values in (("hot", got.hot), ("cold", got.cold), ("reheated", got.again), ("control", got.control)):
            row |= limits(name, over_seeds(values))
        row |= limits("cold_over_hot", over_seeds(got.cold / got.hot))
        row |= limits("reheated_over_control", over_seeds(got.again / got.control))
        row["stationary"] = settled(got)
        row |= {TWO_KINDS: "these runs"} if any(one.mixed for one in result.part(COOLED, UNCOOLED)) else {}
        rows.append(row)
    return rows


def cooled(result: FamilyResult) -> list[tuple[Reading, Phases]]:
    """The runs whose rate is lowered and restored, with what became of them."""
    pairs = zip(result.part(COOLED), result.part(UNCOOLED), strict=True)
    got = [(reading, phases(reading, control, result.minimum)) for reading, control in pairs]
    return [(reading, one) for reading, one in got if one is not None]


def settled(got: Phases) -> bool:
    """Whether the runs that were not cooled ended where they were before, so that cold and hot can be compared."""
    return abs(float(got.control.mean()) / float(got.hot.mean()) - 1) <= REHEATED


def adam_rows(result: FamilyResult) -> list[Row]:
    """Excess loss of Adam over batch sizes under both rules, relative to the first batch."""
    readings = result.part(ADAM)
    rows: list[Row] = []
    for base in (reading for reading in readings if not reading.arm.rule):
        same_rate = [reading for reading in readings if reading.arm.temperature == base.arm.temperature]
        rows += [result.name | _adam_row(reading, base) for reading in same_rate]
    return rows


def _adam_row(reading: Reading, base: Reading) -> Row:
    """One batch size and rule against the first batch at the same rate."""
    row: Row = {"rate_at_first": base.arm.temperature, "rule": reading.arm.rule or "both"}
    row |= {"batch": reading.batch, "rate": reading.arm.trial.lr}
    row |= limits("excess", over_seeds(reading.excess))
    row |= limits("relative", over_seeds(reading.excess / base.excess)) | {"plateau": reading.state}
    if reading.mixed or base.mixed:
        row[TWO_KINDS] = "this arm" if reading.mixed else "reference"
    return row


def gibbs_rows(densities: Sequence[Density]) -> list[Row]:
    """Distances of histograms from the Gibbs density and from its normal approximation."""
    return [
        {
            "eta0": one.eta0, "samples": one.samples.size, "distance": one.fit.distance, "chance": one.fit.noise,
            "distance_of_normal": one.gaussian_distance, "deviation": float(one.samples.std()),
            "deviation_of_gibbs": _deviation(one),
        }
        for one in densities
    ]  # fmt: skip


def _deviation(one: Density) -> float:
    mean = float(np.trapezoid(one.x * one.density, one.x))
    return math.sqrt(float(np.trapezoid((one.x - mean) ** 2 * one.density, one.x)))


def frames(results: Sequence[FamilyResult], densities: Sequence[Density]) -> dict[str, pd.DataFrame]:
    """The rows of every table of the study."""

    def stationary_frame(*parts: str) -> pd.DataFrame:
        return pd.DataFrame([row for one in results for row in stationary_rows(one, *parts)])

    return {
        "acceptance": pd.DataFrame(acceptance(results, densities)),
        "minima": pd.DataFrame([minimum_row(one) for one in results]),
        "heat": stationary_frame(HEAT, SHUFFLED),
        "collapse": stationary_frame(BATCHES, MOMENTA),
        "cooling": pd.DataFrame([row for one in results for row in cooling_rows(one)]),
        "adam": pd.DataFrame([row for one in results for row in adam_rows(one)]),
        "gibbs": pd.DataFrame(gibbs_rows(densities)),
    }


class Claims(Sentences):
    """What theory claims."""

    PLATEAUS = "plateaus: share of rates whose loss is flat within 10% of its excess"
    SLOPE = "slope of the excess loss over eta0, in units of the heat capacity E||g||^2 / 4"
    COLLAPSE = "collapse over {what}: the excess loss farthest from the first one's at equal eta0, as their ratio"
    COOLING = f"cooling: excess loss at {COLD:g} of the rate over that before"
    REHEATING = "reheating: excess loss once the rate is restored over that of runs never cooled"
    ADAM = "Adam: departure of log excess from the first batch's, square-root rule over linear rule"
    GIBBS = "Gibbs density at eta0 = {eta0:g}: total variation distance of the histogram"


def acceptance(results: Sequence[FamilyResult], densities: Sequence[Density]) -> list[Row]:
    """What theory claims, what was measured, and whether that is within the tolerance."""
    rows: list[Row] = []
    for one in results:
        rows += [one.name | row for row in _heat(one) + _collapse(one) + _cooled(one) + _rules(one)]
    for density in densities:
        if density.eta0 <= SMALL:
            claim = Claims.GIBBS.of(eta0=density.eta0)
            rows.append({"model": "scalar"} | _claim(claim, 0.0, density.fit.distance, DISTANCE))
    return rows


def _claim(
    claim: str,
    theory: float,
    measured: float | Interval,
    tolerance: float,
    of: Sequence[Reading] = (),
    decided: bool = True,
) -> Row:
    """A claim: met within the tolerance, which is relative but to a theory of 0.

    It is open where it is not `decided`, has no number, or rests on readings `of` which some have seeds of two kinds.
    """
    value = measured.mean if isinstance(measured, Interval) else measured
    columns = limits("measured", measured) if isinstance(measured, Interval) else {"measured": measured}
    departure = abs(value / theory - 1) if theory else value
    mixed = any(one.mixed for one in of)
    verdict = MET if departure <= tolerance else NOT_MET
    if mixed or not decided or math.isnan(value):
        verdict = OPEN
    row = {"claim": str(claim), **columns, "theory": theory, "tolerance": tolerance, "verdict": verdict}
    return row | ({TWO_KINDS: "these runs"} if mixed else {})


def slope(result: FamilyResult) -> Interval | None:
    """The small-rate slope of the excess loss over eta0, of the rates that have reached a plateau."""
    settled = [one for one in result.part(HEAT) if one.state in (stationary.FLAT, stationary.UNDECIDED)]
    if not settled:
        return None
    return stationary.small_rate_slope([one.eta0 for one in settled], np.stack([one.excess for one in settled]))


def _heat(result: FamilyResult) -> list[Row]:
    heats = result.part(HEAT)
    flat = sum(one.state == stationary.FLAT for one in heats)
    moving = any(one.state not in (stationary.FLAT, stationary.UNDECIDED) for one in heats)
    rows = [_claim(Claims.PLATEAUS, 1.0, flat / len(heats), 0.0, decided=moving or flat == len(heats))]
    if result.minimum.interpolates:
        return rows
    measured = slope(result)
    if measured is None or not result.minimum.converged:
        return [*rows, _claim(Claims.SLOPE, 1.0, math.nan, SLOPE)]
    by = 1 / result.minimum.capacity
    ratio = replace(measured, mean=measured.mean * by, low=measured.low * by, high=measured.high * by)
    return [*rows, _claim(Claims.SLOPE, 1.0, ratio, SLOPE, heats)]


def _collapse(result: FamilyResult) -> list[Row]:
    """The worst departure from equal excess at equal eta0, where finite rates should not show."""
    rows = []
    base = {one.arm.temperature: one for one in result.part(HEAT)}
    for part, what in ((BATCHES, "batch sizes"), (MOMENTA, "momenta")):
        gaps = [
            one.mean / base[one.arm.temperature].mean
            for one in result.part(part)
            if _law(one, result.minimum) and _law(base[one.arm.temperature], result.minimum)
        ]
        if result.part(part):
            claim = Claims.COLLAPSE.of(what=what)
            worst = max(gaps, key=lambda ratio: abs(math.log(ratio))) if gaps else math.nan
            rows.append(_claim(claim, 1.0, worst, COLLAPSE, result.part(HEAT, part)))
    return rows


def _law(reading: Reading, minimum: Minimum) -> bool:
    """Whether theory's small-rate law should hold, and a plateau lets one see it."""
    factor = predicted(reading, minimum) / (minimum.capacity * reading.eta0)
    return factor <= LAW and reading.state in (stationary.FLAT, stationary.UNDECIDED) and reading.mean > 0


def _cooled(result: FamilyResult) -> list[Row]:
    rows: list[Row] = []
    if result.minimum.interpolates:
        return rows
    both = result.part(COOLED, UNCOOLED)
    for _, got in cooled(result):
        cold, again = over_seeds(got.cold / got.hot), over_seeds(got.again / got.control)
        rows.append(_claim(Claims.COOLING, COLD, cold, REHEATED, both, decided=settled(got)))
        rows.append(_claim(Claims.REHEATING, 1.0, again, REHEATED, both))
    return rows


def _rules(result: FamilyResult) -> list[Row]:
    spread = rule_spread(result)
    if len(spread) < 2 or not all(map(math.isfinite, spread.values())):
        return []
    ratio = spread["square root"] / spread["linear"]
    return [_claim(Claims.ADAM, 0.0, ratio, 1.0, result.part(ADAM))]


def rule_spread(result: FamilyResult) -> Mapping[str, float]:
    """Root mean square of log excess over that at the first batch size, by Adam's rule."""
    readings = result.part(ADAM)
    base = {one.arm.temperature: one.mean for one in readings if not one.arm.rule}
    spread = {}
    for rule in ("linear", "square root"):
        ratios = [one.mean / base[one.arm.temperature] for one in readings if one.arm.rule == rule]
        if ratios:
            with np.errstate(invalid="ignore", divide="ignore"):
                spread[rule] = float(np.sqrt(np.mean(np.log(ratios) ** 2)))
    return spread


def suppression(result: FamilyResult) -> list[float]:
    """Excess loss of shuffled epochs over that of independent batches, rate by rate."""
    base = {one.arm.temperature: one.mean for one in result.part(HEAT)}
    return [one.mean / base[one.arm.temperature] for one in result.part(SHUFFLED)]
