"""Stored logits to numbers: every calibrator fitted, applied and measured, one arm at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from calib_bench.analysis import rate_choice
from calib_bench.analysis.rate_choice import RedrawnChoice
from calib_bench.analysis.trial_predictions import (
    RAW,
    REPAIRED,
    Sentences,
    TrialLogits,
    on_trials,
    predictions,
)
from calib_bench.core.baseline import Calibrator
from calib_bench.core.fate import DEAD
from calib_bench.core.results import Results
from calib_bench.core.trial import Trial
from calib_bench.inference import Fitted, ece_null
from calib_bench.inference import fitted as fitted_temperatures
from calib_bench.metrics import measure, reliability
from calib_bench.metrics.masks import offered, zeroed
from calib_bench.planning.tuning import Arm

if TYPE_CHECKING:
    from torch import Tensor


SPLIT = ("log_loss", "brier")
"""Scores that a temperature splits into what it repairs and what is left."""
PER_EXAMPLE = ("log_loss", "brier", "correct", "confidence")
METRICS = (
    "accuracy", "log_loss", "brier", "ece", "ece_positive", "adaptive_ece", "classwise_ece", "smece", "mce",
    "debiased_squared_ece", "mean_confidence", "mean_entropy", "aurc", "e_aurc", "smece_positive",
)  # fmt: skip


STACK_VALUES = 1 << 21
"""Log probabilities that are measured at once: 16 MiB."""

_Row = tuple[str, dict[str, Any], dict[str, np.ndarray], pd.DataFrame | None]
"""Method, table row, per-example scores [N] and, where kept, reliability bins."""

FINISHED = ("done", DEAD)
"""Status of a trial that left logits."""


@dataclass(frozen=True)
class Measures:
    """What one arm's trials score on the test split.

    Attributes:
        arm: the arm, its trials at the chosen rate.
        frame: one row per (trial, method): key, seed, method, the scalar metrics, kappa (repaired rows), fit_seconds,
            and for the raw and repaired rows ece_null and ece_p (consistency resampling).
        examples: by method then score of PER_EXAMPLE: float64 [S, N], rows in the order of `seeds`.
        reliability: bins of the raw and repaired probabilities, seeds pooled: method, bin, count, confidence, accuracy.
        log_kappa: float64 [S, M] over the calibration examples: log kappa plus each example's first-order influence on
            it. Row means are log kappa, so that its interval is that of a mean, over seeds and calibration examples.
        slopes: by score, log loss and Brier: first and second derivative in log T of each seed's mean test score after
            the temperature, float64 [2, S]; see `fitted_to`.
        at_bound: seeds whose temperature stopped at a bound (separable or opposing calibration logits).
        seeds: seeds that finished, dead ones too.
        diverged: seeds whose training diverged.
        dead: those of `seeds` that ended no better than guessing, see `calib_bench.core.fate`.
        missing: seeds not trained yet, or failed.
        refused: by calibrator that could not be fitted to some seed's logits, what it said; it is left out everywhere.
        cautions: by calibrator that was fitted, what is to be known of its calibration set (`Calibrator.warn`).
        redrawn_choice: results at the rates that other selection data would have chosen; None where no rate was chosen.
    """

    arm: Arm
    frame: pd.DataFrame
    examples: Mapping[str, Mapping[str, Tensor]]
    reliability: pd.DataFrame
    log_kappa: Tensor | None
    at_bound: tuple[int, ...]
    seeds: tuple[int, ...]
    diverged: tuple[int, ...]
    missing: tuple[int, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    cautions: Mapping[str, str] = field(default_factory=dict)
    slopes: Mapping[str, Tensor] = field(default_factory=dict)
    redrawn_choice: RedrawnChoice | None = None
    dead: tuple[int, ...] = ()


def measure_arm(store: Results, arm: Arm, calibrators: Mapping[str, Calibrator], scale: float = 1.0) -> Measures:
    """Measures an arm's trials with no calibrator ("raw") and after each of `calibrators`.

    Memory is that of one large trial's logits, or of a few small ones', and the arm's per-example scores; inside
    `pool.workers`, of as many a worker.

    Args:
        calibrators: by name; each is fitted on the calibration split and applied to the test split.
        scale: factor on the logits Z = beta z before anything else: a control, 1 otherwise.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    return begun(store, arm, calibrators, scale)()


def begun(
    store: Results, arm: Arm, calibrators: Mapping[str, Calibrator], scale: float = 1.0
) -> Callable[[], Measures]:
    """`measure_arm`, to be called for its result: inside `pool.workers` others may go on with it until then."""

    status = {seed: store.fate(trial) for seed, trial in sorted(arm.trials.items())}
    # A control of other logits stands at the rate that its arm chose.
    again = rate_choice.begun(store, arm) if scale == 1.0 and REPAIRED in calibrators else None
    done = [arm.trials[seed] for seed, state in status.items() if state in FINISHED]
    return partial(_whole, arm, status, on_trials(_measured, store, done, calibrators, scale), again)


