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
    return [arm for family in _families(settings) for arm in _tune(settings, family, scores)[0]]


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every trial that resolved settings want so far: the grid, its extensions, and all seeds at chosen rates."""
    wanted: dict[str, Trial] = {}
    for family in _families(settings):
        tuned, tried = _tune(settings, family, scores)
        for trial in itertools.chain(tried, *(arm.trials.values() for arm in tuned)):
            wanted.setdefault(trial.key, trial)
    return list(wanted.values())


def _families(settings: Settings) -> list[list[Trial]]:
    """Arms as templates (rate and seed of no meaning), those to be compared with each other together."""
    families: dict[Trial, list[Trial]] = {}
    for template in _templates(settings):
        families.setdefault(template.family(), []).append(template)
    return list(families.values())


def _templates(settings: Settings) -> Iterator[Trial]:
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


def _tune(settings: Settings, family: list[Trial], scores: Scores) -> tuple[list[Arm], list[Trial]]:
    """The arms of a family, and the trials that tuning them takes so far."""
    space = (settings.spaces or {})[family[0].model]
    rates = list(space["lr"])
    step_down, step_up = _steps(rates)
    below = above = 0
    while True:
        tables = [{rate: _score(settings, arm, rate, scores) for rate in rates} for arm in family]
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
    tuned = [_arm(settings, arm, tuple(rates), table) for arm, table in zip(family, tables, strict=True)]
    tried = [_trial(settings, arm, rate, seed) for rate in rates for arm in family for seed in _tuning_seeds(settings)]
    return tuned, tried


def _arm(settings: Settings, arm: Trial, rates: tuple[float, ...], table: dict[float, float | None]) -> Arm:
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
    return Arm(arm, rates, known, chosen, status, {s: _trial(settings, arm, chosen, s) for s in settings.seed or ()})


def _tuning_seeds(settings: Settings) -> tuple[int, ...]:
    return (settings.seed or ())[: settings.tune_seeds]


def _trial(settings: Settings, arm: Trial, rate: float, seed: int) -> Trial:
    split = seed if settings.split == "seed" else 0
    return arm.model_copy(update={"lr": rate, "seed": seed, "split": split})


def _score(settings: Settings, arm: Trial, rate: float, scores: Scores) -> float | None:
    values = [scores(_trial(settings, arm, rate, seed)) for seed in _tuning_seeds(settings)]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


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
