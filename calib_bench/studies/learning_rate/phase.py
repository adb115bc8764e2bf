"""The phase plane of beta and the learning rate: its ridge, where the selection score is best, and its frontier.

In three units: the rate eta itself, the effective rate beta^2 eta, at which beta drops out of lazy learning but for
the initial logits, and the relative rate eta lambda_max(H0) / 2, whose unit is gradient descent's critical rate
(Agarwala et al., 2023, arXiv 2010.07344). With zero initial logits lambda_max is proportional to beta for small beta
and to beta^2 for large, so that the critical rate's slopes over beta are -1 and -2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calib_bench import registry
from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.inference import Interval, Resampled, collapsed, percentile, resampled_means
from calib_bench.inference import rate as share_interval
from calib_bench.inference.arrays import Array
from calib_bench.metrics import log_loss_n
from calib_bench.planning import tuning
from calib_bench.train.learning_rate import curvature

PROBE = "learning_rate/curvature"
UNITS = ("lr", "lr_eff", "lr_rel")
RATES = RIDGE, FRONTIER, CRITICAL = "best rate", "failure", "critical rate"
LIMIT = "2 (1 + momentum) / lambda_max"
THEORY = {"beta <= 0.1": -1.0, "beta >= 1": -2.0}
"""Slopes of the critical rate 2 (1 + momentum) / lambda_max at zero initial logits, by range of beta."""


def start_of(grid: Grid, template: Trial, seed: int) -> Trial | None:
    """The trial of no epochs that stores lambda_max, for a rate whose unit leaves it out; None where it has no meaning.

    It is gradient descent's.
    """
    if template.lr_unit == "lr_rel" or template.optimizer != "sgd":
        return None
    start_template = template.model_copy(update={"epochs": 0, "warmup": 0.0, "lr_unit": "lr", "probe": PROBE})
    return tuning.trial_at(grid, start_template, 1.0, seed)


def measure_curvature(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """lambda_max at initialization and whether it converged, float64 [2]."""
    value, converged = curvature(trial, model, splits, device, registry.objectives())
    return {"lambda_max": torch.tensor([value, float(converged)], dtype=torch.float64)}


@dataclass(frozen=True)
class Phase:
    """One family and objective over beta and rate.

    Attributes:
        name: columns that name it.
        unit: of `rates`, the grid's.
        betas: ascending.
        rates: of the grid, ascending.
        score_BR: mean selection score over seeds, inf where one diverged.
        failed_BR: share of seeds that failed.
        log_lambda_SB: log lambda_max(H0); NaN where it is not known.
        log_frontier_SB: log of the rate where training begins to fail, in `unit`; NaN where that was not found.
        found: means of the selection loss in every cell, then of log_lambda and log_frontier, resampled together.
        unconverged: how many of lambda_max did not converge.
        momentum: of the heavy ball, 0 of plain gradient descent.
        log_hom_B: log of a rate in lr_hom over the rate itself, where `unit` is that.
        lost_B: of the seeds at the best rate of the grid, how many failed or collapsed (`inference.collapsed`).
    """

    name: Row
    unit: str
    betas: tuple[float, ...]
    rates: tuple[float, ...]
    score_BR: Array
    failed_BR: Array
    log_lambda_SB: Array
    log_frontier_SB: Array
    found: Resampled
    unconverged: int
    momentum: float = 0.0
    log_hom_B: tuple[float, ...] = ()
    lost_B: tuple[int, ...] = ()

    @property
    def relative(self) -> bool:
        """Whether the critical rate is known."""
        return bool(np.isfinite(self.log_lambda_SB).any())

    def _parts(self, means: Array) -> tuple[Array, Array, Array]:
        """Cells [..., B, R], log lambda [..., B] and log frontier [..., B] of means [A] or resamples [n, A]."""
        B, R = len(self.betas), len(self.rates)
        cells, rest = means[..., : B * R], means[..., B * R :]
        return cells.reshape(*means.shape[:-1], B, R), rest[..., :B], rest[..., B:]

    def log_rates(self, what: str, unit: str, means: Array) -> Array:
        """Log of the best rate, of the frontier or of the critical rate, in a unit: [..., B], not finite where unknown.

        The critical rate is 2 (1 + momentum) / lambda_max, up to which the heavy ball does not diverge on a quadratic
        (Polyak, 1964, doi 10.1016/0041-5553(64)90137-5); the unit lr_rel stays that of plain gradient descent.

        Args:
            means: `found.means_A` or `found.drawn_BA`.
        """
        cells, log_lambda, frontier = self._parts(means)
        log_critical = math.log(2) - log_lambda
        if what == CRITICAL:
            raw = log_critical + math.log1p(self.momentum)
        else:
            ridge = beta_rate_plane.parabola_minimum(np.log(self.rates), cells)[0]
            raw = (frontier if what == FRONTIER else ridge) - self._shift(self.unit, log_critical)
        with np.errstate(invalid="ignore"):  # a rate that is not known, in units of one that is not
            return raw + self._shift(unit, log_critical)

    def _shift(self, unit: str, log_critical: Array) -> Array:
        """Log of a unit's rate over the raw one."""
        if unit == "lr_rel":
            return -log_critical
        if unit == "lr_hom":
            return np.zeros_like(log_critical) + self.log_hom_B
        return np.zeros_like(log_critical) + (2 * np.log(self.betas) if unit == "lr_eff" else 0.0)

    def inside(self) -> list[bool]:
        """By beta, whether the best rate has a worse one on either side."""
        cells = self._parts(self.found.means_A)[0]
        return (~beta_rate_plane.parabola_minimum(np.log(self.rates), cells)[1]).tolist()

    def rows(self) -> list[Row]:
        """One row a beta: each of the three rates in each unit, with limits, and the frontier over the best rate.

        `collapsed` is the share of seeds that failed or collapsed at the best rate, with exact limits; no column where
        none did.
        """
        rows: list[Row] = [
            {**self.name, "beta": beta, "seeds": self.found.n_seeds, "inside": inside}
            for beta, inside in zip(self.betas, self.inside(), strict=True)
        ]
        for rate, unit in itertools.product(RATES, UNITS):
            self._add_intervals(rows, column(rate, unit), *self._both(rate, unit))
        failing, best = self._both(FRONTIER, self.unit), self._both(RIDGE, self.unit)
        self._add_intervals(rows, "headroom", failing[0] - best[0], failing[1] - best[1])
        for row, lost in zip(rows, self.lost_B, strict=False):
            if lost:
                row |= fields("collapsed", share_interval(lost, self.found.n_seeds))
                row["collapsed_trials"] = f"{lost} of {self.found.n_seeds}"
        return rows

    def _both(self, what: str, unit: str) -> tuple[Array, Array]:
        """`log_rates` of the means [B] and of their resamples [n, B]."""
        return self.log_rates(what, unit, self.found.means_A), self.log_rates(what, unit, self.found.drawn_BA)

    def _add_intervals(self, rows: Sequence[Row], name: str, log_B: Array, drawn: Array) -> None:
        """Adds columns of exp of logarithms with their limits to rows of the betas; none where one is not finite."""
        for b, row in enumerate(rows):
            if math.isfinite(log_B[b]):
                interval = percentile(float(log_B[b]), drawn[:, b], self.found)
                row |= Estimate.of_interval(interval).exp().limits(name)

    def slopes(self) -> list[Row]:
        """Log-log slopes over beta, one row a range of beta, rate and unit: with limits, p of 0, and the theory's.

        Those of the best rate have a column TWO_KINDS where some seeds collapsed at one of the best rates, not all.
        """
        rows = []
        for rate, unit in itertools.product(RATES, UNITS):
            if (rate, unit) == (CRITICAL, "lr_rel"):
                continue
            means, drawn = self._both(rate, unit)
            usable = np.isfinite(means) & (np.array(self.inside()) | (rate != RIDGE))
            for where, in_range in beta_rate_plane.regimes(self.betas).items():
                kept = [b for b in in_range if usable[b]]
                if len(kept) >= 2:
                    row = {**self.name, "rate": rate, "unit": unit, "range": where, "betas": len(kept)}
                    row |= self._kinds(rate, kept) | {"left_out": len(in_range) - len(kept)}
                    row |= fields("slope", self._slope(means, drawn, kept))
                    rows.append(row | _theory(rate, unit, where))
        return rows

    def _kinds(self, rate: str, kept: Sequence[int]) -> Row:
        """A column TWO_KINDS where some, not all, seeds collapsed at the best rate of one of the betas `kept`."""
        mixed = any(0 < self.lost_B[b] < self.found.n_seeds for b in kept if b < len(self.lost_B))
        return {TWO_KINDS: "these betas"} if rate == RIDGE and mixed else {}

    def _slope(self, means: Array, drawn: Array, kept: Sequence[int]) -> Interval:
        """The log-log slope over the betas `kept` of log rates [B] and of their resamples [n, B]."""
        x = np.log(self.betas)[kept]
        slope, slopes = (beta_rate_plane.slope(x, log_rates[..., kept]) for log_rates in (means, drawn))
        return percentile(float(slope), slopes, self.found)

    def cells(self) -> list[Row]:
        """One row a cell: rates in the three units (geometric means over seeds), score, share of seeds that failed."""
        log_critical = math.log(2) - self._parts(self.found.means_A)[1]
        out = []
        for b, beta in enumerate(self.betas):
            for r, rate in enumerate(self.rates):
                row: Row = {**self.name, "beta": beta}
                for unit in UNITS:
                    log = math.log(rate) - self._shift(self.unit, log_critical)[b] + self._shift(unit, log_critical)[b]
                    row[unit] = rate if unit == self.unit else math.exp(log) if math.isfinite(log) else math.nan
                out.append(row | {"score": self.score_BR[b, r], "failed": self.failed_BR[b, r]})
        return out


