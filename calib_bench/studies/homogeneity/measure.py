"""From stored trials to numbers: each seed's best rate and frontier of failure over beta, and what is tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.result_rows import Row, adjusted, excludes_zero, fields, limits
from calib_bench.core.results import Results
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.dynamics.euler_degree import euler_degree
from calib_bench.inference import Interval, crossed_interval
from calib_bench.metrics import log_loss_n
from calib_bench.studies.homogeneity import nets
from calib_bench.studies.homogeneity.nets import RANGE, Net
from calib_bench.train.initialize import prepare
from calib_bench.train.learning_rate import probe

Array = NDArray[np.float64]

BEST, FAILURE = "best rate", "failure"
EQUIVALENT, MISSED, SUGGESTIVE, INCONCLUSIVE = "equivalent", "established miss", "suggestive miss", "inconclusive"
FRONTIER_MARGIN = math.log(beta_rate_plane.FINE)
"""Largest difference of two log frontiers that does not matter: each is known to within this."""
AGREES = 1e-8
"""Largest difference of the exact control, relative to the largest logit."""


def measure_degree(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """The Euler degree at initialization on a batch of training examples, float64 [1]."""
    x, _ = probe(splits, device)
    return {"degree": torch.tensor([euler_degree(model, prepare(x, trial.precision))], dtype=torch.float64)}


@dataclass(frozen=True)
class Reading:
    """One net over beta, seed by seed.

    Attributes:
        net: what was trained.
        degree_S: the Euler degree at each seed's initialization.
        best_SB, failure_SB: log of the best rate and of the rate where training begins to fail; NaN where a seed's
            best rate stands at the end of the grid, or no failure was found.
        start_SB: the log frontier of the tuning seeds at beta = 1 from initial weights times beta^(1 / L), as the rate
            at beta that it stands for; NaN where it was not asked for.
    """

    net: Net
    degree_S: Array
    best_SB: Array
    failure_SB: Array
    start_SB: Array

    @property
    def degree(self) -> float:
        """The mean over seeds."""
        return float(np.nanmean(self.degree_S))

    @property
    def prediction(self) -> float:
        """The law's slope of log rate over log beta: -2 / L of gradient descent, -1 / L of Adam."""
        return self.net.power / self.degree

    @property
    def log_hom_B(self) -> Array:
        """Log of a rate in lr_hom over the rate itself."""
        return -self.prediction * np.log(self.net.betas)

    def rates(self, quantity: str) -> Array:
        """Log rates [S, B] of a quantity."""
        return self.best_SB if quantity == BEST else self.failure_SB


