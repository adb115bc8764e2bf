"""The plane of the two temperatures: trials over beta and the rate, read as cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from calib_bench import registry
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.analysis.tuned_arms import check_trains
from calib_bench.core.fate import DEAD
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Scores, Trial
from calib_bench.dynamics import stationary
from calib_bench.errors import SettingsError
from calib_bench.inference import collapsed
from calib_bench.inference.arrays import Array
from calib_bench.metrics import log_loss_n
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm

METRICS = ("error", "log_loss", "repaired_log_loss", "kappa")
LOGS = ("log_loss", "repaired_log_loss", "kappa")
"""Their variance is that of the logarithm: they range over orders of magnitude."""
LEARNED = 0.5
"""Cells whose repaired log loss is below this share of that of guessing have learned."""
PLACES = 6
"""Decimals to which log10 of a temperature is told apart."""


@dataclass(frozen=True)
class Cell:
    """One beta at one rate.

    Attributes:
        trials: one a seed.
        eta0: rate / ((1 - momentum) batch).
        values: of `METRICS` on the test split [S]; NaN where a seed diverged or failed.
        examples: "error" and "repaired_log_loss" by example [S, N]; empty when one did.
        failed: share of the seeds that diverged or failed.
        lost: how many seeds collapsed, of those that finished, by error or repaired log loss (`inference.collapsed`).
        temperatures: log T plus the influence of each calibration example on it [S, M], and first and second derivative
            in log T of each seed's repaired log loss [2, S] (`inference.fitted`); None where a seed did not finish.
    """

    trials: tuple[Trial, ...]
    eta0: float
    values: dict[str, Array]
    examples: dict[str, Array]
    failed: float
    lost: int = 0
    temperatures: tuple[Array, Array] | None = None

    @property
    def mixed(self) -> bool:
        """Whether some of the seeds collapsed, and some that finished did not."""
        return 0 < self.lost < round((1 - self.failed) * len(self.trials))

    @property
    def beta(self) -> float:
        """The inverse temperature."""
        return self.trials[0].beta

    @property
    def effective(self) -> float:
        """beta^2 eta0: what both set together in the lazy regime (Agarwala et al., arXiv 2010.07344)."""
        return float(f"{self.beta**2 * self.eta0:.10g}")

    def level(self, name: str) -> float:
        """What groups it: "effective", "eta0" or "beta", as a rounded log10."""
        return round(math.log10({"effective": self.effective, "eta0": self.eta0, "beta": self.beta}[name]), PLACES)

    @property
    def whole(self) -> bool:
        """Whether every seed finished."""
        return self.failed == 0


def families(grid: Grid) -> list[list[tuple[Trial, ...]]]:
    """Trials, one a seed, of every cell, by family: what is compared with each other.

    Raises:
        SettingsError: rates are relative to another quantity, or nothing is trained.
    """
    check_trains(grid, "two_temperatures")
    by_kind: dict[Trial, list[tuple[Trial, ...]]] = {}
    for template in tuning.templates(grid):
        if (unit := template.lr_unit) in ("lr_rel", "lr_hom"):
            raise SettingsError(
                f"a temperature is an absolute rate over a batch size: give lr_eff= or lr=, not {unit}="
            )
        kind = template.model_copy(update={"beta": 1.0, "lr": 1.0})
        for rate in grid.spaces[template.model]["lr"]:
            seeded = tuple(tuning.trial_at(grid, template, rate, seed) for seed in grid.seed)
            by_kind.setdefault(kind, []).append(seeded)
    return list(by_kind.values())


def base(grid: Grid, family: list[tuple[Trial, ...]], scores: Scores) -> Arm | None:
    """The cell at the reference's beta with the lowest mean selection score; None while one is missing, or if every one
    of them diverged."""
    cells = {trials[0].lr: trials for trials in family if trials[0].beta == grid.reference}
    means = {}
    for rate, trials in cells.items():
        trial_scores = [score for trial in trials if (score := scores(trial)) is not None]
        if not trial_scores or len(trial_scores) < len(trials):
            return None
        means[rate] = sum(trial_scores) / len(trial_scores)
    rate = min(means, key=lambda rate: (means[rate], rate))
    if math.isinf(means[rate]):
        return None
    return Arm(cells[rate][0], tuple(cells), means, rate, "tuned", {trial.seed: trial for trial in cells[rate]})


def read(store: Results, trials: tuple[Trial, ...]) -> Cell:
    """A cell as stored.

    Raises:
        StoreError: a trial cannot be read.
    """
    by_trial = {trial: _values(store, trial) for trial in trials if store.state(trial) == "done"}
    finished = list(by_trial.values())
    every_seed = len(finished) == len(trials)
    values = {name: np.array([_value(by_trial.get(trial), name) for trial in trials]) for name in METRICS}
    dead = [store.fate(trial) == DEAD for trial in by_trial]
    classes = int(store.split_info(trials[0])["classes"])
    return Cell(
        trials=trials,
        eta0=_eta0(store, trials[0]),
        values=values,
        examples=_stacked_examples(finished) if every_seed else {},
        failed=(len(trials) - len(finished)) / len(trials),
        lost=_lost([one.values for one in finished], dead, classes),
        temperatures=_stacked_temperatures(finished) if every_seed else None,
    )


def _eta0(store: Results, trial: Trial) -> float:
    """SGD's temperature of a trial, its batch no larger than the training split."""
    rate = trial.lr if trial.lr_unit == "lr" else trial.lr / trial.beta**2
    train = int(store.split_info(trial)["sizes"]["train"])
    return stationary.eta0(rate, min(trial.batch, train), trial.momentum)


