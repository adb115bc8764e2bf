"""Stored logits to numbers: every calibrator fitted, applied and measured, one arm at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from calib_bench.analysis import rate_choice
from calib_bench.analysis.rate_choice import RedrawnChoice
from calib_bench.analysis.scores import METRICS, RAW, REPAIRED, SETS, split_measured
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.analysis.trial_predictions import Sentences, TrialLogits, on_trials, predictions
from calib_bench.core.baseline import Calibrator
from calib_bench.core.fate import DEAD, DIVERGED
from calib_bench.core.results import Results
from calib_bench.core.trial import Trial
from calib_bench.inference import ece_null
from calib_bench.metrics import measure, prediction_sets, reliability
from calib_bench.planning.tuning import Arm

SPLIT = ("log_loss", "brier")
"""Scores that a temperature splits into what it repairs and what is left."""
PER_EXAMPLE = ("log_loss", "brier", "correct", "confidence")
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
            the temperature, float64 [2, S]; see `calibration_variance.fitted_to`.
        at_bound: seeds whose temperature stopped at a bound (separable or opposing calibration logits).
        seeds: seeds that finished, dead ones too.
        diverged: seeds whose training diverged.
        dead: those of `seeds` that ended no better than guessing, see `calib_bench.core.fate`.
        sets: of the raw and repaired probabilities, by method then metric of SETS: each test example's value, float64
            [S, N].
        set_influences: the same, of each calibration example through the threshold, float64 [S, M]; empty where
            calibration sets differ in size.
        missing: seeds not trained yet, or failed.
        refused: by calibrator that could not be fitted to some seed's logits, the reason; it is left out everywhere.
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
    sets: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    set_influences: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)

    def light(self) -> Self:
        """The same with only the scores before and after temperature scaling, to save memory."""
        kept = {method: scores for method, scores in self.examples.items() if method in (RAW, REPAIRED)}
        return replace(self, examples=kept)

    def places(self, seeds: Iterable[int]) -> list[int]:
        """Where seeds that finished stand among the rows of scores."""
        return [self.seeds.index(seed) for seed in seeds]

    def scores(self, method: str, score: str, seeds: Iterable[int]) -> Tensor:
        """Per-example scores [S, N] of some seeds that finished, in their order."""
        return self.examples[method][score][self.places(seeds)]


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
    """Starts `measure_arm`; the function returned gives its result. Inside `pool.workers`, workers go on meanwhile."""
    status = {seed: store.fate(trial) for seed, trial in sorted(arm.trials.items())}
    # A control of other logits stands at the rate that its arm chose.
    again = rate_choice.begun(store, arm) if scale == 1.0 and REPAIRED in calibrators else None
    done = [arm.trials[seed] for seed, state in status.items() if state in FINISHED]
    return partial(_measures, arm, status, on_trials(_measured, store, done, calibrators, scale), again)


@dataclass
class _TrialScores:
    """What an arm's finished trials gave, one after another: the attributes of `Measures` before seeds are stacked."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    bins: list[pd.DataFrame] = field(default_factory=list)
    examples: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    sets: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    set_influences: dict[str, dict[str, list[np.ndarray]]] = field(default_factory=dict)
    log_kappa: list[np.ndarray] = field(default_factory=list)
    slopes: dict[str, list[np.ndarray]] = field(default_factory=dict)
    refused: Sentences = field(default_factory=dict)
    cautions: Sentences = field(default_factory=dict)

    def add(self, method_rows: Iterable[_Row], refused: Sentences, cautions: Sentences) -> None:
        """Adds one trial; of what calibrators said, the first trial's words stay."""
        for method, text in refused.items():
            self.refused.setdefault(method, text)
        self.cautions = {**cautions, **self.cautions}
        for method, row, values, curve in method_rows:
            self.rows.append(row)
            by_score = self.examples.setdefault(method, {name: [] for name in PER_EXAMPLE})
            for name in PER_EXAMPLE:
                by_score[name].append(values[name])
            if curve is not None:
                self.bins.append(curve)
                self._add_sets(method, values)
            if method == REPAIRED:
                self._add_temperature(values)

    def _add_sets(self, method: str, values: Mapping[str, np.ndarray]) -> None:
        for name in SETS:
            self.sets.setdefault(method, {}).setdefault(name, []).append(values[name])
            self.set_influences.setdefault(method, {}).setdefault(name, []).append(values[f"{name}_influence"])

    def _add_temperature(self, values: Mapping[str, np.ndarray]) -> None:
        self.log_kappa.append(values["log_kappa_n"])
        for name in SPLIT:
            self.slopes.setdefault(name, []).append(values[f"{name}_slopes"])

    def kept_rows(self) -> list[dict[str, Any]]:
        """The rows of calibrators that no trial refused."""
        return [row for row in self.rows if row["method"] not in self.refused]

    def stacked_examples(self) -> dict[str, dict[str, Tensor]]:
        """Per-example scores [S, N] by method and score, of calibrators that no trial refused."""
        return _stacked({method: scores for method, scores in self.examples.items() if method not in self.refused})

    def stacked_influences(self) -> dict[str, dict[str, Tensor]]:
        """Influences [S, M] on metrics of sets, by method and metric; none where calibration sets differ in size."""
        if len({len(values) for by_name in self.set_influences.values() for values in by_name[SETS[0]]}) != 1:
            return {}
        return _stacked(self.set_influences)

    def stacked_log_kappa(self) -> Tensor | None:
        """Log kappa and influences [S, M]; None where calibration sets differ in size, or nothing was repaired."""
        sizes = {len(values) for values in self.log_kappa}
        return _stack(self.log_kappa) if len(sizes) == 1 else None


