"""Predictions made elsewhere, judged like the harness's own: every calibrator, every metric, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench.analysis.fitting import CalibratorError, too_large
from calib_bench.analysis.result_rows import TWO_KINDS, Row, adjusted, row_of
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.core.study import Analysis, StudyResult
from calib_bench.errors import UserError
from calib_bench.evaluation import curves
from calib_bench.evaluation.by_slice import BySlice
from calib_bench.evaluation.findings import tables, verdict, warnings
from calib_bench.evaluation.models import Model, check_folds, collapsed_models, have_own_tests
from calib_bench.evaluation.scored import Scored, contrast, decision_contrasts, score, summary
from calib_bench.metrics.binned import BINS

Top = tuple[Sequence[NDArray[np.float64]], Sequence[NDArray[np.float64]]]
"""Confidences and whether the top label was right, [N] a model."""
REMARK = "fitted on log p: not the fit that logits would give"


@dataclass(frozen=True)
class EvaluationResult(StudyResult):
    """What files and figures of an evaluation are made of.

    Attributes:
        params: by calibrator, what it learned of each model's calibration set.
        top: of the raw predictions and after temperature scaling, confidences and whether they were right, a model.
    """

    params: Mapping[str, Sequence[Params]] = field(default_factory=dict)
    top: Mapping[str, Top] = field(default_factory=dict)


def evaluate(
    models: Sequence[Model],
    calibrators: Mapping[str, Calibrator],
    folds: int = 0,
    seed: int = 0,
    chosen: bool = False,
    bins: int = BINS,
    groups: str = "",
) -> Analysis:
    """Raw predictions and every calibrator's, measured.

    Args:
        models: one a seed, paired by order.
        calibrators: by name; used where there is a calibration set, or with `folds`.
        folds: folds of cross-fitting on the test examples, for models without a calibration set.
        seed: of the folds.
        chosen: whether the user named the calibrators: one that does not fit the problem is then an error.
        bins: of calibration errors by binning, and of the reliability diagram.
        groups: the column of slices that the test predictions bring: everything is then measured by slice too.

    A calibrator that fails is named and left out, as is one that would learn too many numbers for so many classes and
    was not chosen.

    Raises:
        UserError: a chosen calibrator is not for such predictions, or all of them failed, or there are too few examples
            for the folds.
    """
    check_folds(models, folds)
    nested, exact = have_own_tests(models), all(m.exact for m in models)
    fits = bool(models[0].calibration is not None or folds)
    results = _Results(models, nested)
    sliced = BySlice(models, groups, nested, bins)
    skipped: list[str] = []
    for method, calibrator in _methods(models, calibrators if fits else {}, chosen).items():
        scored = _attempt(models, method, calibrator, folds, seed, chosen, bins)
        if isinstance(scored, str):
            skipped.append(f"{method} was left out: {scored}")
            continue
        skipped += cautions(models, method, calibrator)
        results.add(method, scored, None if exact else _remark(calibrator))
        sliced.add(method, calibrator, folds, seed)
    if chosen and fits and len(results.rows) == 1:
        raise UserError(": ".join(filter(None, ("; ".join(skipped), "no calibrator that was named is left"))))
    frames = results.frames()
    context = {"models": models, "nested": nested, "folds": folds, "exact": exact, "skipped": skipped}
    result = EvaluationResult(params=results.params, top=results.top)
    all_tables = {**tables(frames, context), **curves.tables(results.top, bins)}
    analysis = Analysis(verdict(frames, context), all_tables, warnings(frames, context), result)
    return sliced.added_to(analysis)


def _remark(calibrator: Calibrator | None) -> str | None:
    """What to remark of a method where only probabilities are known."""
    return None if calibrator is None or calibrator.shift_invariant else REMARK


@dataclass
class _Results:
    """Rows of tables, filled method by method, the raw predictions first."""

    models: Sequence[Model]
    nested: bool
    rows: list[Row] = field(default_factory=list)
    differences: list[Row] = field(default_factory=list)
    decisions: list[Row] = field(default_factory=list)
    per_model: list[Row] = field(default_factory=list)
    raw: Scored | None = None
    params: dict[str, list[Params]] = field(default_factory=dict)
    top: dict[str, Top] = field(default_factory=dict)

    @cached_property
    def mixed(self) -> bool:
        """Whether some of the models collapsed, not all."""
        return bool(collapsed_models(self.models))

    def add(self, method: str, scored: Scored, remark: str | None) -> None:
        """Add the rows of a method's scores."""
        if method in (RAW, REPAIRED):
            self.top[method] = scored.top
        if all(scored.params):
            self.params[method] = scored.params
        y = [model.test.y_N for model in self.models]
        self.rows.append({"method": method, **summary(scored, self.nested, y), "remark": remark})
        for i, model in enumerate(self.models):
            metrics = {name: values[i] for name, values in scored.metrics.items()}
            ece_null, ece_p = scored.nulls[i]
            row = {"model": model.test.name, "method": method, **metrics, "ece_null": ece_null, "ece_p": ece_p}
            self.per_model.append(row)
        if self.raw is None:
            self.raw = scored
        else:
            difference = {"method": method, **contrast(scored, self.raw, self.nested)}
            kinds = {TWO_KINDS: "models"} if self.mixed else {}
            self.differences.append(difference | kinds)
            intervals = decision_contrasts(scored, self.raw, self.nested)
            self.decisions.append({"method": method, **row_of(intervals), **kinds})

    def frames(self) -> dict[str, pd.DataFrame]:
        """The rows as data frames: of methods, of their differences from raw, and of each model."""
        return {
            "evaluation": pd.DataFrame(self.rows),
            "differences": adjusted(pd.DataFrame(self.differences)),
            "decision_differences": adjusted(pd.DataFrame(self.decisions)),
            "models": pd.DataFrame(self.per_model),
        }


def _methods(
    models: Sequence[Model], calibrators: Mapping[str, Calibrator], chosen: bool
) -> dict[str, Calibrator | None]:
    """The raw predictions (None) and the calibrators, without those for other numbers of classes unless chosen."""
    K = models[0].test.Z_NK.shape[1]
    fitting = {name: one for name, one in calibrators.items() if chosen or one.classes in (None, K)}
    return {RAW: None, **fitting}


def _attempt(
    models: Sequence[Model], method: str, calibrator: Calibrator | None, folds: int, seed: int, chosen: bool, bins: int
) -> Scored | str:
    """Scores of a method, or why it is left out.

    Raises:
        UserError: a chosen calibrator is not for such predictions.
    """
    if calibrator is None:
        return score(models, method, None, folds, seed, bins)
    large = None if chosen else too_large(calibrator, *_largest(models))
    if large is not None:
        return f"{large}; --calibrator {method} fits it all the same."
    try:
        return score(models, method, calibrator, folds, seed, bins)
    except UserError as error:
        if chosen and not isinstance(error, CalibratorError):
            raise
        return str(error)
    except MemoryError:
        return "what it gave could not be measured for want of memory"


def cautions(models: Sequence[Model], method: str, calibrator: Calibrator | None) -> list[str]:
    """Cautions of a calibrator about the sets it is fitted on (see `Calibrator.warn`), each once."""
    if calibrator is None or calibrator.warn is None:
        return []
    texts = [calibrator.warn(model.to_fit.Z_NK, model.to_fit.y_N) for model in models]
    return [f"{method}: {text}." for text in dict.fromkeys(texts) if text]


def _largest(models: Sequence[Model]) -> tuple[int, int]:
    """The most calibration examples, and the number of classes."""
    return max(len(model.to_fit.y_N) for model in models), models[0].test.Z_NK.shape[1]