def _theory(rate: str, unit: str, where: str) -> Row:
    """A column with the slope that the theory gives the frontier and the critical rate, where it gives one."""
    if rate == RIDGE or where not in THEORY:
        return {}
    return {"theory": THEORY[where] + {"lr": 0, "lr_eff": 2, "lr_rel": -THEORY[where]}[unit]}


def column(what: str, unit: str) -> str:
    """The column of a rate in a unit."""
    return f"{what.replace(' ', '_')}_{unit}"


def read(grid: Grid, store: Results, arms: Sequence[tuning.Arm], name: Row, nested: bool) -> Phase:
    """The plane of arms that differ in beta alone, every seed of which has a score at every rate of the grid.

    Args:
        settings: as of `beta_rate_plane.all_seeds`.
        store: holds the trials.
        arms: one a beta, in any order.
        name: columns that name the plane.
        nested: each seed has its own selection examples.
    """
    arms = sorted(arms, key=lambda arm: arm.trial.beta)
    rates = arms[0].rates
    scores, failed = store.scores(grid.select), beta_rate_plane.is_failed(grid)
    trials_SBR = _grid(grid, arms, rates)
    measured = [[[beta_rate_plane.or_inf(scores(trial)) for trial in row] for row in plane] for plane in trials_SBR]
    score_SBR = np.array(measured, float)
    failed_SBR = np.array([[[failed(score) for score in row] for row in plane] for plane in measured])
    log_lambda_SB, unconverged = _log_lambdas(grid, store, trials_SBR)
    log_frontier_SB = _log_frontiers(grid, store, arms)
    values_SNA = _values(grid, store, trials_SBR, score_SBR, nested)
    return Phase(
        name=name,
        unit=arms[0].trial.lr_unit,
        betas=tuple(arm.trial.beta for arm in arms),
        rates=rates,
        score_BR=score_SBR.mean(0),
        failed_BR=failed_SBR.mean(0),
        log_lambda_SB=log_lambda_SB,
        log_frontier_SB=log_frontier_SB,
        found=resampled_means(values_SNA, np.concatenate([log_lambda_SB, log_frontier_SB], 1)),
        unconverged=unconverged,
        momentum=arms[0].trial.momentum,
        log_hom_B=tuple(_log_hom(store, [row[b] for row in trials_SBR]) for b in range(len(arms))),
        lost_B=tuple(_lost(score_SBR[:, b], failed_SBR[:, b], grid) for b in range(len(arms))),
    )


