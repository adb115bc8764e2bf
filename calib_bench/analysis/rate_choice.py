"""What an arm's results would be at the rates that other samples of the selection data would have chosen.

The tuning seeds have trials at every rate, so that both are stored: the scores that choose, seed by seed and example by
example, and the test results at each rate. Choosing anew (`inference.redrawn_choice`) then shows by how much a result
moves with the choice alone, which is added to the interval of every contrast of tuned arms. It is made again in two
ways, of which the one that moves a result more counts: once for all seeds, and for each tuning seed by the others, as
results are reported (`tuning.cross_fitted`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calib_bench import registry
from calib_bench.analysis.scores import REPAIRED
from calib_bench.analysis.trial_predictions import TrialLogits, on_trials, predictions
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.trial import Score, Trial
from calib_bench.inference import Interval, choice_variance, redrawn_choice, redrawn_choice_apart, widened
from calib_bench.inference.arrays import Array
from calib_bench.metrics import log_loss_n
from calib_bench.metrics.scores import scores_n
from calib_bench.planning.tuning import FEWEST_SEEDS, Arm

SCORES = ("log_loss", "brier", "correct")
LOG_KAPPA = "log_kappa"

_ChoiceScores = tuple["Array", dict[str, dict[str, float]]]
"""Of a trial the loss of each selection example [N], and mean test scores by method then score."""


@dataclass(frozen=True)
class RedrawnChoice:
    """One arm's choice of rate, made again.

    Attributes:
        shares: by rate, how often it is chosen; rates that never are, left out.
        shifts: by method ("raw", or temperature scaling) then score, the change [V, B, S] of its mean over the test
            split from the rates as chosen to those of each of B draws, under each of S tuning seeds: in the first of V
            ways all seeds are at the rate that all choose, in the second, where FEWEST_SEEDS or more tune, as they are
            reported. Draws are common to the arms of a study: differences of arms have the differences of their shifts.
        costs: mean selection score by candidate rate.
        results: by method then score, its mean over the test split by candidate rate, under each tuning seed.
        together: the choice of each of B draws for all seeds [B], an index of the candidates in `costs`.
        apart: for each tuning seed by the others [B, S]; None where too few tune.
    """

    shares: Mapping[float, float]
    shifts: Mapping[str, Mapping[str, Array]]
    costs: Mapping[float, float] = field(default_factory=dict)
    results: Mapping[str, Mapping[str, Mapping[float, Array]]] = field(default_factory=dict)
    together: NDArray[np.int64] | None = None
    apart: NDArray[np.int64] | None = None

    @property
    def drawn(self) -> list[float]:
        """The rate that all seeds together choose in each of B draws."""
        rates = list(self.costs)
        return [rates[choice] for choice in ([] if self.together is None else self.together)]


def begun(store: Results, arm: Arm) -> Callable[[], RedrawnChoice | None]:
    """The arm's choice made again, to be called for its result; None where no rate was chosen, or trials are missing.

    A rate at which a tuning seed learnt nothing is no candidate.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    score = store.scores(arm.select)
    rates = [rate for rate in arm.tried if all(_learnt(store, trial, score(trial)) for trial in arm.tried[rate])]
    trials = [trial for rate in rates for trial in arm.tried[rate]]
    if arm.chosen not in rates:  # one alone may have been tried, or have learnt: its choice moves nothing
        return lambda: None
    read = on_trials(_read, store, trials, registry.calibrators((REPAIRED,)), arm.select)
    return partial(_redrawn, arm, rates, [score(trial) for trial in trials], read)


def _learnt(store: Results, trial: Trial, score: float | None) -> bool:
    """Whether a tuning trial finished and did not fail."""
    return isinstance(score, Score) and store.has(trial) and not score.failed


def _redrawn(arm: Arm, rates: Sequence[float], cost: Sequence[Any], read: Iterable[_ChoiceScores]) -> RedrawnChoice:
    losses, test_means = zip(*read, strict=True)
    R, S = len(rates), len(losses) // len(rates)
    shared = len({trial.split for trial in next(iter(arm.tried.values()))}) == 1
    losses_RN = np.stack(losses).reshape(R, S, -1).mean(1) if shared else None
    cost_RS = np.reshape(np.asarray(cost, np.float64), (R, S))
    choice_B = redrawn_choice(cost_RS, losses_RN)
    apart_BS = redrawn_choice_apart(cost_RS, losses_RN) if S >= FEWEST_SEEDS else None
    shifts: dict[str, dict[str, Array]] = {}
    results: dict[str, dict[str, dict[float, Array]]] = {}
    for method, scores in test_means[0].items():
        for score in scores:
            value_RS = np.array([means[method][score] for means in test_means]).reshape(R, S)
            results.setdefault(method, {})[score] = dict(zip(rates, value_RS, strict=True))
            shifts.setdefault(method, {})[score] = _shifts(arm, rates, value_RS, choice_B, apart_BS)
    counts = np.bincount(choice_B, minlength=R) / len(choice_B)
    shares = {rate: float(n) for rate, n in zip(rates, counts, strict=True) if n}
    costs = dict(zip(rates, cost_RS.mean(1).tolist(), strict=True))
    return RedrawnChoice(shares, shifts, costs, results, choice_B, apart_BS)


