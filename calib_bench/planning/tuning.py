"""Choosing a learning rate for every arm, with the same budget for all.

An arm is everything about a trial but its rate and seed. Each arm tries every rate of its family's grid on the tuning
seeds and keeps the one with the lowest mean score on the selection split. When the best rate of any arm stands at an
edge of the grid, the grid grows there by one rate for every arm of the family, up to `extend` times a side: no arm gets
more tries than the arms it is compared with.

A seed that chooses is also reported, and one that is lucky at a rate is so on both splits: at the rate that it helped
to choose, its result is too good. So each tuning seed is reported at the rate that the others choose (cross-fitting),
which takes no further training, since tuning seeds are trained at every rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args
from weakref import WeakValueDictionary

from calib_bench.core.settings import Grid
from calib_bench.core.study import Role
from calib_bench.core.trial import CROSS_ENTROPY, Score, Scores, Trial
from calib_bench.planning.carry import without_idle

_held: WeakValueDictionary[tuple[str, float, int, int], Trial] = WeakValueDictionary()
"""Trials of plans that someone still holds: a plan made again shares them, with the keys that were computed."""
HEAD = ("head_lr", "head_init", "correlation")
Status = Literal["tuned", "fixed", "edge", "diverged", "pending"]
FEWEST_SEEDS = 3
"""Seeds that must take part in choosing a rate before anything that rests on the choice is called established."""
FEW_SEEDS = "few seeds"
"""What the tables' column `tuning` says, alone or beside a status, of a rate that fewer seeds chose."""


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
        trials: by seed, at the rate it is reported at, see `elsewhere`; empty while pending.
        tried: by rate, the tuning seeds' trials, where a rate was chosen among several that train; else empty.
        select: the score that chose, see `Settings.select`.
        crossed: whether each tuning seed is reported at the rate that the others choose.
    """

    trial: Trial
    rates: tuple[float, ...]
    scores: dict[float, float]
    chosen: float | None
    status: Status
    trials: dict[int, Trial]
    tried: Mapping[float, tuple[Trial, ...]] = field(default_factory=dict)
    select: str = "log_loss"
    crossed: bool = False

    @property
    def tuning(self) -> str:
        """The status for tables, with FEW_SEEDS where fewer than FEWEST_SEEDS seeds chose among several rates."""
        if not self.tried or min(map(len, self.tried.values())) >= FEWEST_SEEDS:
            return self.status
        return FEW_SEEDS if self.status == "tuned" else f"{self.status}, {FEW_SEEDS}"

    @property
    def elsewhere(self) -> dict[int, float]:
        """By seed that is not reported at the chosen rate, the rate that the other tuning seeds choose."""
        tuners = {trial.seed for trials in self.tried.values() for trial in trials}
        return {s: trial.lr for s, trial in self.trials.items() if s in tuners and trial.lr != self.chosen}

    def at_chosen(self) -> Arm:
        """The arm with every seed at the chosen rate: for how far seeds differ at one rate."""
        same = {trial.seed: trial for trial in self.tried.get(self.chosen, ())} if self.chosen is not None else {}
        return replace(self, trials={**self.trials, **same}, crossed=False)

    @property
    def label(self) -> str:
        """Name for tables, within one family."""
        return label(self.trial)


TUNED = ("tuned", FEW_SEEDS)
"""What `Arm.tuning` says of a rate inside its grid."""


def together(arms: Iterable[Arm]) -> str:
    """The column `tuning` of a row that rests on several arms, see `joined`."""
    return joined(arm.tuning for arm in arms)


def joined(tunings: Iterable[str]) -> str:
    """What is to be said of any of several rates, or "tuned"."""
    return ", ".join(dict.fromkeys(tuning for tuning in tunings if tuning != "tuned")) or "tuned"


CROSS_FITTED = (
    "a seed that helped to choose is reported at the rate that the other tuning seeds choose (cross-fitting, where "
    f"{FEWEST_SEEDS} or more tune), any other at the chosen one"
)
"""What notes say of the rates at which seeds are reported."""


def label(trial: Trial) -> str:
    """What tells a trial's arm from others of its family."""
    objective = "" if trial.objective == CROSS_ENTROPY else f" {trial.objective}"
    head = "".join(
        f" {key}={value:.3g}" for key in HEAD if (value := getattr(trial, key)) != Trial.model_fields[key].default
    )
    switch = f" switched from {trial.switch_from:g}" if trial.switch_from else ""
    return f"beta={trial.beta:g}{objective}{head}{switch}"


