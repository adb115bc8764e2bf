"""What confidence and dynamics are on shifted test data, temperatures fitted on clean data and on the shifted.

The models at the chosen rates are trained again, to the same result, and leave logits on further test splits. Of every
arm and split: the metrics, before and after the temperature of the clean calibration split, and the log loss after one
that is fitted on the shifted data, on either half of the examples for the other. What the last one repairs is
confidence; what it leaves is dynamics that survived the shift. Other calibrators: `shift_methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib_bench import metrics
from calib_bench.analysis import arms as each
from calib_bench.analysis import fitting
from calib_bench.analysis.contrast import is_reference
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.measure import FINISHED
from calib_bench.analysis.result_rows import Row, doubtful, fields, limits
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.analysis.trial_predictions import TrialLogits, on_trials
from calib_bench.core.baseline import Calibrator
from calib_bench.core.corruption import PACKAGE_SET, ShiftedSplit, source_name
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Role
from calib_bench.core.trial import Trial
from calib_bench.inference import (
    Fitted,
    Interval,
    at_threshold,
    crossed_interval,
    decision_n,
    difference_interval,
    fitted,
    score_interval,
)
from calib_bench.inference.arrays import Array
from calib_bench.metrics.scores import top_label
from calib_bench.planning.tuning import Arm, Family, with_role
from calib_bench.studies.separation.shift_methods import ByMethod, MethodValues, Split, by_method
from calib_bench.studies.separation.shift_methods import row as method_row
from calib_bench.system.random import stream

CLEAN = "test"
SETS = ("lac_coverage", "lac_size", "aps_coverage", "aps_size")
"""Metrics of conformal sets, whose thresholds the clean calibration split gave."""
REFITTED = "log_loss_refitted"
LEVELS = {
    "accuracy": "accuracy", "log_loss": "log_loss", "log_loss_repaired": "log_loss", REFITTED: "log_loss",
    "brier": "brier", "brier_repaired": "brier", "auroc": "auroc", "auroc_repaired": "auroc",
    "ece": "ece", "ece_repaired": "ece",
    **{name: name for name in SETS},
}  # fmt: skip
"""Columns of an arm's results, each with the score whose range and scale it has."""
CHANGES = {
    "total": (("log_loss", 1),),
    "conf": (("log_loss", 1), ("log_loss_repaired", -1)),
    "dyn": (("log_loss_repaired", 1),),
    "conf_shifted": (("log_loss", 1), (REFITTED, -1)),
    "dyn_shifted": ((REFITTED, 1),),
    "brier_total": (("brier", 1),),
    "brier_conf": (("brier", 1), ("brier_repaired", -1)),
    "brier_dyn": (("brier_repaired", 1),),
    "accuracy": (("accuracy", 1),),
    "auroc": (("auroc_repaired", 1),),
    "lac_coverage": (("lac_coverage", 1),),
    "lac_size": (("lac_size", 1),),
}
"""Columns delta_... of an arm minus the reference, each a sum of results with these factors."""


def names(grid: Grid) -> str:
    """The further test data of a study as trials have it, see `Trial.shift`."""
    return ",".join(map(source_name, grid.shift))


def roles(grid: Grid, family: Family) -> Iterator[tuple[Trial, Role]]:
    """The trials at the chosen rates that leave logits on shifted data; none where none is asked for."""
    for arm in family.of_grid if grid.shift else ():
        yield from with_role(_trials(grid, arm).values(), "control")


def _trials(grid: Grid, arm: Arm) -> dict[int, Trial]:
    return {seed: trial.model_copy(update={"shift": names(grid)}) for seed, trial in arm.trials.items()}


@dataclass(frozen=True)
class _SplitValues:
    """What one trial scores on one split.

    Attributes:
        scores: by metric, each example's value or influence [N], whose mean is the metric; of ECE itself [1].
        slopes: by repaired score, its derivatives in log T [2], see `calibration_variance.fitted_to`.
        influences: by metric of SETS, of each clean calibration example through the threshold [M].
        changed: examples whose answer a temperature changes, and whose order of classes it changes.
    """

    scores: Mapping[str, Array]
    slopes: Mapping[str, Array]
    influences: Mapping[str, Array]
    changed: tuple[int, int]