def _whole(
    arm: Arm,
    status: Mapping[int, str],
    measured: Iterable[tuple[list[_Row], Sentences, Sentences]],
    again: Callable[[], RedrawnChoice | None] | None,
) -> Measures:
    """One arm's measures from those of its trials that are done."""
    rows: list[dict[str, Any]] = []
    bins: list[pd.DataFrame] = []
    examples: dict[str, dict[str, list[np.ndarray]]] = {}
    log_kappa: list[np.ndarray] = []
    slopes: dict[str, list[np.ndarray]] = {}
    refused: Sentences = {}
    cautions: Sentences = {}
    for state, declined, cautioned in measured:
        refused |= {name: text for name, text in declined.items() if name not in refused}
        cautions = {**cautioned, **cautions}
        for method, row, values, curve in state:
            if method == REPAIRED:
                log_kappa.append(values["log_kappa_n"])
                for name in SPLIT:
                    slopes.setdefault(name, []).append(values[f"{name}_slopes"])
            rows.append(row)
            kept = examples.setdefault(method, {name: [] for name in PER_EXAMPLE})
            for name in PER_EXAMPLE:
                kept[name].append(values[name])
            if curve is not None:
                bins.append(curve)
    rows = [row for row in rows if row["method"] not in refused]
    examples = {method: kept for method, kept in examples.items() if method not in refused}
    return Measures(
        arm=arm,
        frame=pd.DataFrame(rows),
        examples={m: {name: _stack(v) for name, v in kept.items()} for m, kept in examples.items()},
        reliability=_pool(bins),
        log_kappa=_stack(log_kappa) if log_kappa and len({len(v) for v in log_kappa}) == 1 else None,
        at_bound=tuple(row["seed"] for row in rows if row.get("at_bound")),
        seeds=tuple(seed for seed, state in status.items() if state in FINISHED),
        diverged=tuple(seed for seed, state in status.items() if state == "diverged"),
        missing=tuple(seed for seed, state in status.items() if state not in (*FINISHED, "diverged")),
        refused=refused,
        cautions={method: text for method, text in cautions.items() if method not in refused},
        slopes={name: _stack(pairs).T for name, pairs in slopes.items()},
        redrawn_choice=again() if again is not None else None,
        dead=tuple(seed for seed, state in status.items() if state == DEAD),
    )