More = Callable[[list[Trial]], list[Trial]]
"""A family's templates of the grid -> further ones, tuned with them: on the same rates, with the same budget."""


def arms(grid: Grid, scores: Scores, more: More | None = None) -> list[Arm]:
    """Every arm of a grid, in its order, as far as `scores` lets it be tuned."""
    return [arm for family in tuned(grid, scores, more) for arm in family.arms]


def plan(grid: Grid, scores: Scores, more: More | None = None) -> dict[Trial, Role]:
    """Every trial that a grid wants so far and its role: its own rates, their extensions, all seeds at their rates."""
    return planned(pair for family in tuned(grid, scores, more) for pair in family.roles())


@dataclass(frozen=True)
class Family:
    """Arms that are compared with each other, and every trial that tuning them takes.

    Attributes:
        of_grid: arms of the grid.
        beside: arms that a study tunes with them: interventions.
        tried: trials of every rate and tuning seed.
    """

    of_grid: list[Arm]
    beside: list[Arm]
    tried: list[Trial]

    @property
    def arms(self) -> list[Arm]:
        """All arms, those of the grid first."""
        return self.of_grid + self.beside

    def roles(self) -> Iterator[tuple[Trial, Role]]:
        """What tuning takes, then all seeds at the rates they are reported at."""
        for trial in self.tried:
            yield trial, "tuning"
        for arm in self.of_grid:
            yield from with_role(arm.trials.values(), "chosen")
        for arm in self.beside:
            yield from with_role(arm.trials.values(), "intervention")


def tuned(grid: Grid, scores: Scores, more: More | None = None) -> list[Family]:
    """The families of a grid, as far as `scores` lets them be tuned."""
    families: dict[Trial, list[Trial]] = {}
    for template in templates(grid):
        families.setdefault(template.family(), []).append(template)
    return [_tune(grid, members, more(members) if more else [], scores) for members in families.values()]


def with_role(trials: Iterable[Trial], role: Role) -> Iterator[tuple[Trial, Role]]:
    """Trials that all have one role, for `planned`."""
    return ((trial, role) for trial in trials)


def planned(pairs: Iterable[tuple[Trial, Role]]) -> dict[Trial, Role]:
    """Trials in order, each once, with the first of its roles in the order of `Role`."""
    order: tuple[Role, ...] = get_args(Role)
    roles: dict[Trial, Role] = {}
    for trial, role in pairs:
        before = roles.setdefault(trial, role)
        roles[trial] = min(role, before, key=order.index)
    return roles


def templates(grid: Grid) -> Iterator[Trial]:
    """Every arm of a grid, in its order; the learning rate and seed of these trials mean nothing."""
    for model, space in grid.spaces.items():
        keys = [key for key in space if key != "lr"]
        for values in itertools.product(*(space[key] for key in keys)):
            fields = without_idle(dict(zip(keys, values, strict=True)))
            yield Trial(
                task=grid.task,
                model=model,
                lr=1.0,
                seed=0,
                limit=grid.limit,
                precision=grid.precision,
                pretrained=grid.pretrained,
                **fields,
            )


def trial_at(grid: Grid, template: Trial, rate: float, seed: int) -> Trial:
    """A template's trial of this rate and seed, on the seed's split; the same object for as long as anyone holds it."""
    split = seed if grid.split == "seed" else 0
    place = (template.key, rate, seed, split)
    trial = _held.get(place)
    if trial is None:
        trial = _held[place] = template.model_copy(update={"lr": rate, "seed": seed, "split": split})
    return trial


class _Tuner:
    """Arms compared with each other, and their trials, each made once: its key is most of what planning costs."""

    def __init__(self, grid: Grid, arms: list[Trial]) -> None:
        self.grid = grid
        self.arms = arms
        self.numbers = range(len(arms))
        self.tuning_seeds = grid.seed[: grid.tune_seeds]
        self._made: dict[tuple[int, float, int], Trial] = {}

    def trial(self, arm: int, rate: float, seed: int) -> Trial:
        """A trial of the arm of this number."""
        made = self._made.get((arm, rate, seed))
        if made is None:
            made = self._made[arm, rate, seed] = trial_at(self.grid, self.arms[arm], rate, seed)
        return made

    def score(self, arm: int, rate: float, scores: Scores) -> float | None:
        """Mean over the tuning seeds; None while any of them is missing."""
        values = [scores(self.trial(arm, rate, seed)) for seed in self.tuning_seeds]
        finished = [value for value in values if value is not None]
        return sum(finished) / len(finished) if len(finished) == len(values) else None


