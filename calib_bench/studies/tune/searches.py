"""The two searches of a pair, over beta and rate and over the rate alone, and what they end at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib_bench.core.settings import Grid
from calib_bench.core.trial import Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.planning.search import Search, Tried, search, shortened
from calib_bench.studies.tune.options import Options

SEARCHES = ("beta and rate", "rate")
"""What the two searches of a pair are over."""


@dataclass(frozen=True)
class Pair:
    """The two searches of one model and recipe."""

    template: Trial
    rates: tuple[float, float]
    betas: tuple[float, float]
    joint: Search
    plain: Search


def pairs(grid: Grid, scores: Scores) -> list[Pair]:
    """Every model's, recipe's and objective's searches, as far as `scores` lets them come.

    Raises:
        SettingsError: there is nothing to train.
    """
    if any(0 in space["epochs"] for space in grid.spaces.values()):
        raise SettingsError("study=tune trains what it compares: give epochs=1 or more")
    return [_pair(grid, t, scores) for t in tuning.templates(grid) if t.beta == grid.reference]


def _pair(grid: Grid, template: Trial, scores: Scores) -> Pair:
    space = grid.spaces[template.model]
    rates, betas = _bounds(space["lr"]), _bounds(space["beta"])
    tuning_seeds = grid.seed[: grid.tune_seeds]
    joint, plain = (
        search(template, rates, over, Options.of(grid).budget, lambda t: seeded(grid, t, tuning_seeds), scores)
        for over in (betas, None)
    )
    return Pair(template, rates, betas, joint, plain)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The span of a grid; of a single value, a factor of ten about it."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 10, high * 10)


def seeded(grid: Grid, trial: Trial, seeds: Sequence[int]) -> list[Trial]:
    """The trial with each of the seeds, and its split where every seed has one of its own."""
    return [trial.model_copy(update={"seed": seed, "split": seed if grid.split == "seed" else 0}) for seed in seeds]


def final_arm(grid: Grid, over: Search, scores: Scores) -> tuning.Arm:
    """The winner of a search that is over, every seed at the configuration that it is reported at.

    The arm's rates stand for configurations; of two at one rate the better counts.
    """
    best = over.best
    assert best is not None, "checked by the caller"
    full = sorted(over.full_length, key=lambda t: (t.scores[-1], t.trial.lr), reverse=True)
    configurations = {t.trial.lr: t for t in full}
    seeds = grid.seed
    tried = {r: tuple(seeded(grid, t.trial, seeds[: grid.tune_seeds])) for r, t in configurations.items()}
    rate = best.trial.lr
    apart = tuning.cross_fitted(tried, rate, scores)
    trials = {s: seeded(grid, configurations[apart.get(s, rate)].trial, (s,))[0] for s in seeds}
    means = {r: t.scores[-1] for r, t in configurations.items()}
    return tuning.Arm(best.trial, tuple(sorted(means)), means, rate, "tuned", trials, tried, grid.select, bool(apart))


def runs(grid: Grid, tried: Tried, seeds: Sequence[int]) -> list[Trial]:
    """A configuration's trials of every length that it was trained for, by every seed."""
    return [run for epochs in tried.epochs for run in seeded(grid, shortened(tried.trial, epochs), seeds)]