@dataclass(frozen=True)
class _TrialValues:
    """What one trial scores: log kappa on the clean calibration split with influences [M], by split its values, and by
    method what it scores on each group of `averaged`."""

    log_kappa_M: Array
    by_split: Mapping[str, _SplitValues]
    by_method: ByMethod


def _measured(calibrators: Mapping[str, Calibrator], store: Results, trials: Sequence[Trial]) -> list[_TrialValues]:
    read = [TrialLogits.of(store, trial, 1.0) for trial in trials]
    splits = [_test_splits(store, trial) for trial in trials]
    groups = [[[one[name] for name in names] for _, names in averaged(list(one)[1:])] for one in splits]
    methods = by_method(read, groups, calibrators)
    temperature = calibrators[REPAIRED]
    return [_trial_values(temperature, *of_trial) for of_trial in zip(read, splits, methods, strict=True)]


def _test_splits(store: Results, trial: Trial) -> dict[str, Split]:
    """The clean test split, first, and the further ones."""
    logits, labels = store.logits(trial), store.labels(trial)
    names = (CLEAN, *(name for name in logits if name not in ("selection", "calibration", CLEAN)))
    return {name: (trial.beta * logits[name].double(), labels.get(name, labels[CLEAN])) for name in names}


def _trial_values(
    temperature: Calibrator, clean: TrialLogits, splits: Mapping[str, Split], methods: ByMethod
) -> _TrialValues:
    params = fitting.fitted(temperature, clean.calibration, clean.y_calibration)
    kappa = float(params["temperature"])
    log_kappa_M = log_kappa_n(clean.calibration, clean.y_calibration, kappa).numpy()
    if params["at_bound"]:
        log_kappa_M[:] = log_kappa_M.mean()
    by_split = {}
    for name, (Z_NK, y_N) in splits.items():
        logp_NK = fitting.applied(temperature, params, Z_NK)
        sets = metrics.prediction_sets(clean.calibration / kappa, clean.y_calibration, logp_NK, y_N)
        by_split[name] = _split_values(temperature, Z_NK, logp_NK, y_N, sets)
    return _TrialValues(log_kappa_M, by_split, methods)


def _split_values(temperature: Calibrator, Z_NK: Tensor, repaired_NK: Tensor, y_N: Tensor, sets: Any) -> _SplitValues:
    """One split's values from its logits Z and its log probabilities after the clean temperature."""
    raw_NK, refitted_NK = Z_NK.log_softmax(-1), cross_fitted(temperature, Z_NK, y_N)
    scores: dict[str, Any] = {
        "accuracy": metrics.correct_n(raw_NK, y_N),
        "log_loss": metrics.log_loss_n(raw_NK, y_N),
        "log_loss_repaired": metrics.log_loss_n(repaired_NK, y_N),
        REFITTED: metrics.log_loss_n(refitted_NK, y_N),
        "brier": metrics.brier_n(raw_NK, y_N),
        "brier_repaired": metrics.brier_n(repaired_NK, y_N),
        "log_kappa": _log_kappa_n(temperature, Z_NK, y_N),
        "ece": metrics.ece(raw_NK, y_N).reshape(1),
        "ece_repaired": metrics.ece(repaired_NK, y_N).reshape(1),
    }
    scores = {name: value.numpy() for name, value in scores.items()}
    for name, logp_NK in (("auroc", raw_NK), ("auroc_repaired", repaired_NK)):
        confidence_N, correct_N = top_label(logp_NK, y_N)
        scores[name] = decision_n(confidence_N, correct_N)["auroc"]
    influences = {}
    for name in SETS:
        kind, what = name.split("_")
        value_N, influence_M = sets[kind].of(what)
        scores[name], influences[name] = value_N.numpy(), (influence_M - influence_M.mean()).numpy()
    slopes = {f"{name}_repaired": np.array(two) for name, two in temperature_slopes(repaired_NK, y_N).items()}
    return _SplitValues(scores, slopes, influences, _changed(Z_NK, repaired_NK, refitted_NK))


