"""The phase plane of beta and the learning rate: its ridge, where the selection score is best, and its frontier.

In three units: the rate eta itself, the effective rate beta^2 eta, at which beta drops out of lazy learning but for
the initial logits, and the relative rate eta lambda_max(H0) / 2, whose unit is gradient descent's critical rate
(Agarwala et al., 2023, arXiv 2010.07344). With zero initial logits lambda_max is proportional to beta for small beta
and to beta^2 for large, so that the critical rate's slopes over beta are -1 and -2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench import registry
from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.inference import Interval, Resampled, collapsed, percentile, resampled_means
from calib_bench.inference import rate as share_interval
from calib_bench.metrics import log_loss_n
from calib_bench.planning import tuning
from calib_bench.train.learning_rate import curvature

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Array = NDArray[np.float64]

PROBE = "learning_rate/curvature"
UNITS = ("lr", "lr_eff", "lr_rel")
RIDGE, FRONTIER, CRITICAL = "best rate", "failure", "critical rate"
LIMIT = "2 (1 + momentum) / lambda_max"
THEORY = {"beta <= 0.1": -1.0, "beta >= 1": -2.0}
"""Slopes of the critical rate 2 (1 + momentum) / lambda_max at zero initial logits, by range of beta."""


def all_seeds(settings: Settings) -> Settings:
    """The settings with every seed in every cell of the plane."""
    return settings.model_copy(update={"tune_seeds": len(settings.seed or ()) or None})


def start_of(settings: Settings, template: Trial, seed: int) -> Trial | None:
    """The trial of no epochs that stores lambda_max, for a rate whose unit leaves it out; None where it has no meaning.

    It is gradient descent's.
    """
    if template.lr_unit == "lr_rel" or template.optimizer != "sgd":
        return None
    start_template = template.model_copy(update={"epochs": 0, "warmup": 0.0, "lr_unit": "lr", "probe": PROBE})
    return tuning.trial_at(settings, start_template, 1.0, seed)


def measure_curvature(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """lambda_max at initialization and whether it converged, float64 [2]."""
    import torch

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
            in_grid_unit = (
                frontier if what == FRONTIER else beta_rate_plane.parabola_minimum(np.log(self.rates), cells)[0]
            )
            raw = in_grid_unit - self._shift(self.unit, log_critical)
        with np.errstate(invalid="ignore"):  # a rate that is not known, in units of one that is not
            return raw + self._shift(unit, log_critical)

    def _shift(self, unit: str, log_critical: Array) -> Array:
        """Log of a unit's rate over the raw one."""
        if unit == "lr_rel":
            return -log_critical
        return np.zeros_like(log_critical) + (2 * np.log(self.betas) if unit == "lr_eff" else 0.0)

    def inside(self) -> list[bool]:
        """By beta, whether the best rate has a worse one on either side."""
        return [
            not edge
            for edge in beta_rate_plane.parabola_minimum(np.log(self.rates), self._parts(self.found.means_A)[0])[
                1
            ].tolist()
        ]

    def rows(self) -> list[Row]:
        """One row a beta: each of the three rates in each unit, with limits, and the frontier over the best rate.

        `collapsed` is the share of seeds that failed or collapsed at the best rate, with exact limits; no column where
        none did.
        """

        out: list[Row] = [
            {**self.name, "beta": beta, "seeds": self.found.n_seeds, "inside": inside}
            for beta, inside in zip(self.betas, self.inside(), strict=True)
        ]
        for what in (RIDGE, FRONTIER, CRITICAL):
            for unit in UNITS:
                for row, found in zip(out, self._intervals(what, unit), strict=True):
                    if math.isfinite(found.mean):
                        row |= {k: math.exp(v) for k, v in fields(column(what, unit), found).items() if "_p" not in k}
        for row, ratio in zip(out, self._headroom(), strict=True):
            if math.isfinite(ratio.mean):
                row |= {k: math.exp(v) for k, v in fields("headroom", ratio).items() if "_p" not in k}
        for row, lost in zip(out, self.lost_B, strict=False):
            if lost:
                row |= fields("collapsed", share_interval(lost, self.found.n_seeds))
                row["collapsed_trials"] = f"{lost} of {self.found.n_seeds}"
        return out

    def _intervals(self, what: str, unit: str) -> list[Interval]:

        mean_B, drawn = (self.log_rates(what, unit, m) for m in (self.found.means_A, self.found.drawn_BA))
        return [percentile(float(m), drawn[:, b], self.found) for b, m in enumerate(mean_B)]

    def _headroom(self) -> list[Interval]:

        mean_B, drawn = (
            self.log_rates(FRONTIER, self.unit, m) - self.log_rates(RIDGE, self.unit, m)
            for m in (self.found.means_A, self.found.drawn_BA)
        )
        return [percentile(float(m), drawn[:, b], self.found) for b, m in enumerate(mean_B)]

    def slopes(self) -> list[Row]:
        """Log-log slopes over beta, one row a range of beta, rate and unit: with limits, p of 0, and the theory's.

        Those of the best rate have a column TWO_KINDS where some seeds collapsed at one of the best rates, not all.
        """

        x_B, inside = np.log(self.betas), np.array(self.inside())
        mixed = {b for b, lost in enumerate(self.lost_B) if 0 < lost < self.found.n_seeds}
        out = []
        for what in (RIDGE, FRONTIER, CRITICAL):
            for unit in UNITS:
                mean_B, drawn = (self.log_rates(what, unit, m) for m in (self.found.means_A, self.found.drawn_BA))
                usable = np.isfinite(mean_B) & (inside | (what != RIDGE))
                for where, in_range in beta_rate_plane.regimes(self.betas).items():
                    kept = [b for b in in_range if usable[b]]
                    if len(kept) < 2 or (what == CRITICAL and unit == "lr_rel"):
                        continue
                    slope, slopes = (beta_rate_plane.slope(x_B[kept], y[..., kept]) for y in (mean_B, drawn))
                    row = {**self.name, "rate": what, "unit": unit, "range": where, "betas": len(kept)}
                    if what == RIDGE and mixed & set(kept):
                        row[TWO_KINDS] = "these betas"
                    row |= {
                        "left_out": len(in_range) - len(kept),
                        **fields("slope", percentile(float(slope), slopes, self.found)),
                    }
                    if what != RIDGE and where in THEORY:
                        row["theory"] = THEORY[where] + {"lr": 0, "lr_eff": 2, "lr_rel": -THEORY[where]}[unit]
                    out.append(row)
        return out

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


