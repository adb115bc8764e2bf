"""Ensembles over stored seeds: what pooling gains, before and after repair, and whether it reverses an order of arms.

The seeds of an arm are pooled by the mean of their probabilities (Lakshminarayanan et al., 2017, arXiv 1612.01474):
as they are; each temperature-scaled first; and pooled first, then scaled by one temperature that is fitted to the
pooled log probabilities of the calibration split. Members that are calibrated make an underconfident mean, so that the
temperature belongs after pooling (Rahaman & Thiery, 2021, arXiv 2007.08792).

An arm has one ensemble. How it varies with its seeds is known by the jackknife (Efron & Stein, 1981): with e the score
of the ensemble of S seeds on an example and e_s that of the ensemble without seed s, the values e + (S - 1) (mean_s e_s
- e_s) have the mean e over seeds, and their means vary between seeds as a mean of independent seeds would. So they are
crossed with the examples like the scores of single seeds, and arms are paired by seed and example. The calibration
examples count by a jackknife over folds, the choice of rates by ensembles of the tuning seeds at every rate that might
have been chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from calib_bench import registry
from calib_bench.analysis import collapse, fitting
from calib_bench.analysis.findings import findings_of, overview
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import Row, fields
from calib_bench.analysis.scores import MEANS, REPAIRED
from calib_bench.analysis.table_notes import NAMES, families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.inference import (
    Fitted,
    Interval,
    choice_variance,
    difference_interval,
    jackknifed,
    score_interval,
    widened,
    within,
)
from calib_bench.inference.arrays import Array
from calib_bench.metrics import ece
from calib_bench.metrics.scores import scores_n

SINGLE, SINGLE_REPAIRED = "single seeds", "single seeds, temperature scaled"
POOLED, REPAIRED_POOLED = "pooled", "temperature scaled, then pooled"
POOLED_REPAIRED = "pooled, then temperature scaled"
GAINS = {POOLED: SINGLE, REPAIRED_POOLED: SINGLE_REPAIRED, POOLED_REPAIRED: SINGLE_REPAIRED}
"""Methods of pooling, and what each is compared with."""
METRICS = ("accuracy", "log_loss", "brier")
SCORES = tuple(MEANS[metric] for metric in METRICS)
FOLDS = 5
LEAST = 2
"""Seeds of which an ensemble is made at least."""


@dataclass(frozen=True)
class Members:
    """The seeds of an ensemble: log probabilities [S, M, K] of the calibration split, [S, N, K] of the test split."""

    calibration: Tensor
    test: Tensor
    y_calibration: Tensor
    y_test: Tensor

    @classmethod
    def of(cls, store: Results, trials: Sequence[Trial]) -> Members:
        """Those of stored trials that share their split."""
        labels = store.labels(trials[0])
        read = [store.logits(trial) for trial in trials]
        calibration, test = (
            torch.stack([
                (trial.beta * logits[split].double()).log_softmax(-1)
                for trial, logits in zip(trials, read, strict=True)
            ])
            for split in ("calibration", "test")
        )  # fmt: skip
        return cls(calibration, test, labels["calibration"], labels["test"])

    def __len__(self) -> int:
        return len(self.test)

    def temperatures(self, rows: Tensor) -> Tensor:
        """Each member's temperature [S, 1, 1], fitted to some rows of the calibration split."""
        fits = _temperature().fits(self.calibration[:, rows], self.y_calibration[rows].expand(len(self), -1))
        return torch.stack([fit["temperature"].double() for fit in fits])[:, None, None]

    def singles(self, T_S11: Tensor) -> dict[str, Tensor]:
        """Log probabilities [S, N, K] of every member by method, at these temperatures."""
        return {SINGLE: self.test, SINGLE_REPAIRED: (self.test / T_S11).log_softmax(-1)}

    def pooled(self, singles: Mapping[str, Tensor], rows: Tensor, members: Tensor) -> tuple[dict[str, Tensor], float]:
        """Log probabilities [N, K] of the ensemble of some members by method, and the pooled temperature.

        Args:
            singles: of `singles`.
            rows: of the calibration split, to which the pooled temperature is fitted.
            members: their places.
        """
        plain = mean_probability(singles[SINGLE][members])
        fit = fitting.fitted(
            _temperature(), mean_probability(self.calibration[members][:, rows]), self.y_calibration[rows]
        )
        repaired = mean_probability(singles[SINGLE_REPAIRED][members])
        after = fitting.applied(_temperature(), fit, plain)
        by_method = {POOLED: plain, REPAIRED_POOLED: repaired, POOLED_REPAIRED: after}
        return by_method, float(fit["temperature"])


def mean_probability(logp_SNK: Tensor) -> Tensor:
    """Log of the mean over S members of their probabilities [N, K]."""
    return logp_SNK.logsumexp(0) - np.log(len(logp_SNK))


@cache
def _temperature() -> Calibrator:
    return registry.calibrators((REPAIRED,))[REPAIRED]