def _measures(
    arm: Arm,
    status: Mapping[int, str],
    measured: Iterable[tuple[list[_Row], Sentences, Sentences]],
    again: Callable[[], RedrawnChoice | None] | None,
) -> Measures:
    """One arm's measures from those of its trials that are done."""
    scores = _TrialScores()
    for method_rows, refused, cautions in measured:
        scores.add(method_rows, refused, cautions)
    rows, refused = scores.kept_rows(), scores.refused
    return Measures(
        arm=arm,
        frame=pd.DataFrame(rows),
        examples=scores.stacked_examples(),
        reliability=_pool(scores.bins),
        log_kappa=scores.stacked_log_kappa(),
        at_bound=tuple(row["seed"] for row in rows if row.get("at_bound")),
        seeds=_seeds(status, FINISHED),
        diverged=_seeds(status, (DIVERGED,)),
        missing=_seeds(status, {*status.values()} - {*FINISHED, DIVERGED}),
        refused=refused,
        cautions={method: text for method, text in scores.cautions.items() if method not in refused},
        slopes={name: _stack(pairs).T for name, pairs in scores.slopes.items()},
        redrawn_choice=again() if again is not None else None,
        dead=_seeds(status, (DEAD,)),
        sets=_stacked(scores.sets),
        set_influences=scores.stacked_influences(),
    )


def _seeds(status: Mapping[int, str], states: Collection[str]) -> tuple[int, ...]:
    return tuple(seed for seed, state in status.items() if state in states)


def _measured(
    calibrators: Mapping[str, Calibrator], store: Results, scale: float, trials: Sequence[Trial]
) -> list[tuple[list[_Row], Sentences, Sentences]]:
    """Rows of each trial, raw first, then by calibrator; with calibrators' reasons for refusing it and their cautions.

    Small predictions are measured several methods at a time: the metrics' own pass is shared.
    """
    read = [TrialLogits.of(store, trial, scale) for trial in trials]
    rows: list[list[_Row]] = [[] for _ in trials]
    together = max(1, STACK_VALUES // sum(one.test.numel() for one in read))
    by_method = predictions(read, calibrators)
    while batch := list(islice(by_method, together)):
        for i, one in enumerate(read):
            rows[i] += _scored(one, [(method, *by_trial[i]) for method, by_trial in batch if i in by_trial])
    return [(mine, one.refused, one.cautions(calibrators)) for mine, one in zip(rows, read, strict=True)]


def own_tests(store: Results, arms: Iterable[Arm]) -> bool:
    """Whether seeds have test examples of their own: they differ in their split, and the test set is carved too."""
    splits = {trial.split: trial for arm in arms for trial in arm.trials.values() if store.has(trial)}
    tests = {store.labels(trial)["test"].numpy().tobytes() for trial in splits.values()}
    return len(tests) > 1


def _scored(one: TrialLogits, predictions: Sequence[tuple[str, dict[str, Any], Tensor]]) -> Iterator[_Row]:
    """Rows of predictions, tuples of method, facts of the fit and log probabilities of the test split."""
    if not predictions:
        return
    every = measure(torch.stack([logp for _, _, logp in predictions]), one.y_test)
    for i, (method, fitted, logp) in enumerate(predictions):
        metrics, examples = split_measured({name: value[i] for name, value in every.items()})
        row = {"key": one.trial.key, "seed": one.trial.seed, "method": method, **fitted}
        row |= {name: metrics[name] for name in METRICS if name in metrics}
        curve, of_sets = None, {}
        if method in (RAW, REPAIRED):
            row["ece_null"], row["ece_p"] = ece_null(logp, one.y_test)
            curve = pd.DataFrame(reliability(logp, one.y_test)._asdict()).assign(method=method)
            of_sets = set_values(one, logp, one.y_test, row.get("kappa", 1.0))
            row |= {name: float(of_sets[name].mean()) for name in SETS}
        kept = of_sets | {name: examples[name].numpy() for name in PER_EXAMPLE}
        if method == REPAIRED:
            kept |= _temperature_values(one, logp, row["kappa"])
        yield method, row, kept, curve


def set_values(one: TrialLogits, logp_NK: Tensor, y_N: Tensor, kappa: float) -> dict[str, np.ndarray]:
    """Each metric of SETS of log probabilities after a temperature: its values [N], and by "<metric>_influence" what
    each of the trial's calibration examples adds to it [M]."""
    values = {}
    by_kind = prediction_sets(one.calibration / kappa, one.y_calibration, logp_NK, y_N)
    for name in SETS:
        kind, what = name.split("_")
        values[name], values[f"{name}_influence"] = by_kind[kind].of(what)
    return {name: value.numpy() for name, value in values.items()}


def _temperature_values(one: TrialLogits, logp_NK: Tensor, kappa: float) -> dict[str, np.ndarray]:
    """Influences [M] of the calibration examples on log kappa, and each score's slopes [2] in it."""
    influence_M = log_kappa_n(one.calibration, one.y_calibration, kappa).numpy()
    slopes = temperature_slopes(logp_NK, one.y_test)
    return {"log_kappa_n": influence_M} | {f"{name}_slopes": np.array(pair) for name, pair in slopes.items()}


def _stacked(values: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> dict[str, dict[str, Tensor]]:
    """Arrays of each seed as one, by method and score."""
    return {
        method: {name: _stack(of_seeds) for name, of_seeds in by_name.items()} for method, by_name in values.items()
    }


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
