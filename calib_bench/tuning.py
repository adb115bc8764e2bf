"""Choosing a learning rate for every arm, with the same budget for all.

An arm is everything about a trial but its rate and seed. Each arm tries every rate of its family's grid on the tuning
seeds and keeps the one with the lowest mean score on the selection split. When the best rate of any arm stands at an
edge of the grid, the grid grows there by one rate for every arm of the family, up to `extend` times a side: no arm gets
more tries than the arms it is compared with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from calib_bench.settings import Settings
from calib_bench.study import Scores
from calib_bench.trial import CROSS_ENTROPY, Trial

Status = Literal["tuned", "fixed", "edge", "diverged", "pending"]


@dataclass(frozen=True)
class Arm:
    """One arm and what tuning found.

    Attributes:
        trial: any of its trials; only what the arm's trials share has meaning.
        rates: the rates tried, ascending, in `trial.lr_unit`.
        scores: mean selection score by rate over the tuning seeds; inf where any of them diverged.
        chosen: the rate with the lowest score; None while pending.
        status: "tuned" inside its grid; "edge" when the best rate is still the last one after all extensions;
            "fixed" when only one rate was asked for; "diverged" when no rate trains every tuning seed.
        trials: by seed, at the chosen rate; empty while pending.
    """

    trial: Trial
    rates: tuple[float, ...]
    scores: dict[float, float]
    chosen: float | None
    status: Status
    trials: dict[int, Trial]

    @property
    def label(self) -> str:
        """Name for tables, within one family."""
        objective = "" if self.trial.objective == CROSS_ENTROPY else f" {self.trial.objective}"
        return f"beta={self.trial.beta:g}{objective}"


def arms(settings: Settings, scores: Scores) -> list[Arm]:
    """Every arm of resolved settings, in grid order, as far as `scores` lets it be tuned."""
    return [arm for family in _families(settings) for arm in _tune(settings, _Family(settings, family), scores)[0]]


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every trial that resolved settings want so far: the grid, its extensions, and all seeds at chosen rates."""
    wanted: dict[str, Trial] = {}
    for family in _families(settings):
        tuned, tried = _tune(settings, _Family(settings, family), scores)
        for trial in itertools.chain(tried, *(arm.trials.values() for arm in tuned)):
            wanted.setdefault(trial.key, trial)
    return list(wanted.values())


def _families(settings: Settings) -> list[list[Trial]]:
    """Arms as templates (rate and seed of no meaning), those to be compared with each other together."""
    families: dict[Trial, list[Trial]] = {}
    for template in templates(settings):
        families.setdefault(template.family(), []).append(template)
    return list(families.values())


def templates(settings: Settings) -> Iterator[Trial]:
    """Every arm of resolved settings, its rate and seed of no meaning, in grid order."""
    for model, space in (settings.spaces or {}).items():
        keys = [key for key in space if key != "lr"]
        for values in itertools.product(*(space[key] for key in keys)):
            fields = dict(zip(keys, values, strict=True))
            yield Trial(
                task=settings.task,
                model=model,
                lr=1.0,
                seed=0,
                limit=settings.limit,
                precision=settings.precision,
                pretrained=settings.pretrained,
                **fields,
            )


class _Family:
    """Arms compared with each other, and their trials, each made once: its key is most of what planning costs."""

    def __init__(self, settings: Settings, arms: list[Trial]) -> None:
        self.arms = arms
        self.numbers = range(len(arms))
        self.own_splits = settings.split == "seed"
        self.tuning_seeds = (settings.seed or ())[: settings.tune_seeds]
        self._made: dict[tuple[int, float, int], Trial] = {}

    def trial(self, arm: int, rate: float, seed: int) -> Trial:
        """A trial of the arm of this number."""
        made = self._made.get((arm, rate, seed))
        if made is None:
            split = seed if self.own_splits else 0
            made = self.arms[arm].model_copy(update={"lr": rate, "seed": seed, "split": split})
            self._made[arm, rate, seed] = made
        return made

    def score(self, arm: int, rate: float, scores: Scores) -> float | None:
        """Mean over the tuning seeds; None while any of them is missing."""
        values = [scores(self.trial(arm, rate, seed)) for seed in self.tuning_seeds]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None


def _tune(settings: Settings, family: _Family, scores: Scores) -> tuple[list[Arm], list[Trial]]:
    """The arms of a family, and the trials that tuning them takes so far."""
    space = (settings.spaces or {})[family.arms[0].model]
    rates = list(space["lr"])
    step_down, step_up = _steps(rates)
    below = above = 0
    found: dict[tuple[int, float], float | None] = {}
    while True:
        new = [(n, rate) for n in family.numbers for rate in rates if (n, rate) not in found]
        found |= {(n, rate): family.score(n, rate, scores) for n, rate in new}
        tables = [{rate: found[n, rate] for rate in rates} for n in family.numbers]
        if any(score is None for table in tables for score in table.values()):
            break
        if len(space["lr"]) == 1:
            break
        best = [_best(table) for table in tables]  # type: ignore[arg-type]
        grow_down = rates[0] in best and below < settings.extend
        grow_up = rates[-1] in best and above < settings.extend
        if grow_down:
            rates.insert(0, _round(rates[0] * step_down))
            below += 1
        if grow_up:
            rates.append(_round(rates[-1] * step_up))
            above += 1
        if not (grow_down or grow_up):
            break
    tuned = [_arm(settings, family, n, tuple(rates), tables[n]) for n in family.numbers]
    tried = [family.trial(n, rate, seed) for rate in rates for n in family.numbers for seed in family.tuning_seeds]
    return tuned, tried


def _arm(
    settings: Settings, family: _Family, number: int, rates: tuple[float, ...], table: dict[float, float | None]
) -> Arm:
    arm = family.arms[number]
    known = {rate: score for rate, score in table.items() if score is not None}
    if len(known) < len(table):
        return Arm(arm, rates, known, None, "pending", {})
    chosen = _best(known)
    status: Status = "tuned"
    if math.isinf(known[chosen]):
        status = "diverged"
    elif len(rates) == 1:
        status = "fixed"
    elif chosen in (rates[0], rates[-1]):
        status = "edge"
    trials = {seed: family.trial(number, chosen, seed) for seed in settings.seed or ()}
    return Arm(arm, rates, known, chosen, status, trials)


def _best(table: dict[float, float]) -> float:
    """The rate with the lowest score, the smallest such rate."""
    return min(table, key=lambda rate: (table[rate], rate))


def _steps(rates: list[float]) -> tuple[float, float]:
    """The factors by which a grid grows below and above: its own last ratios."""
    if len(rates) == 1:
        return 1.0, 1.0
    return rates[0] / rates[1], rates[-1] / rates[-2]


def _round(rate: float) -> float:
    return float(f"{rate:.10g}")