def read(net: Net, store: Results) -> Reading:
    """The reading of a complete net.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    scores = store.scores(net.grid.select)
    shift_B = np.array([beta_rate_plane.log_unit(store, net.trials(arm)) for arm in net.arms])
    starts = nets.starts(net)
    degrees = [float(store.arrays(start)["degree"][0]) if store.has(start) else math.nan for start in starts]
    score_SBR = np.array(
        [
            [[beta_rate_plane.or_inf(scores(net.at(arm, r, seed))) for r in arm.rates] for arm in net.arms]
            for seed in net.seeds
        ]
    )
    place_SB, edge_SB = beta_rate_plane.parabola_minimum(np.log(net.arms[0].rates), score_SBR)
    brackets = [beta_rate_plane.failure_brackets(nets.frontier(net), arm, scores) for arm in net.arms]
    failure_SB = np.log([[bracket[seed].rate for bracket in brackets] for seed in net.seeds])
    best_SB = np.where(edge_SB, np.nan, place_SB)
    return Reading(net, np.array(degrees), best_SB - shift_B, failure_SB - shift_B, _starts(net, store))


def _starts(net: Net, store: Results) -> Array:
    """The log frontier over the scale of the initial weights, as rates at the beta that each scale stands for."""
    log_SB = np.full((len(net.seeds), len(net.betas)), np.nan)
    scores, grid = store.scores(net.grid.select), nets.of_tuners(net)
    degree = nets.degree_by_name(net.trial.model) or math.nan
    for beta, arm in nets.scaled(net).items():
        brackets = beta_rate_plane.failure_brackets(grid, arm, scores)
        for seed, bracket in brackets.items():
            place = net.seeds.index(seed), net.betas.index(beta)
            log_SB[place] = math.log(bracket.rate) + net.power / degree * math.log(beta)
    return log_SB


def slope_rows(readings: Sequence[Reading], margin: float) -> list[Row]:
    """Slopes over beta of the log best rate and of the log frontier, a row a net, quantity and range of beta.

    `slope` is that of the rate, `slope_hom` that of the rate in lr_hom, which the law says is 0.
    """
    rows = []
    for reading in readings:
        for quantity in (BEST, FAILURE) if reading.net.can_fail else (BEST,):
            for where, in_range in beta_rate_plane.regimes(reading.net.betas).items():
                if where in (RANGE, "all"):
                    rows.append(_slope_row(reading, quantity, where, in_range))
    return judged(rows, "slope_hom", margin, [row for row in rows if row["range"] == RANGE])


def _slope_row(reading: Reading, quantity: str, where: str, in_range: Sequence[int]) -> Row:
    log_SB = reading.rates(quantity)
    kept = [b for b in in_range if np.isfinite(log_SB[:, b]).sum() * 2 > len(log_SB)]
    usable = np.isfinite(log_SB[:, kept]).all(1)
    spread = float(np.nanstd(reading.degree_S, ddof=1)) if len(reading.degree_S) > 1 else 0.0
    row: Row = {**reading.net.name, "rate": quantity, "range": where, "degree": reading.degree, "degree_sd": spread}
    row |= {"betas": len(kept), "seeds": int(usable.sum()), "left_out": int((~usable).sum())}
    row["prediction"] = reading.prediction
    by_name = nets.degree_by_name(reading.net.trial.model)
    row["by_layers"] = reading.net.power / by_name if by_name else math.nan
    if len(kept) < 2 or not usable.any():
        return row
    slope_S = beta_rate_plane.slope(np.log(reading.net.betas)[kept], log_SB[usable][:, kept])
    over_seeds = over(slope_S)
    return row | limits("slope", over_seeds) | fields("slope_hom", over(slope_S - reading.prediction))


def over(value_S: Array) -> Interval:
    """The mean over seeds with its t interval."""
    return crossed_interval(np.asarray(value_S, np.float64)[:, None])


def judged(rows: Sequence[Row], column: str, margin: float, tested: Sequence[Row]) -> list[Row]:
    """The rows with a column `verdict` on whether an estimate is 0, Holm-adjusted over those `tested`, by `rate`."""
    import pandas as pd

    frame = adjusted(pd.DataFrame(list(tested)), *(["rate"] if any("rate" in row for row in tested) else []))
    holms = frame[f"{column}_holm"].tolist() if f"{column}_holm" in frame else [math.nan] * len(tested)
    by_row = {id(row): holm for row, holm in zip(tested, holms, strict=True)}
    out = []
    for row in rows:
        if id(row) in by_row:
            row = {**row, f"{column}_holm": by_row[id(row)]}
            row["verdict"] = verdict(row, column, margin)
        out.append(row)
    return out


def verdict(row: Mapping[str, object], column: str, margin: float) -> str:
    """What an estimate says of a claim that it is 0.

    EQUIVALENT where the 95% interval lies inside (-margin, margin), even if 0 lies outside it; else MISSED where it
    leaves out 0 and Holm's p is below .05, SUGGESTIVE where only the first holds, and INCONCLUSIVE.
    """
    estimate = Estimate.of(row, column)
    if estimate is None or not estimate.is_bounded:
        return INCONCLUSIVE
    if -margin < estimate.low and estimate.high < margin:
        return EQUIVALENT
    if not excludes_zero(row, column):
        return INCONCLUSIVE
    return MISSED if estimate.holm < ALPHA else SUGGESTIVE


def rate_rows(readings: Sequence[Reading]) -> list[Row]:
    """Best rate and frontier at each beta, in lr and in lr_hom: geometric means over seeds."""
    rows = []
    for reading in readings:
        for b, beta in enumerate(reading.net.betas):
            row: Row = {**reading.net.name, "beta": beta}
            for quantity in (BEST, FAILURE):
                log_S = reading.rates(quantity)[:, b]
                log_S = log_S[np.isfinite(log_S)]
                name = quantity.replace(" ", "_")
                row[f"{name}_seeds"] = len(log_S)
                for unit, shift in (("lr", 0.0), ("lr_hom", reading.log_hom_B[b])):
                    row |= _geometric(f"{name}_{unit}", log_S + shift)
            start_S = reading.start_SB[:, b]
            row |= _geometric("scaled_start_lr_hom", start_S[np.isfinite(start_S)] + reading.log_hom_B[b])
            headroom_S = (reading.failure_SB - reading.best_SB)[:, b]
            rows.append(row | _geometric("headroom", headroom_S[np.isfinite(headroom_S)]))
    return rows


def _geometric(name: str, log_S: Array) -> Row:
    """Columns of the geometric mean with its limits; none without a value."""
    if not len(log_S):
        return {}
    interval = over(log_S)
    if math.isnan(interval.low):
        return {name: math.exp(interval.mean)}
    return Estimate.of_interval(interval).exp().limits(name)


def start_rows(readings: Sequence[Reading]) -> list[Row]:
    """The log of the frontier at beta over that at beta = 1 from scaled initial weights, in each seed's mean over beta.

    The law says 0: both are one run, but for biases.
    """
    rows = []
    for reading in readings:
        ratio_SB = reading.failure_SB - reading.start_SB
        ratio_S = [float(row[np.isfinite(row)].mean()) for row in ratio_SB if np.isfinite(row).any()]
        if ratio_S:
            betas = int(np.isfinite(ratio_SB).any(0).sum())
            row: Row = {**reading.net.name, "betas": betas, "seeds": len(ratio_S)}
            largest = float(np.nanmax(np.abs(ratio_SB)))
            rows.append(row | {"largest": largest} | fields("log_ratio", over(np.array(ratio_S))))
    return judged(rows, "log_ratio", FRONTIER_MARGIN, rows)


def exact_rows(complete: Sequence[Net], store: Results) -> list[Row]:
    """The exact control of each net without biases.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    rows = []
    for net in complete:
        pair = nets.exact(net)
        if pair is None or not all(store.state(trial) == "done" for trial in pair):
            continue
        one, other = pair
        z_one = store.logits(one)["test"].double()
        z_other = other.beta * store.logits(other)["test"].double()
        difference = float((z_other - z_one).abs().max() / z_one.abs().max())
        row = {**net.name, "beta": other.beta, "init_scale": other.init_scale, "epochs": one.epochs}
        rows.append(row | {"difference": difference, "passed": difference < AGREES})
    return rows


