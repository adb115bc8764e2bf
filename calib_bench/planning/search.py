"""Searching beta and the rate within a budget: Optuna's proposals, with successive halving over epochs.

A search is replayed from the scores that are known, so that it is a function of them: it can be stopped, resumed and
analysed from the store alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.core.trial import Score, Scores, Trial
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    import optuna

Seeded = Callable[[Trial], Sequence[Trial]]

BATCH = 8
"""Configurations proposed before the results of any of them are known: what may run at once."""
CUT = 3
"""A configuration's first run has a third of its epochs, and the best third of the configurations go on to all of them.
Shorter runs rank rates by how fast they begin: on digits, choosing at 10 to 15% of the epochs cost .46 nats, at 40%
nothing."""


@dataclass(frozen=True)
class Tried:
    """One configuration.

    Attributes:
        trial: its full-length trial, of no particular seed.
        epochs: lengths it was trained for.
        scores: the mean selection score over the tuning seeds at each of them.
        failed: whether a tuning seed failed at the longest of them, see `calib_bench.core.fate`.
    """

    trial: Trial
    epochs: tuple[int, ...]
    scores: tuple[float, ...]
    failed: bool = False

    @property
    def finished(self) -> bool:
        """Whether it was trained for its full length."""
        return bool(self.epochs) and self.epochs[-1] == self.trial.epochs


@dataclass(frozen=True)
class Search:
    """How far a search has come.

    Attributes:
        tried: configurations in the order they were proposed.
        wanted: trials whose scores it waits for; none once it is over.
        cost: epochs trained so far, over all configurations and tuning seeds.
    """

    tried: tuple[Tried, ...]
    wanted: tuple[Trial, ...]
    cost: int

    @property
    def full_length(self) -> list[Tried]:
        """The configurations that were trained for their full length, by every tuning seed."""
        return [t for t in self.tried if t.finished and not t.failed and math.isfinite(t.scores[-1])]

    @property
    def best(self) -> Tried | None:
        """The full-length configuration with the lowest score, of a search that is over; None if all failed."""
        full = self.full_length
        return None if self.wanted or not full else min(full, key=lambda t: (t.scores[-1], t.trial.lr))


def search(
    template: Trial,
    rates: tuple[float, float],
    betas: tuple[float, float] | None,
    budget: int,
    seeded: Seeded,
    scores: Scores,
) -> Search:
    """Replay a search by tree-structured Parzen estimators (Bergstra et al., 2011), log-uniform in beta and rate.

    Each configuration is trained for a third of the template's epochs, then the best third of a batch and its
    predecessors for all of them (successive halving, Jamieson & Talwalkar, 2016); every length is a run of its own, its
    schedule complete.

    Args:
        template: everything but beta and rate; its beta is kept when `betas` is None.
        rates: bounds of the rate, in the template's unit.
        betas: bounds of beta.
        budget: configurations.
        seeded: a configuration's trials, one a tuning seed; its score is their mean.
        scores: what is known.
    """
    study = _study()
    tried: list[Tried] = []
    wanted: list[Trial] = []
    seen: list[list[float]] = [[] for _ in lengths(template)]
    while len(tried) < budget:
        proposed = [study.ask() for _ in range(min(BATCH, budget - len(tried)))]
        trials = [_configuration(template, trial, rates, betas) for trial in proposed]
        race = _Race(study, proposed, trials, seeded, scores)
        wanted = race.run(seen)
        tried += race.tried()
        if wanted:
            break
    cost = len(seeded(template)) * sum(sum(t.epochs) for t in tried)
    return Search(tuple(tried), tuple(wanted), cost)


def lengths(trial: Trial) -> tuple[int, ...]:
    """Epochs of the rungs of a trial's race, ascending: a third of its epochs, then all of them.

    >>> from types import SimpleNamespace
    >>> lengths(SimpleNamespace(epochs=30)), lengths(SimpleNamespace(epochs=2))
    ((10, 30), (1, 2))
    """
    return tuple(dict.fromkeys((math.ceil(trial.epochs / CUT), trial.epochs)))


def shortened(trial: Trial, epochs: int) -> Trial:
    """The same trial for fewer epochs, its warm-up in proportion."""
    if epochs == trial.epochs:
        return trial
    return trial.model_copy(update={"epochs": epochs, "warmup": trial.warmup * epochs / max(1, trial.epochs)})


def _study() -> optuna.Study:
    try:
        import optuna
    except ImportError:
        raise SettingsError("the search is Optuna's, which is not installed: pip install calib_bench[tune]") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, constant_liar=True, n_startup_trials=BATCH)
    return optuna.create_study(direction="minimize", sampler=sampler)


def _configuration(
    template: Trial, trial: optuna.Trial, rates: tuple[float, float], betas: tuple[float, float] | None
) -> Trial:
    update = {"lr": _rounded(trial.suggest_float("lr", *rates, log=True))}
    if betas:
        update["beta"] = _rounded(trial.suggest_float("beta", *betas, log=True))
    return template.model_copy(update=update)


class _Race:
    """A batch on its way through its lengths, as far as scores are known.

    Args:
        study: Optuna's, which is told how each configuration ended.
        proposed: the batch as Optuna proposed it.
        trials: the batch as trials.
        seeded, scores: those of `search`.
    """

    def __init__(
        self,
        study: optuna.Study,
        proposed: Sequence[optuna.Trial],
        trials: Sequence[Trial],
        seeded: Seeded,
        scores: Scores,
    ) -> None:
        self.study, self.proposed, self.trials = study, proposed, trials
        self.seeded, self.scores = seeded, scores
        self.lengths = lengths(trials[0])
        self.measured: list[list[float]] = [[] for _ in trials]
        self.failed: set[int] = set()
        self.running = list(range(len(trials)))

    def run(self, seen: list[list[float]]) -> list[Trial]:
        """Go as far as scores are known; returns the trials that the race waits for.

        `seen` are the scores at each length, of this batch and those before it.
        """
        for rung, epochs in enumerate(self.lengths):
            wanted = self._measure(epochs)
            if wanted or not self.running:
                return wanted
            for i in self.running:
                self.proposed[i].report(_finite(self.measured[i][-1]), CUT**rung)
                seen[rung].append(self.measured[i][-1])
            if epochs < self.lengths[-1]:
                self._cut(seen[rung])
        for i in self.running:
            self.study.tell(self.proposed[i], _finite(self.measured[i][-1]))
        return []

    def _measure(self, epochs: int) -> list[Trial]:
        """Take in what is known of the running ones at this length; returns the trials that are not."""
        wanted = []
        for i in self.running:
            runs = self.seeded(shortened(self.trials[i], epochs))
            run_scores = [self.scores(run) for run in runs]
            wanted += [run for run, score in zip(runs, run_scores, strict=True) if score is None]
            if None in run_scores:
                continue
            self.measured[i].append(sum(run_scores) / len(run_scores))  # type: ignore[arg-type]
            if any(isinstance(score, Score) and score.failed for score in run_scores):
                self.failed.add(i)
            else:
                self.failed.discard(i)  # what a shorter run had not yet learnt
        return wanted

    def _cut(self, seen: list[float]) -> None:
        """Stop the running ones that are not among the best third of all scores that were seen at their length."""
        from optuna.trial import TrialState

        line = sorted(seen)[max(1, len(seen) // CUT) - 1]
        going_on = []
        for i in self.running:
            score = self.measured[i][-1]
            if math.isfinite(score) and score <= line:
                going_on.append(i)
            else:
                self.study.tell(self.proposed[i], state=TrialState.PRUNED)
        self.running = going_on

    def tried(self) -> list[Tried]:
        """The batch, with what was measured of each."""
        pairs = enumerate(zip(self.trials, self.measured, strict=True))
        return [
            Tried(trial, self.lengths[: len(scores)], tuple(scores), i in self.failed) for i, (trial, scores) in pairs
        ]


def _finite(score: float) -> float:
    """A score Optuna takes: a divergence is worse than anything that was seen."""
    return score if math.isfinite(score) else 1e6


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
