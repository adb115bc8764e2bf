"""Planes of two settings: where a score is best along one of them, where training fails, and how both move.

A plane here is a family's arms over beta (columns) and the rates they tried (rows), at every seed. The ridge is the
best rate at each beta; the frontier the rate above which training fails. Both are powers of beta where theory holds
(Agarwala et al., 2023, arXiv 2010.07344), so that what is reported are slopes on log-log axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calib_bench import registry
from calib_bench.core.fate import GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Score, Scores, Trial
from calib_bench.inference.arrays import Array
from calib_bench.planning import tuning

FINE = 2**0.25
"""The frontier is known to within this factor."""


def guess(grid: Grid) -> float:
    """The selection score of guessing: log K nats, of K classes, or an error of 1 - 1 / K."""
    classes = registry.task(grid.task).classes
    return 1 - 1 / classes if grid.select == "error" else math.log(classes)


def all_seeds(grid: Grid) -> Grid:
    """A grid with every seed in every cell of the plane."""
    return grid.model_copy(update={"tune_seeds": len(grid.seed)})


def is_failed(grid: Grid) -> Callable[[float], bool]:
    """A test whether a selection score is that of a failed trial.

    A stored score says so itself (`calib_bench.core.fate`); a bare number is one if it is not finite, or no better than
    the score of guessing.
    """
    bound = GUESS * guess(grid)
    return lambda score: score.failed if isinstance(score, Score) else not score < bound


def or_inf(score: float | None) -> float:
    """A selection score; infinite where there is none."""
    return math.inf if score is None else float(score)


def log_unit(store: Results, trials: Iterable[Trial]) -> float:
    """Log of the rate in its unit over the rate itself, of the first of some trials that is stored; NaN without one."""
    stored = next((trial for trial in trials if store.has(trial)), None)
    return math.nan if stored is None else math.log(stored.lr / store.record(stored).metadata["lr"])


def parabola_minimum(x_R: ArrayLike, y_R: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Where curves are lowest: the vertex of the parabola through the lowest point and its neighbours.

    Args:
        x_R: places [R], ascending.
        y_R: heights [..., R]; one that is not finite is no point of its curve.

    Returns:
        The place [...], at most half a step from the lowest point, that point itself where a neighbour is missing; and
        whether [...] it has no lower neighbour on either side to show that it is not the end of the curve. NaN and True
        for a curve without a point.
    """
    x, y = np.asarray(x_R, np.float64), np.where(np.isfinite(y_R), y_R, np.inf)
    best = y.argmin(-1)
    lowest = np.take_along_axis(y, best[..., None], -1)[..., 0]
    inside = (best > 0) & (best < len(x) - 1)
    left, right = np.clip(best - 1, 0, len(x) - 1), np.clip(best + 1, 0, len(x) - 1)
    beside = [np.take_along_axis(y, i[..., None], -1)[..., 0] for i in (left, right)]
    with np.errstate(invalid="ignore"):  # of a curve without a point
        rise, fall = (height - lowest for height in beside)
    has_vertex = inside & np.isfinite(rise) & np.isfinite(fall) & (rise + fall > 0)
    a, b = x[best] - x[left], x[right] - x[best]
    with np.errstate(invalid="ignore", divide="ignore"):
        # The vertex of the parabola through (-a, rise), (0, 0), (b, fall).
        shift = (rise * b * b - fall * a * a) / (2 * (rise * b + fall * a))
    place = x[best] + np.where(has_vertex, np.clip(np.nan_to_num(shift), -a / 2, b / 2), 0.0)
    empty = ~np.isfinite(lowest)
    return np.where(empty, np.nan, place), ~inside | empty


def slope(x_B: ArrayLike, y_B: ArrayLike) -> Array:
    """Least-squares slope of y [..., B] over x [B]."""
    x, y = np.asarray(x_B, np.float64), np.asarray(y_B, np.float64)
    centred = x - x.mean()
    return np.asarray((y * centred).sum(-1) / (centred**2).sum())


@dataclass(frozen=True)
class Bracket:
    """Where training begins to fail, as the rate grows, for one arm and seed.

    Attributes:
        best: the rate with the lowest score; NaN when every rate fails.
        stable: the highest rate tried below `failing`; NaN likewise.
        failing: the lowest rate above `best` at which training failed; NaN when none was found.
        wanted: rates to try next; none once `failing` / `stable` is at most FINE, or there is no more to try.
    """

    best: float
    stable: float
    failing: float
    wanted: tuple[float, ...] = ()

    @property
    def rate(self) -> float:
        """The frontier: the middle of the bracket, on a log scale."""
        return math.sqrt(self.stable * self.failing)