def _log_hom(store: Results, trials_SR: Sequence[Sequence[Trial]]) -> float:
    """Log of a rate in lr_hom over the rate itself at one beta; NaN where no trial is stored or the unit is another."""
    trials = itertools.chain.from_iterable(trials_SR)
    return beta_rate_plane.log_unit(store, (trial for trial in trials if trial.lr_unit == "lr_hom"))


def _grid(grid: Grid, arms: Sequence[tuning.Arm], rates: Sequence[float]) -> list[list[list[Trial]]]:
    """Every trial of the plane, by seed, arm and rate."""
    return [[[tuning.trial_at(grid, arm.trial, rate, seed) for rate in rates] for arm in arms] for seed in grid.seed]


def _log_frontiers(grid: Grid, store: Results, arms: Sequence[tuning.Arm]) -> Array:
    """Log of the rate where training begins to fail, [S, B]; NaN where that was not found."""
    scores = store.scores(grid.select)
    frontiers = [beta_rate_plane.failure_brackets(grid, arm, scores) for arm in arms]
    return np.log(np.array([[frontier[seed].rate for frontier in frontiers] for seed in grid.seed]))


def _log_lambdas(grid: Grid, store: Results, trials_SBR: list[list[list[Trial]]]) -> tuple[Array, int]:
    """log lambda_max at every start, [S, B], and how many of them had not converged."""
    lambdas = [[_lambda(grid, store, rate_trials[0]) for rate_trials in plane] for plane in trials_SBR]
    unconverged = sum(not converged for row in lambdas for _, converged in row)
    return np.log(np.array([[value for value, _ in row] for row in lambdas])), unconverged