def halves(N: int) -> tuple[Tensor, Tensor]:
    """Places of two random halves of N examples, the same in every split of as many."""
    order_N = torch.randperm(N, generator=stream("halves", N))
    return order_N[: N // 2], order_N[N // 2 :]


def cross_fitted(temperature: Calibrator, Z_NK: Tensor, y_N: Tensor) -> Tensor:
    """Log probabilities [N, K] of each half of the examples after the temperature that is fitted on the other half."""
    out_NK = torch.empty_like(Z_NK)
    one, other = halves(len(y_N))
    for fit_on, apply_to in ((one, other), (other, one)):
        params = fitting.fitted(temperature, Z_NK[fit_on], y_N[fit_on])
        out_NK[apply_to] = fitting.applied(temperature, params, Z_NK[apply_to])
    return out_NK


def _log_kappa_n(temperature: Calibrator, Z_NK: Tensor, y_N: Tensor) -> Tensor:
    """Log of the kappa that these examples themselves need, with each one's influence on it [N]; NaN at a bound."""
    params = fitting.fitted(temperature, Z_NK, y_N)
    value_N = log_kappa_n(Z_NK, y_N, float(params["temperature"]))
    return value_N * torch.nan if params["at_bound"] else value_N


def _changed(Z_NK: Tensor, repaired_NK: Tensor, refitted_NK: Tensor) -> tuple[int, int]:
    """Examples whose most probable class is another after either temperature, and whose order of classes is.

    LAC ranks an example's classes by probability: what it ranks is what a temperature must leave.
    """
    answer_N, order_NK = Z_NK.argmax(-1), Z_NK.argsort(-1, descending=True)
    answers = orders = 0
    for logp_NK in (repaired_NK, refitted_NK):
        answers += int((logp_NK.argmax(-1) != answer_N).sum())
        orders += int((logp_NK.gather(-1, order_NK).diff(dim=-1) > 0).any(-1).sum())
    return answers, orders


@dataclass(frozen=True)
class ShiftedArm:
    """One arm on clean and shifted test data: its finished seeds, and the values of each."""

    seeds: Sequence[int]
    values: Sequence[_TrialValues]

    @property
    def splits(self) -> list[str]:
        """Names of the further test splits."""
        return [name for name in self.values[0].by_split if name != CLEAN]

    def scores(self, metric: str, splits: Sequence[str], seeds: Sequence[int]) -> Array:
        """Values [S, N] of a metric, mean over splits of the same examples."""
        return self._mean(splits, seeds, lambda one: one.scores[metric])

    def influences(self, metric: str, splits: Sequence[str], seeds: Sequence[int]) -> Array:
        """Influences [S, M] of the clean calibration examples on a metric of SETS, mean over splits."""
        return self._mean(splits, seeds, lambda one: one.influences[metric])

    def slopes(self, metric: str, splits: Sequence[str], seeds: Sequence[int]) -> Array:
        """Derivatives [S, 2] of a repaired score in log T, mean over splits."""
        return self._mean(splits, seeds, lambda one: one.slopes[metric])

    @property
    def methods(self) -> list[str]:
        """Raw predictions, and the calibrators that no seed refused."""
        return [method for method in self.values[0].by_method if all(method in one.by_method for one in self.values)]

    def after(self, method: str, group: int, seeds: Sequence[int]) -> list[MethodValues]:
        """What each seed scores after a method on a group of `averaged`, by its place."""
        return [self._of(seed).by_method[method][group] for seed in seeds]

    def log_kappa(self, seeds: Sequence[int]) -> Array:
        """Log of the clean temperatures, with influences [S, M]."""
        return np.stack([self._of(seed).log_kappa_M for seed in seeds])

    def _of(self, seed: int) -> _TrialValues:
        return self.values[self.seeds.index(seed)]

    def _mean(self, splits: Sequence[str], seeds: Sequence[int], of: Any) -> Array:
        rows = [np.mean([of(self._of(seed).by_split[name]) for name in splits], axis=0) for seed in seeds]
        return np.stack(rows)


TABLES = ("shift", "shift_methods", "shift_corruptions", "shift_controls")
Named = tuple[Row, Arm]
"""An arm and the columns that name it."""


def begun(
    grid: Grid, store: Results, arm: Arm, calibrators: Mapping[str, Calibrator]
) -> Callable[[], ShiftedArm | None]:
    """Starts reading an arm's trials on shifted data; the function returned gives them, None where none has finished.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    trials = {seed: one for seed, one in _trials(grid, arm).items() if store.fate(one) in FINISHED}
    measured = on_trials(_measured, store, list(trials.values()), calibrators)
    return lambda: ShiftedArm(list(trials), list(measured)) if trials else None


def _read_all(
    grid: Grid, store: Results, named: Sequence[Named], calibrators: Mapping[str, Calibrator]
) -> Iterator[tuple[Row, Arm, ShiftedArm]]:
    """Each arm with what it scores, those without a finished seed left out; workers begin the next one meanwhile."""
    following = begun(grid, store, named[0][1], calibrators)
    for place, (name, arm) in enumerate(named):
        read = following
        if place + 1 < len(named):
            following = begun(grid, store, named[place + 1][1], calibrators)
        shifted = read()
        if shifted is not None:
            yield name, arm, shifted


def family_rows(
    grid: Grid,
    store: Results,
    arms: Sequence[Arm],
    variant: str | None,
    nested: bool,
    calibrators: Mapping[str, Calibrator],
) -> dict[str, list[Row]]:
    """The rows of a family in the tables "shift" (averaged), "shift_corruptions" (each), "shift_methods" (averaged,
    after every calibrator) and "shift_controls".

    Args:
        arms: of the grid.
        calibrators: by name, temperature scaling among them.
        nested: seeds have test examples of their own.
    """
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    named = sorted(((each.named(arm, variant), arm) for arm in arms), key=lambda pair: not is_reference(pair[0], grid))
    reference: ShiftedArm | None = None
    zeros = np.zeros(4)
    for name, arm, shifted in _read_all(grid, store, named, calibrators):
        for table, groups in (("shift", averaged(shifted.splits)), ("shift_corruptions", apart(shifted.splits))):
            tables[table] += [{**name, **label, **_row(shifted, reference, one, nested)} for label, one in groups]
        tables["shift_methods"] += [{**name, **one} for one in _method_rows(shifted, reference, nested)]
        reference = shifted if is_reference(name, grid) else reference
        zeros += _zeros(grid, store, arm, shifted)
    if zeros[0]:
        tables["shift_controls"] = _control_rows({key: named[0][0][key] for key in ("model", "variant")}, zeros)
    return tables


def averaged(splits: Iterable[str]) -> list[tuple[Row, list[str]]]:
    """What names a row, and the splits that it is the mean of: the clean one, each severity of each set, all others."""
    groups: dict[tuple[str, int | None], list[str]] = {("none", 0): [CLEAN]}
    for name in splits:
        split = ShiftedSplit.of(name)
        groups.setdefault((split.set, split.severity), []).append(name)
    first = {"none": 0, PACKAGE_SET: 1}
    order = sorted(groups, key=lambda key: (key[1] is None, first.get(key[0], 2), key[0], key[1] or 0))
    return [({"corruption": _group_name(key[0], groups[key]), "severity": key[1]}, groups[key]) for key in order]


def _group_name(set_name: str, splits: Sequence[str]) -> str:
    if list(splits) == [CLEAN]:
        return "none"
    what = ShiftedSplit.of(splits[0]).corruption if len(splits) == 1 else f"mean of {len(splits)} corruptions"
    return what if set_name in (PACKAGE_SET, what) else f"{set_name}: {what}"


def apart(splits: Iterable[str]) -> list[tuple[Row, list[str]]]:
    """What names a row, and the one split that it is of."""
    rows = []
    for name in splits:
        split = ShiftedSplit.of(name)
        rows.append(({"corruption": _group_name(split.set, [name]), "severity": split.severity}, [name]))
    return rows


def _row(arm: ShiftedArm, reference: ShiftedArm | None, splits: Sequence[str], nested: bool) -> Row:
    """An arm's results on some splits, and their change from the reference's over the seeds that finished in both."""
    scores = arm.scores("accuracy", splits, arm.seeds)
    row: Row = {"seeds": len(arm.seeds), "examples": scores.shape[1], "nested": nested}
    for column, metric in LEVELS.items():
        fit = _fit([(1.0, arm)], ((column, 1),), splits, arm.seeds, nested)
        row |= limits(column, score_interval(metric, arm.scores(column, splits, arm.seeds), nested, fit))
    row |= _kappa(arm.scores("log_kappa", splits, arm.seeds), nested)
    both = _seeds_of_both(arm, reference)
    if reference is None or not both:
        return row
    intervals = {}
    for column, parts in CHANGES.items():
        intervals[f"delta_{column}"] = _change(arm, reference, parts, splits, both, nested)
        row |= fields(f"delta_{column}", intervals[f"delta_{column}"])
    return row | doubtful(intervals)


def _seeds_of_both(arm: ShiftedArm, reference: ShiftedArm | None) -> list[int]:
    return [seed for seed in arm.seeds if reference is not None and seed in reference.seeds]


def _method_rows(arm: ShiftedArm, reference: ShiftedArm | None, nested: bool) -> Iterator[Row]:
    """An arm after every method, on each group of splits, beside the reference after the same one."""
    both = _seeds_of_both(arm, reference)
    for group, (label, splits) in enumerate(averaged(arm.splits)):
        for method in arm.methods:
            sides = [arm, reference] if reference is not None and both and method in reference.methods else []
            pairs = [side.after(method, group, both) for side in sides]

            def fit(metric: str, change: bool, method: str = method, splits: Sequence[str] = splits) -> Fitted | None:
                if method != REPAIRED:
                    return None
                signed = [(1.0, arm), (-1.0, reference)] if change and reference is not None else [(1.0, arm)]
                return _fit(signed, ((f"{metric}_repaired", 1),), splits, both if change else arm.seeds, nested)

            raw = arm.after(RAW, group, arm.seeds)
            levels = raw if method == RAW else arm.after(method, group, arm.seeds)
            examples = len(levels[0].examples["accuracy"])
            base = {**label, "method": method, "seeds": len(arm.seeds), "examples": examples, "nested": nested}
            yield base | method_row(levels, raw, pairs, nested, fit)


def _kappa(log_kappa_SN: Array, nested: bool) -> Row:
    """The kappa that the shifted data need: a geometric mean; empty where a seed's stopped at a bound."""
    if not np.isfinite(log_kappa_SN).all():
        return {}
    return Estimate.of_interval(crossed_interval(log_kappa_SN, nested=nested)).exp().limits("kappa")


def _change(
    arm: ShiftedArm, reference: ShiftedArm, parts: Any, splits: Sequence[str], seeds: Sequence[int], nested: bool
) -> Interval:
    """The arm minus the reference in a sum of results, paired by seed and example."""
    sides = [(1.0, arm), (-1.0, reference)]
    d_SN = sum(sign * factor * one.scores(metric, splits, seeds) for sign, one in sides for metric, factor in parts)
    fit = _fit(sides, parts, splits, seeds, nested)
    return difference_interval(LEVELS[parts[0][0]], np.asarray(d_SN), nested, fit)


def _fit(
    sides: Sequence[tuple[float, ShiftedArm]], parts: Any, splits: Sequence[str], seeds: Sequence[int], nested: bool
) -> Fitted | None:
    """What the clean calibration examples add, through temperatures or thresholds; None where they have no part in it.

    Seeds that have test examples of their own have calibration examples of their own too: their spread holds it.
    """
    if nested:
        return None
    for metric, factor in parts:
        if metric in ("log_loss_repaired", "brier_repaired"):
            slopes = np.stack([one.slopes(metric, splits, seeds) for _, one in sides])
            log_T = np.stack([one.log_kappa(seeds) for _, one in sides])
            return fitted(log_T, slopes[..., 0], slopes[..., 1], [factor * sign for sign, _ in sides])
        if metric in SETS:
            influences = [sign * one.influences(metric, splits, seeds) for sign, one in sides]
            return at_threshold(np.add.reduce(influences))
    return None


def _zeros(grid: Grid, store: Results, arm: Arm, shifted: ShiftedArm) -> Array:
    """Examples looked at, answers and orders that a temperature changed, and clean logits that are not those of the
    trial without further test data."""
    per_split = [split for values in shifted.values for split in values.by_split.values()]
    examples = sum(len(split.scores["accuracy"]) for split in per_split)
    answers, orders = (sum(split.changed[i] for split in per_split) for i in (0, 1))
    differ = 0
    for seed, trial in _trials(grid, arm).items():
        if seed in shifted.seeds:
            differ += int((store.logits(trial)[CLEAN] != store.logits(arm.trials[seed])[CLEAN]).sum())
    return np.array([examples, answers, orders, differ], np.float64)


def _control_rows(model: Row, zeros: Array) -> list[Row]:
    """A row for each of the theory's zeros."""
    what = (
        "answers that a temperature changed",
        "examples in which a temperature changed LAC's order of classes",
        "clean test logits that differ from those of the same trial without shift=",
    )
    return [
        {**model, "control": text, "expected": 0, "seen": int(count), "passed": bool(count == 0)}
        for text, count in zip(what, zeros[1:], strict=True)
    ]