def failure_bracket(
    rates: Sequence[float], score: Callable[[float], float | None], failed: Callable[[float], bool], extend: int
) -> Bracket:
    """The bracket of one arm and seed, as far as it is known.

    From the best rate of the grid upwards: the grid is continued by its own last step until training fails, at most
    `extend` times, then the bracket is halved, on a log scale. Failing may come and go as the rate grows; what is found
    is where it begins.

    Args:
        rates: the grid, ascending; all of them have a score.
        score: of a rate, or None where it has not run.
    """
    score_by_rate = {rate: value for rate in rates if (value := score(rate)) is not None}
    if len(score_by_rate) < len(rates) or all(failed(value) for value in score_by_rate.values()):
        return Bracket(math.nan, math.nan, math.nan)
    search = _FrontierSearch(score, failed, score_by_rate)
    step = rates[-1] / rates[-2] if len(rates) > 1 else 2.0
    return search.extended(step, extend) or search.halved()


@dataclass
class _FrontierSearch:
    """The search for the rate at which training begins to fail, above the best rate of a grid.

    Attributes:
        score: of a rate, or None where it has not run.
        failed: whether a score is that of a trial that failed.
        by_rate: the scores seen so far.
    """

    score: Callable[[float], float | None]
    failed: Callable[[float], bool]
    by_rate: dict[float, float]

    def __post_init__(self) -> None:
        self.best = min(self.by_rate, key=lambda rate: (self.by_rate[rate], rate))

    def failing(self) -> float | None:
        """The lowest rate above the best one at which training failed."""
        return min((r for r, value in self.by_rate.items() if r > self.best and self.failed(value)), default=None)

    def see(self, rate: float) -> bool:
        """Whether the rate has run; its score counts from now on."""
        value = self.score(rate)
        if value is not None:
            self.by_rate[rate] = value
        return value is not None

    def extended(self, step: float, times: int) -> Bracket | None:
        """Continues the grid until a rate fails; the bracket where one has yet to run, else None."""
        for _ in range(times):
            if self.failing() is not None:
                return None
            further = _round(max(self.by_rate) * step)
            if not self.see(further):
                return Bracket(self.best, max(self.by_rate), math.nan, (further,))
        return None

    def halved(self) -> Bracket:
        """Halves the bracket until it is fine, or its middle has yet to run."""
        while (failing := self.failing()) is not None:
            stable = max(rate for rate in self.by_rate if rate < failing)
            if failing / stable <= FINE * (1 + 1e-9):
                return Bracket(self.best, stable, failing)
            middle = _round(math.sqrt(stable * failing))
            if not self.see(middle):
                return Bracket(self.best, stable, failing, (middle,))
        return Bracket(self.best, max(self.by_rate), math.nan)


def failure_brackets(grid: Grid, arm: tuning.Arm, scores: Scores) -> dict[int, Bracket]:
    """Bracket of the rate at which an arm's training begins to fail, by seed."""
    failed = is_failed(grid)

    def of(seed: int) -> Bracket:
        def score(rate: float) -> float | None:
            value = scores(tuning.trial_at(grid, arm.trial, rate, seed))
            return math.inf if value is not None and failed(value) else value

        return failure_bracket(arm.rates, score, math.isinf, grid.extend)

    return {seed: of(seed) for seed in grid.seed}


def wanted(grid: Grid, arm: tuning.Arm, scores: Scores) -> list[Trial]:
    """The arm's trials beyond its grid that its brackets have tried or want next, a pure function of the scores."""
    trials: dict[str, Trial] = {}

    def noted(trial: Trial) -> float | None:
        value = scores(trial)
        if value is not None and trial.lr not in arm.rates:
            trials.setdefault(trial.key, trial)
        return value

    for seed, one in failure_brackets(grid, arm, noted).items():
        for rate in one.wanted:
            trial = tuning.trial_at(grid, arm.trial, rate, seed)
            trials.setdefault(trial.key, trial)
    return list(trials.values())


def regimes(betas: Sequence[float]) -> Mapping[str, list[int]]:
    """Ranges of beta in which a power law is looked for, by name: indices of at least two betas.

    The curvature at zero logits is proportional to beta below about 0.1 and to its square above 1.
    """
    ranges = {"all": (0.0, math.inf), "beta <= 0.1": (0.0, 0.1), "beta >= 1": (1.0, math.inf)}
    inside = {
        name: [i for i, beta in enumerate(betas) if low <= beta * (1 + 1e-9) and beta * (1 - 1e-9) <= high]
        for name, (low, high) in ranges.items()
    }
    return {
        name: indices
        for name, indices in inside.items()
        if len(indices) >= 2 and (name == "all" or len(indices) < len(betas))
    }


def _round(rate: float) -> float:
    return float(f"{rate:.10g}")