def _lost(score_SR: Array, failed_SR: NDArray[np.bool_], grid: Grid) -> int:
    """How many seeds failed or collapsed at one beta's best rate of the grid."""
    best = int(score_SR.mean(0).argmin())
    collapsed_S = collapsed(score_SR[:, best], beta_rate_plane.guess(grid), largest=False)
    return int((np.asarray(collapsed_S, bool) | failed_SR[:, best]).sum())


def _values(grid: Grid, store: Results, trials_SBR: list[list[list[Trial]]], score_SBR: Array, nested: bool) -> Array:
    """What the selection score is the mean of, [S, N, B R]; only means, N = 1, where seeds' examples differ.

    A finite score worse than that of guessing counts as that: draws widen the spread over seeds about the mean, so that
    one huge score would take some draws of a rate at which all fail below those of the best.
    """
    S, B, R = score_SBR.shape
    worst = beta_rate_plane.guess(grid)
    if nested or grid.select == "repaired_log_loss":
        return np.where(np.isfinite(score_SBR), np.minimum(score_SBR, worst), score_SBR).reshape(S, 1, B * R)
    trials_SA = [list(itertools.chain.from_iterable(plane)) for plane in trials_SBR]
    stored = next(trial for trial in itertools.chain.from_iterable(trials_SA) if store.has(trial))
    y_N = store.labels(stored)["selection"]
    values = np.full((S, len(y_N), B * R), np.inf)
    for s, trials_A in enumerate(trials_SA):
        for a, trial in enumerate(trials_A):
            score = score_SBR[s].flat[a]
            if score <= worst:
                values[s, :, a] = _example_scores(trial, store.logits(trial)["selection"], y_N, grid.select)
            elif math.isfinite(score):
                values[s, :, a] = worst
    return values


def _example_scores(trial: Trial, z_NK: Tensor, y_N: Tensor, select: str) -> Array:
    if select == "error":
        return np.asarray((z_NK.argmax(-1) != y_N).double())
    return np.asarray(log_loss_n((trial.beta * z_NK.double()).log_softmax(-1), y_N))


def _lambda(grid: Grid, store: Results, trial: Trial) -> tuple[float, bool]:
    """lambda_max of a trial's start and whether it converged; NaN where it is not known."""
    if trial.lr_unit == "lr_rel":
        facts = store.record(trial).metadata if store.has(trial) else {}
        value = facts.get("lambda_max")
        return (math.nan, True) if value is None else (float(value), bool(facts["lambda_max_converged"]))
    start = start_of(grid, trial, trial.seed)
    if start is None or not store.has(start):
        return math.nan, True
    value, converged = store.arrays(start).get("lambda_max", np.array([math.nan, 1.0]))
    return (float(value), bool(converged)) if value > 0 else (math.nan, True)