def regret_rows(readings: Sequence[Reading], store: Results, margin: float) -> list[Row]:
    """Log loss at the carried rate minus that at the rate tuned at each beta, on fresh seeds: `test` and `selection`.

    Both rates are chosen by the same tuning seeds. `same_rate` carries the rate of beta = 1 as it stands in place of
    lr_hom.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    rows = []
    for net in (reading.net for reading in readings):
        if not net.fresh:
            continue
        scores = store.scores(net.grid.select)
        rate = net.carried(scores)
        for arm in (arm for arm in net.arms if arm.trial.beta != 1):
            tuned = [net.at(arm, net.best(arm, scores, net.tuners), seed) for seed in net.fresh]
            carried = [net.at(arm, rate, seed) for seed in net.fresh]
            same = nets.same_rate(net, arm.trial.beta, rate)
            row: Row = {**net.name, "beta": arm.trial.beta, "seeds": len(net.fresh)}
            row["ratio"] = carried[0].lr / tuned[0].lr
            row |= {"failed": _failures(store, carried), "tuned_failed": _failures(store, tuned)}
            row |= fields("test", _difference(store, carried, tuned, "test"))
            row |= limits("selection", _difference(store, carried, tuned, "selection"))
            row |= limits("same_rate", _difference(store, same, tuned, "test"))
            rows.append(row | {"same_rate_failed": _failures(store, same)})
    return [_unless_failed(row) for row in judged(rows, "test", margin, rows)]


def _unless_failed(row: Row) -> Row:
    """The row without equivalence where more carried runs failed than tuned ones: the losses do not count those."""
    if row["verdict"] == EQUIVALENT and row["failed"] > row["tuned_failed"]:
        return {**row, "verdict": INCONCLUSIVE}
    return row


def _failures(store: Results, trials: Sequence[Trial]) -> int:
    return sum(store.fate(trial) in ("diverged", "dead") for trial in trials)


def _difference(store: Results, ones: Sequence[Trial], others: Sequence[Trial], split: str) -> Interval:
    """Log loss of the ones minus that of the others, crossed over the seeds at which both ended with finite logits."""
    d_SN = [
        _losses(store, one, split) - _losses(store, other, split)
        for one, other in zip(ones, others, strict=True)
        if store.state(one) == store.state(other) == "done"
    ]
    if not d_SN:
        return Interval(math.nan, math.nan, math.nan, 0, 0, math.nan, math.nan, "none: no seed ended")
    return crossed_interval(np.array(d_SN))


def _losses(store: Results, trial: Trial, split: str) -> Array:
    z_NK = store.logits(trial)[split].double()
    return np.asarray(log_loss_n((trial.beta * z_NK).log_softmax(-1), store.labels(trial)[split]))


def saddle_rows(readings: Sequence[Reading], store: Results) -> list[Row]:
    """How long each beta takes to leave its start at the carried rate.

    `steps`: updates until the selection loss has halved from that of guessing, geometric means over the seeds that get
    there; `share`: of the run. `growth` is the slope of log steps over log s, s = beta^(1 / L), in the judged range;
    leaving a saddle at zero of an L-homogeneous net takes gradient descent steps that grow as s^-(L - 2), where
    gradients vanish. At L = 2 they grow as log 1 / s and at L = 1 zero is no saddle: the power is 0, as it is for Adam,
    whose steps do not shrink with the gradient.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    rows = []
    for reading in readings:
        net = reading.net
        rate = net.carried(store.scores(net.grid.select))
        log_SB = np.log([[_steps(net, store, net.at(arm, rate, seed)) for arm in net.arms] for seed in net.seeds])
        last = _total_steps(net, store)
        in_range = beta_rate_plane.regimes(net.betas)[RANGE]
        usable = np.isfinite(log_SB[:, in_range]).all(1)
        growth: Row = {"law": min(2 - reading.degree, 0.0) if net.trial.optimizer == "sgd" else 0.0}
        if usable.any():
            log_scale = np.log(net.betas)[in_range] / reading.degree
            growth |= limits("growth", over(beta_rate_plane.slope(log_scale, log_SB[usable][:, in_range])))
        for b, beta in enumerate(net.betas):
            log_S = log_SB[np.isfinite(log_SB[:, b]), b]
            row: Row = {**net.name, "beta": beta, "scale": beta ** (1 / reading.degree), "degree": reading.degree}
            row |= {"seeds": len(net.seeds), "never": len(net.seeds) - len(log_S)} | _geometric("steps", log_S)
            row["share"] = math.exp(float(log_S.mean())) / last if len(log_S) else math.nan
            rows.append(row | growth)
    return rows


def _steps(net: Net, store: Results, trial: Trial) -> float:
    """Updates until the selection loss has halved from that of guessing, between rows of the history; NaN if never."""
    if not store.has(trial):
        return math.nan
    history = store.history(trial)
    loss_T, step_T = (history[name].to_numpy(np.float64) for name in ("selection_log_loss", "step"))
    low = np.flatnonzero(loss_T < beta_rate_plane.guess(net.grid) / 2)
    if not len(low):
        return math.nan
    t = int(low[0])
    if t == 0:
        return max(float(step_T[0]), 1.0)
    half = beta_rate_plane.guess(net.grid) / 2
    if not math.isfinite(loss_T[t - 1]):
        return float(step_T[t])
    part = (loss_T[t - 1] - half) / (loss_T[t - 1] - loss_T[t])
    return max(float(step_T[t - 1] + part * (step_T[t] - step_T[t - 1])), 1.0)


def _total_steps(net: Net, store: Results) -> float:
    """Updates of a whole run; NaN where none is stored."""
    done = next((trial for arm in net.arms for trial in net.trials(arm) if store.state(trial) == "done"), None)
    return float(store.record(done).metadata["steps"]) if done else math.nan