def _measured(
    calibrators: Mapping[str, Calibrator], store: Results, scale: float, trials: Sequence[Trial]
) -> list[tuple[list[_Row], Sentences, Sentences]]:
    """Of each trial its rows, raw first, then each calibrator's; and what the calibrators said that it does without,
    and of its calibration set.

    Small predictions are measured several methods at a time: the metrics' own pass is shared.
    """
    read = [TrialLogits.of(store, trial, scale) for trial in trials]
    rows: list[list[_Row]] = [[] for _ in trials]
    together = max(1, STACK_VALUES // sum(one.test.numel() for one in read))
    found = predictions(read, calibrators)
    while batch := list(islice(found, together)):
        for i, one in enumerate(read):
            rows[i] += _scored(one, [(method, *by_trial[i]) for method, by_trial in batch if i in by_trial])
    return [(mine, one.refused, one.cautions(calibrators)) for mine, one in zip(rows, read, strict=True)]


def own_tests(store: Results, arms: Iterable[Arm]) -> bool:
    """Whether seeds have test examples of their own: they differ in their split, and the test set is carved too."""
    splits = {trial.split: trial for arm in arms for trial in arm.trials.values() if store.has(trial)}
    tests = {store.labels(trial)["test"].numpy().tobytes() for trial in splits.values()}
    return len(tests) > 1


def _scored(one: TrialLogits, predictions: Sequence[tuple[str, dict[str, Any], Tensor]]) -> Iterator[_Row]:
    """Rows of predictions: method, what its fit tells, log probabilities of the test split."""
    if not predictions:
        return
    every = measure(torch.stack([logp for _, _, logp in predictions]), one.y_test)
    for i, (method, fitted, logp) in enumerate(predictions):
        values = {name: value[i] for name, value in every.items()}
        row = {"key": one.trial.key, "seed": one.trial.seed, "method": method, **fitted}
        row |= {name: float(values[name]) for name in METRICS if name in values}
        curve = None
        if method in (RAW, REPAIRED):
            row["ece_null"], row["ece_p"] = ece_null(logp, one.y_test)
            curve = pd.DataFrame(reliability(logp, one.y_test)._asdict()).assign(method=method)
        kept = {name: values[f"{name}_n"].numpy() for name in PER_EXAMPLE}
        if method == REPAIRED:
            kept["log_kappa_n"] = log_kappa_n(one.calibration, one.y_calibration, row["kappa"]).numpy()
            slopes = temperature_slopes(logp, one.y_test)
            kept |= {f"{name}_slopes": np.array(pair) for name, pair in slopes.items()}
        yield method, row, kept, curve


def log_kappa_n(Z_NK: Tensor, y_N: Tensor, kappa: float) -> Tensor:
    """log kappa plus the first-order influence of each calibration example on it: [N], whose mean is log kappa.

    kappa minimizes the mean log loss of softmax(Z / kappa), so that with s = 1 / kappa the mean of
    a_n = E_p[Z_n] - Z_n,y is zero, and an example moves log kappa by a_n / (s mean Var_p[Z]): one Newton step.
    """
    Z_NK = offered(Z_NK)
    p_NK = (Z_NK / kappa).softmax(-1)
    Z_NK = zeroed(Z_NK)  # a class that is not offered has no part in it
    mean_N = (p_NK * Z_NK).sum(-1)
    a_N = mean_N - Z_NK.gather(-1, y_N[:, None])[:, 0]
    variance = ((p_NK * Z_NK.square()).sum(-1) - mean_N.square()).mean()
    influence_N = (a_N - a_N.mean()) * kappa / variance
    return math.log(kappa) + torch.where(influence_N.isfinite(), influence_N, 0.0)


def temperature_slopes(logp_NK: Tensor, y_N: Tensor) -> dict[str, tuple[float, float]]:
    """First and second derivative in log T of mean log loss and Brier score of softmax(Z / T), at log p [N, K].

    With l = log p less its mean under p and v the variance, d p / d log T = -p l and d l / d log T = -l + v.
    """
    log_NK = logp_NK.double().clamp(min=-800.0)  # exp(-800) is zero, and 0 * -inf is not
    p_NK = log_NK.exp()
    l_NK = log_NK - (p_NK * log_NK).sum(-1, keepdim=True)
    v_N = (p_NK * l_NK.square()).sum(-1, keepdim=True)
    moved_NK = -p_NK * l_NK
    again_NK = p_NK * (l_NK.square() + l_NK - v_N)
    slope_N = l_NK.gather(-1, y_N[:, None])[:, 0]
    p_NK.scatter_add_(-1, y_N[:, None], torch.full((len(y_N), 1), -1.0, dtype=torch.float64))
    brier_N = 2 * (p_NK * moved_NK).sum(-1)
    curved_N = 2 * (moved_NK.square() + p_NK * again_NK).sum(-1)
    log_loss = float(slope_N.mean()), float((v_N[:, 0] - slope_N).mean())
    return {"log_loss": log_loss, "brier": (float(brier_N.mean()), float(curved_N.mean()))}


def fitted_to(score: str, *sides: tuple[float, Measures, Sequence[int]]) -> Fitted | None:
    """What calibration examples add to a sum of arms' mean scores after their temperatures.

    The arms of one seed are fitted on the same calibration examples. A temperature at a bound has no influence that
    could be told: it is taken as it is.

    Args:
        score: of SPLIT.
        sides: an arm's weight in the sum, the arm, and the places of the seeds in it: the same seeds in all.

    Returns:
        None where calibration sets differ in size between seeds, so that only seeds are independent.
    """
    log_T, pairs = [], []
    for _, arm, places in sides:
        if arm.log_kappa is None or score not in arm.slopes or not places:
            return None
        values = arm.log_kappa[list(places)].clone()
        for i, place in enumerate(places):
            if arm.seeds[place] in arm.at_bound:
                values[i] = values[i].mean()
        log_T.append(values)
        pairs.append(arm.slopes[score][:, list(places)])
    if len({values.shape for values in log_T}) > 1:
        return None
    slope, curvature = torch.stack(pairs, 1)
    shared = all(same_calibration(arm) for _, arm, _ in sides)
    return fitted_temperatures(torch.stack(log_T), slope, curvature, [weight for weight, _, _ in sides], shared)


def same_calibration(arm: Measures) -> bool:
    """Whether all seeds of an arm have the same calibration examples: one split."""
    return len({trial.split for trial in arm.arm.trials.values()}) == 1


def _stack(values: Sequence[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(values))


def _pool(curves: list[pd.DataFrame]) -> pd.DataFrame:
    """Bins of several seeds as one: counts added, means weighted by count, empty bins left out."""
    if not curves:
        return pd.DataFrame(columns=["method", "bin", "count", "confidence", "accuracy"])
    frame = pd.concat(curves).rename_axis("bin").reset_index().query("count > 0")
    for column in ("confidence", "accuracy"):
        frame[column] *= frame["count"]
    pooled = frame.groupby(["method", "bin"], as_index=False, sort=True).sum()
    for column in ("confidence", "accuracy"):
        pooled[column] /= pooled["count"]
    return pooled