class _Scored(NamedTuple):
    """What one trial scores on the test split.

    Attributes:
        values: of `METRICS`.
        examples: "error" and "repaired_log_loss" by example, [N].
        log_T: log T plus the influence of each calibration example on it, [M].
        slopes: first and second derivative in log T of the repaired log loss, [2].
    """

    values: dict[str, float]
    examples: dict[str, Array]
    log_T: Array
    slopes: Array


def _value(scored: _Scored | None, name: str) -> float:
    return math.nan if scored is None else scored.values[name]


def _stacked_examples(scored: list[_Scored]) -> dict[str, Array]:
    """Scores by example, [S, N]."""
    return {name: np.stack([one.examples[name] for one in scored]) for name in scored[0].examples}


def _stacked_temperatures(scored: list[_Scored]) -> tuple[Array, Array] | None:
    """See `Cell.temperatures`; None where seeds have calibration splits of different sizes."""
    if len({len(one.log_T) for one in scored}) != 1:
        return None
    return np.stack([one.log_T for one in scored]), np.stack([one.slopes for one in scored], 1)


def _lost(values: list[dict[str, float]], dead: list[bool], classes: int) -> int:
    """How many seeds are dead or collapsed, of the values of those that finished."""
    chance = {"error": 1 - 1 / classes, "repaired_log_loss": math.log(classes)}
    lost = [collapsed([one[name] for one in values], guess, largest=False) for name, guess in chance.items()]
    return int(np.stack([np.array(dead, bool), *lost]).any(0).sum())


def _values(store: Results, trial: Trial) -> _Scored:
    """What a finished trial scores, as it is and after temperature scaling."""
    temperature = registry.load("baselines", "temperature_scaling")
    logits, labels = store.logits(trial), store.labels(trial)
    Z = {split: trial.beta * logits[split].double() for split in ("calibration", "test")}
    y = labels["test"]
    params = temperature.fit(Z["calibration"], labels["calibration"])
    logp = temperature.apply(params, Z["test"])
    repaired = log_loss_n(logp, y)
    log_T = log_kappa_n(Z["calibration"], labels["calibration"], float(params["temperature"])).numpy()
    if bool(params["at_bound"]):  # no influence that could be told, as in `calibration_variance.fitted_to`
        log_T = np.full_like(log_T, log_T.mean())
    slopes = np.array(temperature_slopes(logp, y)["log_loss"])
    wrong = (Z["test"].argmax(-1) != y).double()
    values = {
        "error": float(wrong.mean()),
        "log_loss": float(log_loss_n(Z["test"].log_softmax(-1), y).mean()),
        "repaired_log_loss": float(repaired.mean()),
        "kappa": float(params["temperature"]),
    }
    return _Scored(values, {"error": wrong.numpy(), "repaired_log_loss": repaired.numpy()}, log_T, slopes)


def learned(cells: list[Cell], classes: int) -> list[Cell]:
    """The cells that have learned something, see `LEARNED`."""
    return [c for c in cells if c.whole and c.values["repaired_log_loss"].mean() < LEARNED * math.log(classes)]


def measured(cells: list[Cell], metric: str) -> Array:
    """[C, S], of the logarithm where the metric ranges over orders of magnitude."""
    values = np.stack([cell.values[metric] for cell in cells])
    return np.log(values) if metric in LOGS else values


def block(cells: list[Cell]) -> list[list[Cell]]:
    """The largest complete block of neighbouring levels of effective temperature and neighbouring betas, every cell of
    which finished with every seed: rows are temperatures. Empty when there is none of two by two."""
    finished = {(cell.level("effective"), cell.level("beta")): cell for cell in cells if cell.whole}
    heats, betas = (sorted({place[i] for place in finished}) for i in (0, 1))
    blocks = itertools.product(_ranges(heats), list(_ranges(betas)))
    complete = [block for block in blocks if finished.keys() >= set(itertools.product(*block))]
    rows, columns = max(complete, key=lambda block: math.prod(map(len, block)), default=((), ()))
    return [[finished[row, column] for column in columns] for row in rows]


def _ranges(levels: list[float]) -> Iterator[list[float]]:
    """Neighbouring levels, two at least."""
    for start in range(len(levels)):
        for stop in range(start + 2, len(levels) + 1):
            yield levels[start:stop]
