"""Drawings of the study of SGD's temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.core.study import Analysis
from calib_bench.dynamics import stationary
from calib_bench.report.drawing import WIDTH, empty_figure, figure_legend, plain, shades
from calib_bench.report.panels import new_figure
from calib_bench.studies.sgd_temperature import rows as measured_rows
from calib_bench.studies.sgd_temperature.arms import ADAM, BATCHES, COOLED, COOLING, HEAT, MOMENTA, SHUFFLED, UNCOOLED
from calib_bench.studies.sgd_temperature.read import Reading
from calib_bench.studies.sgd_temperature.result import TemperatureResult
from calib_bench.studies.sgd_temperature.rows import FamilyResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Key = tuple[str, dict[str, Any]]
NO_RUN = "No run has lasted long enough to be judged."
NOTHING_VARIED = "No batch size or momentum was varied: give several of batch= or momentum=."
NOT_COOLED = "No run in which the rate is lowered has finished."
NO_ADAM = "Adam was not trained: give optimizer=sgd,adam."
NO_GIBBS = "The one-parameter model has not finished."
UNIT = "eta0 = rate / ((1 - momentum) B)"


def heat(analysis: Analysis) -> Figure:
    """Excess loss over eta0, a panel a family: independent batches, shuffled epochs, and the heat capacity's line,
    along which points lie where eta0 is a temperature.
    """
    families = [
        one for one in TemperatureResult.of(analysis).families if any(math.isfinite(r.mean) for r in one.part(HEAT))
    ]
    if not families:
        return empty_figure(NO_RUN)
    figure, axes = _panels(len(families), 3.4)
    for one, axis in zip(families, axes, strict=False):
        _capacity_line(axis, one)
        for part, look in ((HEAT, _look(0, "o")), (SHUFFLED, _look(1, "s"))):
            readings = _settled(one.part(part))
            _excess(axis, readings, [reading.eta0 for reading in readings], look)
        axis.set(xscale="log", yscale="log", xlabel=UNIT, ylabel="excess loss (nats)")
        note = ", fits every label: capacity 0" if one.minimum.interpolates else ""
        axis.set_title(f"{_title(one)}{note}", loc="left")
        _plain(axis)
    keys = [("independent batches", _look(0, "o")), ("shuffled epochs", _look(1, "s"))]
    keys.append((f"capacity x eta0, within {measured_rows.SLOPE:.0%}", {"color": "k", "linewidth": 1}))
    keys.append(("no plateau", {"color": "0.3", "marker": "o", "fillstyle": "none", "linestyle": "none"}))
    figure_legend(figure, keys)
    return figure


def _capacity_line(axis: Axes, one: FamilyResult) -> None:
    """What theory gives, with its tolerance, where there is a minimum to which it applies."""
    if one.minimum.interpolates or not one.minimum.converged:
        return
    heats = np.array([reading.eta0 for reading in one.part(HEAT)])
    fine = np.geomspace(heats.min() / 1.3, heats.max() * 1.3, 50)
    line, tolerance = one.minimum.capacity * fine, measured_rows.SLOPE
    axis.plot(fine, line, color="k", linewidth=1)
    axis.fill_between(fine, line * (1 - tolerance), line * (1 + tolerance), color="0.5", alpha=0.25, lw=0)


def collapse(analysis: Analysis) -> Figure:
    """Excess loss in units of capacity times eta0, over batch size and over momentum, a shade a temperature: level at 1
    where theory holds.
    """
    families = [
        one
        for one in TemperatureResult.of(analysis).families
        if one.part(BATCHES, MOMENTA) and one.minimum.capacity > 0
    ]
    if not families:
        return empty_figure(NOTHING_VARIED)
    figure, axes = _panels(2 * len(families), 3.4)
    for one, pair in zip(families, axes.reshape(-1, 2), strict=False):
        colors = shades(r.arm.temperature for r in one.part(HEAT))
        for axis, part in zip(pair, (BATCHES, MOMENTA), strict=True):
            _collapse_panel(axis, one, part, colors)
        pair[0].set(xscale="log", xlabel="batch size B at fixed eta0")
        plain(pair[0].xaxis)
        pair[1].set_xlabel("momentum at fixed eta0")
        pair[0].set_title(_title(one), loc="left")
        pair[1].sharey(pair[0])
        plain(pair[0].yaxis)
    keys = [(f"eta0 = {heat:.3g}", {"color": color, "marker": "o"}) for heat, color in colors.items()]
    keys.append(("theory at finite rates", {"color": "0.3", "linewidth": 1, "linestyle": "--"}))
    keys.append((f"within {measured_rows.COLLAPSE:.0%}", {"color": "0.5", "alpha": 0.4, "linewidth": 6}))
    figure_legend(figure, keys)
    return figure


def _collapse_panel(axis: Axes, one: FamilyResult, part: str, colors: Mapping[float, Any]) -> None:
    """Excess loss in units of capacity times eta0 over batch size, with theory at finite rates, or over momentum."""
    batches = [r.batch for r in one.part(HEAT, BATCHES)]
    fine = np.geomspace(min(batches) / 1.3, max(batches) * 1.5, 60)
    for first in one.part(HEAT):
        color = colors[first.arm.temperature]
        varied = [r for r in one.part(part) if r.arm.temperature == first.arm.temperature]
        readings = sorted(_settled([first, *varied]), key=lambda r: (r.batch, r.arm.trial.momentum))
        at = [float(r.batch) if part == BATCHES else r.arm.trial.momentum for r in readings]
        scale = [1 / (one.minimum.capacity * r.eta0) for r in readings]
        _excess(axis, readings, at, {"color": color, "marker": "o", "linestyle": "none"}, scale)
        if part == BATCHES:
            momentum, curvature = one.family.arms[0].trial.momentum, one.minimum.noise_curvature
            theory = [stationary.finite_rate(first.eta0, batch, momentum, curvature) for batch in fine]
            axis.plot(fine, theory, color=color, linewidth=1, linestyle="--")
    ratios = [r.mean / (one.minimum.capacity * r.eta0) for r in _settled(one.part(HEAT, BATCHES, MOMENTA))]
    axis.axhspan(1 - measured_rows.COLLAPSE, 1 + measured_rows.COLLAPSE, color="0.5", alpha=0.2, lw=0)
    axis.axhline(1, color="k", linewidth=0.8)
    top = max(2.0, 1.3 * max(ratios, default=0.0))
    axis.set(ylabel="excess loss / (capacity x eta0)", yscale="log", ylim=(0.5, top))


def _settled(readings: Sequence[Reading]) -> list[Reading]:
    """The readings that have an excess loss to draw on a log axis."""
    return [reading for reading in readings if reading.mean > 0]


def cooling(analysis: Analysis) -> Figure:
    """Excess loss over epochs while the rate is lowered and restored, seeds and their mean: it follows the rate where
    the loss depends on the temperature alone.
    """
    cooled = [(one, r) for one in TemperatureResult.of(analysis).families for r in one.part(COOLED) if len(r.loss)]
    if not cooled:
        return empty_figure(NOT_COOLED)
    figure, axes = _panels(len(cooled), 3.1)
    for (one, reading), axis in zip(cooled, axes, strict=False):
        _uncooled(axis, one)
        excess = reading.loss - one.minimum.objective
        shown = reading.epochs > 0
        axis.plot(reading.epochs[shown], excess[:, shown].T, color="C0", linewidth=0.5, alpha=0.35)
        axis.plot(reading.epochs[shown], excess[:, shown].mean(0), color="C0")
        last = reading.epochs[-1]
        axis.axvspan(last / 3, 2 * last / 3, color="C5", alpha=0.2, lw=0)
        factors = [float(text) for text in COOLING.split("_")[1:]]
        if not one.minimum.interpolates:
            _levels(axis, one.minimum.capacity * reading.eta0, factors, last)
        axis.set(yscale="log", xlabel="epoch", ylabel="excess loss (nats)")
        axis.set_title(f"{_title(one)}, eta0 = {reading.eta0:.3g}", loc="left")
        plain(axis.yaxis)
    band = {"color": "C5", "alpha": 0.4, "linewidth": 6}
    never, theory = ({"color": color, "linewidth": 1} for color in ("C1", "k"))
    keys: list[Key] = [("never cooled, mean", never), (f"rate x {factors[1]:g}", band), ("capacity x eta0", theory)]
    figure_legend(figure, [("seeds and their mean", {"color": "C0"}), *keys])
    return figure


def _uncooled(axis: Axes, one: FamilyResult) -> None:
    for control in one.part(UNCOOLED):
        if len(control.loss):
            mean = (control.loss - one.minimum.objective).mean(0)
            axis.plot(control.epochs[1:], mean[1:], color="C1", linewidth=1)


def _levels(axis: Axes, hot: float, factors: Sequence[float], last: float) -> None:
    """What theory gives in each third of a run: `hot` times the factor of the rate."""
    for third, factor in enumerate(factors):
        level = hot * factor
        axis.plot([third * last / 3, (third + 1) * last / 3], [level, level], color="k", linewidth=1)


def adam(analysis: Analysis) -> Figure:
    """Adam's excess loss over batch size under two rules for its rate, a shade a rate: the rule whose curves are level
    keeps the temperature.
    """
    families = [one for one in TemperatureResult.of(analysis).families if any(r.mean > 0 for r in one.part(ADAM))]
    if not families:
        return empty_figure(NO_ADAM)
    figure, axes = _panels(len(families), 3.4)
    for one, axis in zip(families, axes, strict=False):
        colors = _adam_panel(axis, one)
    keys = [(f"Adam, rate {rate:.3g} at the first B", {"color": color}) for rate, color in colors.items()]
    keys += [(f"{rule} in B", look | {"color": "0.3"}) for rule, look in RULES.items()]
    figure_legend(figure, keys)
    return figure


RULES: dict[str, dict[str, Any]] = {
    "linear": {"linestyle": "--", "marker": "s"},
    "square root": {"linestyle": "-", "marker": "o"},
}
"""How the rate of Adam follows the batch size, and the look of its line."""


def _adam_panel(axis: Axes, one: FamilyResult) -> dict[float, Any]:
    """A family's curves; returns the shades of the rates."""
    colors = shades(r.arm.temperature for r in one.part(ADAM))
    for rate, color in colors.items():
        _adam_rate(axis, [r for r in _settled(one.part(ADAM)) if r.arm.temperature == rate], color)
    axis.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="excess loss (nats)")
    axis.set_title(_title(one), loc="left")
    _plain(axis)
    return colors