@dataclass(frozen=True)
class Varying:
    """A mean over test examples of an ensemble, or of its seeds one by one, and all that it varies with.

    Attributes:
        values: [S, N], with the mean itself; see the module's docstring.
        folds: the mean without each of F folds of the calibration examples [F].
        moves: by how much each draw of another choice of rate changes it [B]; one 0 where no rate was chosen.
    """

    values: Array
    folds: Array
    moves: Array

    def __sub__(self, other: Varying) -> Varying:
        return Varying(self.values - other.values, self.folds - other.folds, self.moves - other.moves)

    @property
    def mean(self) -> float:
        """The mean."""
        return float(self.values.mean())

    def interval(self, metric: str, difference: bool = True) -> Interval:
        """Its interval over seeds, test and calibration examples and the choice of rates."""
        fit: Fitted | None = None
        if np.ptp(self.folds) > 0:
            fit = jackknifed(np.broadcast_to(self.folds, (len(self.values), FOLDS)))
        sampled = (difference_interval if difference else score_interval)(metric, self.values, fit=fit)
        return within(widened(sampled, choice_variance(self.moves[:, None])), metric, difference)


@dataclass(frozen=True)
class Ensemble:
    """One arm's ensemble beside its single seeds.

    Attributes:
        name: the columns that name the arm.
        seeds: those that are pooled.
        scores: by method, then score of SCORES.
        ece: by method, that of the ensemble, or the mean over seeds.
        kappa: by method that fits temperatures, what it fitted; the geometric mean over seeds where each has its own.
        two_kinds: the column TWO_KINDS where some seeds collapsed, else empty.
    """

    name: Row
    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[str, Varying]]
    ece: Mapping[str, float]
    kappa: Mapping[str, float]
    two_kinds: Row


def read(store: Results, measures: Measures, name: Row, nested: bool) -> Ensemble | None:
    """An arm's ensemble; None of fewer seeds than LEAST, or where seeds have test examples of their own.

    All its seeds' log probabilities are in memory, in float64, and the test split's a second time, repaired.

    Args:
        name: the columns that name the arm.
        nested: whether seeds have test examples of their own.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    if nested or len(measures.seeds) < LEAST:
        return None
    members = Members.of(store, [measures.arm.trials[seed] for seed in measures.seeds])
    every = torch.arange(len(members.y_calibration))
    T_S11 = members.temperatures(every)
    singles = members.singles(T_S11)
    pooled, T = members.pooled(singles, every, torch.arange(len(members)))
    values = _over_seeds(members, singles, pooled)
    folds = _over_folds(members, _means({SINGLE: members.test, POOLED: pooled[POOLED]}, members.y_test))
    moves = _over_rates(store, measures)
    scores = {
        method: {score: Varying(values[method][score], folds[method][score], moves[method][score]) for score in SCORES}
        for method in values
    }
    return Ensemble(
        name=name,
        seeds=measures.seeds,
        scores=scores,
        ece={method: float(ece(logp, members.y_test).mean()) for method, logp in (singles | pooled).items()},
        kappa={SINGLE_REPAIRED: float(T_S11.log().mean().exp()), POOLED_REPAIRED: T},
        two_kinds=collapse.two_kinds(measures),
    )


ByScore = dict[str, dict[str, "Array"]]
"""Arrays by method, then score of SCORES."""


def _scores(by_method: Mapping[str, Tensor], y_N: Tensor) -> ByScore:
    """Every example's scores [..., N] of log probabilities [..., N, K]."""
    return {
        method: dict(zip(SCORES, (values.numpy() for values in scores_n(logp, y_N, *SCORES)), strict=True))
        for method, logp in by_method.items()
    }


def _means(by_method: Mapping[str, Tensor], y_N: Tensor) -> dict[str, dict[str, float]]:
    scores = _scores(by_method, y_N)
    return {method: {score: float(v.mean()) for score, v in by_score.items()} for method, by_score in scores.items()}


def _over_seeds(members: Members, singles: Mapping[str, Tensor], pooled: Mapping[str, Tensor]) -> ByScore:
    """`Varying.values`: scores of single seeds, and the jackknife's values of the ensembles [S, N]."""
    S, every = len(members), torch.arange(len(members.y_calibration))
    values = _scores(singles, members.y_test)
    without = []
    for s in range(S):
        others = torch.tensor([i for i in range(S) if i != s])
        without.append(_scores(members.pooled(singles, every, others)[0], members.y_test))
    for method, by_score in _scores(pooled, members.y_test).items():
        values[method] = {}
        for score, e_N in by_score.items():
            e_SN = np.stack([one[method][score] for one in without])
            values[method][score] = e_N + (S - 1) * (e_SN.mean(0) - e_SN)
    return values