def shift_of(arm: Arm, again: RedrawnChoice, value_RS: Array) -> Array:
    """By how much the redrawn choices change a mean that is no score of the test split [V, B, S].

    Args:
        value_RS: the value at each candidate rate, in the order of `again.costs`, under each tuning seed.
    """
    assert again.together is not None, "it was chosen again"
    return _shifts(arm, list(again.costs), value_RS, again.together, again.apart)


def _shifts(
    arm: Arm, rates: Sequence[float], value_RS: Array, choice_B: NDArray[np.int64], apart_BS: NDArray[np.int64] | None
) -> Array:
    """By how much other choices change a score [V, B, S], see `RedrawnChoice.shifts`.

    Args:
        value_RS: its mean test score at each rate, under each tuning seed.
        choice_B: the choice of each draw for all seeds, an index of `rates`.
        apart_BS: for each tuning seed by the others; None where too few tune.
    """
    together = value_RS[choice_B] - value_RS[rates.index(arm.chosen)]
    if apart_BS is None:
        return np.stack([together])
    S = value_RS.shape[1]
    reported_S = [rates.index(arm.trials[trial.seed].lr) for trial in arm.tried[rates[0]]]
    apart = value_RS[apart_BS, np.arange(S)] - value_RS[reported_S, np.arange(S)]
    part = S / len(arm.trials)  # other seeds change with the choice of all as tuning seeds do
    return np.stack([together, part * apart + (1 - part) * together])


def _read(
    calibrators: Mapping[str, Calibrator], store: Results, select: str, trials: Sequence[Trial]
) -> list[_ChoiceScores]:
    """Of each trial the loss of each selection example, by `select`, and mean test scores by method."""
    read, losses = [], []
    for trial in trials:
        labels = store.labels(trial)
        Z = {split: trial.beta * values.double() for split, values in store.logits(trial).items()}
        losses.append(selection_losses(calibrators[REPAIRED], select, Z["selection"], labels["selection"]).numpy())
        read.append(TrialLogits(trial, Z["calibration"], Z["test"], labels["calibration"], labels["test"]))
    out: list[_ChoiceScores] = [(loss, {}) for loss in losses]
    for method, by_trial in predictions(read, calibrators):
        for i, (fitted, logp) in by_trial.items():
            values = scores_n(logp, read[i].y_test, *SCORES)
            means = {score: float(value_N.mean()) for score, value_N in zip(SCORES, values, strict=True)}
            kappa = {LOG_KAPPA: float(np.log(fitted["kappa"]))} if "kappa" in fitted else {}
            out[i][1][method] = means | kappa
    return out


def selection_losses(temperature: Calibrator, select: str, Z_NK: Tensor, y_N: Tensor) -> Tensor:
    """Per-example losses [N] whose mean is a score of `execute.worker.selection_scores`."""
    if select == "error":
        return (Z_NK.argmax(-1) != y_N).double()
    if select == "repaired_log_loss":
        return log_loss_n(temperature.apply(temperature.fit(Z_NK, y_N), Z_NK), y_N)
    return log_loss_n(Z_NK.log_softmax(-1), y_N)


def shift(arm: Any, reference: Any, *parts: tuple[str, str, float]) -> Array | None:
    """The change [V, B, S] of a contrast's mean under other choices of both arms' rates; None where either made none.

    A control runs at the rate that another arm chose: its contrasts are those at given rates.

    Args:
        arm, reference: `Measures`; without a reference, the arm's own mean.
        parts: method, score and factor: the contrast is the sum of the factors times the differences of these means.
    """
    sides = [(one.redrawn_choice, sign) for one, sign in ((arm, 1.0), (reference, -1.0)) if one is not None]
    if any(one is None for one, _ in sides):
        return None
    terms = [sign * factor * one.shifts[method][score] for one, sign in sides for method, score, factor in parts]
    if len({term.shape for term in terms}) > 1:
        return None
    return np.asarray(sum(terms), np.float64)


def with_choice(interval: Interval, move: Array | None) -> Interval:
    """An interval that counts the choice of rate too; as it is where no rate was chosen.

    Args:
        interval: of a mean or of a contrast.
        move: its changes under other choices, see `shift`.
    """
    return interval if move is None else widened(interval, choice_variance(move))