def _tune(grid: Grid, templates: list[Trial], beside: list[Trial], scores: Scores) -> Family:
    family = _Tuner(grid, templates + beside)
    rates, tables = _grow(grid, family, scores)
    arms = [_arm(grid, family, number, rates, tables[number], scores) for number in family.numbers]
    tried = [family.trial(n, rate, seed) for rate in rates for n in family.numbers for seed in family.tuning_seeds]
    return Family(arms[: len(templates)], arms[len(templates) :], tried)


Scored = dict[float, float | None]
"""The score of an arm by rate, None where a trial is missing."""


def _grow(grid: Grid, family: _Tuner, scores: Scores) -> tuple[tuple[float, ...], list[Scored]]:
    """The rates that the family tries, extended while the best of an arm is at the edge, and each arm's scores."""
    rates = list(grid.spaces[family.arms[0].model]["lr"])
    step_down, step_up = _steps(rates)
    below = above = 0
    tables: list[Scored] = [{} for _ in family.numbers]
    while True:
        _score_new(family, rates, tables, scores)
        if len(rates) == 1 or any(None in table.values() for table in tables):
            break
        best = [_best(table) for table in tables]  # type: ignore[arg-type]
        grow_down = rates[0] in best and below < grid.extend
        grow_up = rates[-1] in best and above < grid.extend
        if grow_down:
            rates.insert(0, _round(rates[0] * step_down))
        if grow_up:
            rates.append(_round(rates[-1] * step_up))
        if not (grow_down or grow_up):
            break
        below, above = below + grow_down, above + grow_up
    return tuple(rates), tables


def _score_new(family: _Tuner, rates: Sequence[float], tables: Sequence[Scored], scores: Scores) -> None:
    """Put the scores of rates that are new into the arms' tables."""
    for number, table in enumerate(tables):
        for rate in rates:
            if rate not in table:
                table[rate] = family.score(number, rate, scores)


def _arm(grid: Grid, family: _Tuner, number: int, rates: tuple[float, ...], table: Scored, scores: Scores) -> Arm:
    arm = family.arms[number]
    scored = {rate: score for rate in rates if (score := table[rate]) is not None}
    if len(scored) < len(table):
        return Arm(arm, rates, scored, None, "pending", {})
    chosen = _best(scored)
    status = _status(scored, chosen, rates)
    tried: dict[float, tuple[Trial, ...]] = {}
    if status in ("tuned", "edge"):
        tried = {rate: tuple(family.trial(number, rate, seed) for seed in family.tuning_seeds) for rate in rates}
    crossed = cross_fitted(tried, chosen, scores) if tried else {}
    trials = {seed: family.trial(number, crossed.get(seed, chosen), seed) for seed in grid.seed}
    return Arm(arm, rates, scored, chosen, status, trials, tried, grid.select, bool(crossed))


def _status(scored: Mapping[float, float], chosen: float, rates: tuple[float, ...]) -> Status:
    """How tuning an arm ended, see `Arm.status`."""
    if math.isinf(scored[chosen]):
        return "diverged"
    if len(rates) == 1:
        return "fixed"
    return "edge" if chosen in (rates[0], rates[-1]) else "tuned"


def cross_fitted(tried: Mapping[float, Sequence[Trial]], chosen: float, scores: Scores) -> dict[int, float]:
    """By tuning seed the rate of the lowest mean score over the other tuning seeds; none where fewer than FEWEST_SEEDS.

    A rate at which some tuning seed failed (see `calib_bench.core.fate`) is no choice, whichever seed it is, unless all
    together choose it: a seed's failure counts where failures are counted, not by leaving the seed out of a mean.

    Args:
        tried: by rate, the tuning seeds' trials, seeds in one order, scores known.
        chosen: by all seeds.
    """
    seeds = [trial.seed for trial in tried[chosen]]
    if len(seeds) < FEWEST_SEEDS:
        return {}
    costs: dict[float, list[float]] = {}
    for rate, trials in tried.items():
        row = [scores(trial) for trial in trials]
        if rate == chosen or not any(map(has_failed, row)):
            costs[rate] = [float(score) for score in row if score is not None]
    return {
        seed: _best({rate: math.fsum(cost[:i] + cost[i + 1 :]) for rate, cost in costs.items()})
        for i, seed in enumerate(seeds)
    }


def has_failed(score: float | None) -> bool:
    """Whether a trial of this selection score failed (see `calib_bench.core.fate`), or has none."""
    return score is None or math.isinf(score) or (isinstance(score, Score) and score.failed)


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