def _adam_rate(axis: Axes, readings: list[Reading], color: Any) -> None:
    """Readings of one rate at the first batch size, a line a rule."""
    for rule, look in RULES.items():
        line = [reading for reading in readings if reading.arm.rule in ("", rule)]
        _excess(axis, line, [float(reading.batch) for reading in line], look | {"color": color})


def gibbs(analysis: Analysis) -> Figure:
    """Histograms of the one-parameter model beside their Gibbs densities and the normal ones: bars follow the density
    that describes SGD.
    """
    densities = TemperatureResult.of(analysis).densities
    if not densities:
        return empty_figure(NO_GIBBS)
    figure, axes = _panels(len(densities), 2.7)
    for one, axis in zip(densities, axes, strict=False):
        low, high = np.quantile(one.samples, [0.0005, 0.9995])
        low, high = low - 0.15 * (high - low), high + 0.15 * (high - low)
        axis.hist(one.samples.ravel(), bins=40, range=(low, high), density=True, color="C0", alpha=0.35, linewidth=0)
        inside = (one.x >= low) & (one.x <= high)
        axis.plot(one.x[inside], one.density[inside], color="C1")
        axis.plot(one.x[inside], one.gaussian[inside], color="k", linewidth=1, linestyle=":")
        axis.set_xlabel("parameter s")
        axis.set_title(f"eta0 = {one.eta0:g}, distance {one.fit.distance:.3f}", loc="left")
    axes[0].set_ylabel("density")
    normal = {"color": "k", "linewidth": 1, "linestyle": ":"}
    keys: list[Key] = [("exp(-2L / (eta0 s2))", {"color": "C1"}), ("normal, of the minimum's curvature", normal)]
    figure_legend(figure, [("SGD", {"color": "C0", "alpha": 0.4, "linewidth": 6}), *keys])
    return figure