def column(what: str, unit: str) -> str:
    """The column of a rate in a unit."""
    return f"{what.replace(' ', '_')}_{unit}"


def read(settings: Settings, store: Results, arms: Sequence[tuning.Arm], name: Row, nested: bool) -> Phase:
    """The plane of arms that differ in beta alone, every seed of which has a score at every rate of the grid.

    Args:
        settings: as of `all_seeds`.
        nested: each seed has its own selection examples.
    """

    arms = sorted(arms, key=lambda arm: arm.trial.beta)
    seeds, rates = settings.seed or (), arms[0].rates
    scores, failed = store.scores(settings.select), beta_rate_plane.is_failed(settings)
    trials = [[[tuning.trial_at(settings, a.trial, r, s) for r in rates] for a in arms] for s in seeds]
    measured = [[[_known(scores(t)) for t in row] for row in plane] for plane in trials]
    score_SBR = np.array(measured, float)
    values_SNA = _values(settings, store, trials, score_SBR, nested)
    lambdas = [[_lambda(settings, store, trials[i][b][0]) for b in range(len(arms))] for i in range(len(seeds))]
    log_lambda_SB = np.log(np.array([[value for value, _ in row] for row in lambdas]))
    frontiers = [beta_rate_plane.failure_brackets(settings, arm, scores) for arm in arms]
    log_frontier_SB = np.log(np.array([[one[seed].rate for one in frontiers] for seed in seeds]))
    own_SC = np.concatenate([log_lambda_SB, log_frontier_SB], 1)
    return Phase(
        name=name,
        unit=arms[0].trial.lr_unit,
        betas=tuple(arm.trial.beta for arm in arms),
        rates=rates,
        score_BR=score_SBR.mean(0),
        failed_BR=np.array([[[failed(score) for score in row] for row in plane] for plane in measured], float).mean(0),
        log_lambda_SB=log_lambda_SB,
        log_frontier_SB=log_frontier_SB,
        found=resampled_means(values_SNA, own_SC),
        unconverged=sum(not converged for row in lambdas for _, converged in row),
        momentum=arms[0].trial.momentum,
        lost_B=tuple(_lost(measured, score_SBR, b, settings) for b in range(len(arms))),
    )


def _lost(known: Any, score_SBR: Array, b: int, settings: Settings) -> int:
    """How many seeds failed or collapsed at a beta's best rate of the grid; `known` are the scores as stored."""

    failed, best = beta_rate_plane.is_failed(settings), int(score_SBR[:, b].mean(0).argmin())
    lost_S = collapsed(score_SBR[:, b, best], beta_rate_plane.guess(settings), largest=False)
    return sum(bool(lost) or failed(plane[b][best]) for lost, plane in zip(lost_S, known, strict=True))


def _known(score: float | None) -> float:
    return math.inf if score is None else score


def _values(settings: Settings, store: Results, trials: Any, score_SBR: Array, nested: bool) -> Array:
    """What the selection score is the mean of, [S, N, B R]; only means, N = 1, where seeds' examples differ."""
    S, B, R = score_SBR.shape
    if nested or settings.select == "repaired_log_loss":
        return score_SBR.reshape(S, 1, B * R)
    y_N = store.labels(next(t for p in trials for row in p for t in row if store.has(t)))["selection"]
    values = np.full((S, len(y_N), B * R), np.inf)
    for s, plane in enumerate(trials):
        for a, trial in enumerate(t for row in plane for t in row):
            if math.isfinite(score_SBR[s].flat[a]):
                values[s, :, a] = _example_scores(trial, store.logits(trial)["selection"], y_N, settings.select)
    return values


def _example_scores(trial: Trial, z_NK: Tensor, y_N: Tensor, select: str) -> Array:

    if select == "error":
        return np.asarray((z_NK.argmax(-1) != y_N).double())
    return np.asarray(log_loss_n((trial.beta * z_NK.double()).log_softmax(-1), y_N))


def _lambda(settings: Settings, store: Results, trial: Trial) -> tuple[float, bool]:
    """lambda_max of a trial's start and whether it converged; NaN where it is not known."""
    if trial.lr_unit == "lr_rel":
        facts = store.record(trial).metadata if store.has(trial) else {}
        value = facts.get("lambda_max")
        return (math.nan, True) if value is None else (float(value), bool(facts["lambda_max_converged"]))
    start = start_of(settings, trial, trial.seed)
    if start is None or not store.has(start):
        return math.nan, True
    value, converged = store.arrays(start).get("lambda_max", np.array([math.nan, 1.0]))
    return (float(value), bool(converged)) if value > 0 else (math.nan, True)