def _over_folds(members: Members, plain: Mapping[str, dict[str, float]]) -> ByScore:
    """`Varying.folds`: mean scores with temperatures that were fitted without each fold [F]; `plain` need none."""
    M, everyone = len(members.y_calibration), torch.arange(len(members))
    order = torch.from_numpy(np.random.default_rng(0).permutation(M))
    rows = []
    for fold in range(FOLDS):
        left = order[torch.arange(M) % FOLDS != fold]
        singles = members.singles(members.temperatures(left))
        after = singles | members.pooled(singles, left, everyone)[0]
        fitted = {method: logp for method, logp in after.items() if method not in plain}
        rows.append({**plain, **_means(fitted, members.y_test)})
    return _stacked(rows)


def _over_rates(store: Results, measures: Measures) -> ByScore:
    """`Varying.moves`: by how much the ensemble of the tuning seeds changes with each draw of another rate [B]."""
    choice, arm = measures.redrawn_choice, measures.arm
    if choice is None or arm.chosen is None or len(choice.shares) < LEAST or len(arm.tried[arm.chosen]) < LEAST:
        nothing = dict.fromkeys(SCORES, np.zeros(1))
        return dict.fromkeys((*GAINS.values(), *GAINS), nothing)
    rates, places = np.unique([*choice.drawn, arm.chosen], return_inverse=True)
    stacked = _stacked([_at_rate(store, arm.tried[rate]) for rate in rates])
    return {
        method: {score: values[places[:-1]] - values[places[-1]] for score, values in by_score.items()}
        for method, by_score in stacked.items()
    }


def _at_rate(store: Results, trials: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Mean scores of the ensemble of the tuning seeds at one rate, by method."""
    members = Members.of(store, trials)
    every = torch.arange(len(members.y_calibration))
    singles = members.singles(members.temperatures(every))
    return _means(singles | members.pooled(singles, every, torch.arange(len(members)))[0], members.y_test)


def _stacked(rows: Sequence[Mapping[str, Mapping[str, float]]]) -> ByScore:
    return {method: {score: np.array([row[method][score] for row in rows]) for score in SCORES} for method in rows[0]}


def rows(ensemble: Ensemble) -> list[Row]:
    """A row a method: means over examples with their limits, ECE, temperatures, and what pooling gains."""
    return [_row(ensemble, method) for method in (*dict.fromkeys(GAINS.values()), *GAINS)]


def _row(ensemble: Ensemble, method: str) -> Row:
    row: Row = {**ensemble.name, "method": method, "members": len(ensemble.seeds)}
    for metric, score in zip(METRICS, SCORES, strict=True):
        interval = ensemble.scores[method][score].interval(metric, difference=False)
        row |= {metric: interval.mean, f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    row |= {"ece": ensemble.ece[method], "kappa": ensemble.kappa.get(method)}
    if method in GAINS:
        for metric, score in zip(METRICS, SCORES, strict=True):
            gain = ensemble.scores[method][score] - ensemble.scores[GAINS[method]][score]
            row |= fields(f"pooling_{metric}", gain.interval(metric))
    return row | ensemble.two_kinds


def light(ensemble: Ensemble) -> Ensemble:
    """The ensemble with its log loss alone, to save memory."""
    scores = {method: {"log_loss": by_score["log_loss"]} for method, by_score in ensemble.scores.items()}
    return Ensemble(ensemble.name, ensemble.seeds, scores, {}, {}, ensemble.two_kinds)


LEFT_OUT = (
    "counted are seeds (by the jackknife, leaving out one at a time), test examples, the calibration examples behind "
    f"temperatures (by leaving out a {FOLDS}th at a time) and the choice of rates (by ensembles of the tuning seeds); "
    "left out is that more or fewer seeds would make another ensemble"
)
"""What intervals of ensembles count, for notes."""


TOLD = (("pooling_accuracy", "accuracy", ""), ("pooling_log_loss", "repaired log loss", "nats"))
"""Gains that the note tells of, with their names in it and their units."""


def _words(frame: pd.DataFrame, _: Grid) -> Iterator[str]:
    """Sentences on what pooling gains over single seeds, both repaired, under cross-entropy."""
    for where, group in families(frame[frame["method"] == POOLED_REPAIRED]):
        arm_rows = group[group["objective"] == CROSS_ENTROPY].sort_values("beta").to_dict("records")
        gains = [gain for column in TOLD for gain in findings_of(arm_rows, *column)]
        yield f"{where}What pooling changes. {overview(gains, estimates=True)}"


TABLE = TableSpec(
    "Ensembles: the seeds of an arm pooled, before and after repair",
    (
        "Means of probabilities over an arm's seeds, test split; pooled, then temperature scaled: one temperature, "
        "fitted to the pooled log probabilities of the calibration split. pooling: the ensemble minus the mean of "
        "single seeds, both repaired or neither",
        f"95% intervals; {LEFT_OUT}. ECE has no interval here",
        "kappa: the temperature in units of beta; below 1 what was scaled was underconfident",
        f"{STAR} over the arms, for each method and column",
    ),
    names=(*NAMES, "method"),
    first=("members", "accuracy", "log_loss", "ece", "kappa", "pooling_accuracy", "pooling_log_loss"),
    holm=("method",),
    words=_words,
)