def _title(one: FamilyResult) -> str:
    trial = one.family.minimum
    return f"{trial.model}" + (f", beta={trial.beta:g}" if trial.beta != 1 else "")


def _panels(count: int, height: float) -> tuple[Figure, Any]:
    """Panels in rows of at most four, two at least to a row's width."""
    across = min(count, 4)
    down = math.ceil(count / across)
    figure, axes = new_figure(WIDTH if across > 1 else WIDTH / 2 + 1, height * down, down, across)
    return figure, axes.ravel()


def _look(number: int, marker: str) -> dict[str, Any]:
    return {"color": f"C{number}", "marker": marker, "linestyle": "none"}


def _excess(
    axis: Axes, readings: list[Reading], at: list[float], look: dict[str, Any], scale: list[float] | None = None
) -> None:
    """Means with their intervals; hollow where there is no plateau."""
    by = scale or [1.0] * len(readings)
    intervals = [measured_rows.over_seeds(r.excess * f) for r, f in zip(readings, by, strict=True)]
    means = [one.mean for one in intervals]
    axis.plot(at, means, **look | {"marker": ""})
    for reading, x, one in zip(readings, at, intervals, strict=True):
        fill = "none" if reading.state == stationary.DRIFTS else "full"
        axis.plot([x], [one.mean], **look | {"linestyle": "none", "fillstyle": fill})
        if math.isfinite(one.low):
            axis.plot([x, x], [max(one.low, one.mean / 20), one.high], color=look["color"], linewidth=0.9, alpha=0.6)


def _plain(axis: Axes) -> None:
    plain(axis.xaxis)
    plain(axis.yaxis)
