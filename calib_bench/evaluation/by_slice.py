"""Everything of an evaluation by slice of the test examples, and each slice less the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib_bench import inference
from calib_bench.analysis.findings import Finding, established
from calib_bench.analysis.result_rows import TWO_KINDS, Row, adjusted, marks_note, row_of
from calib_bench.analysis.scores import MEANS, RAW
from calib_bench.core.baseline import Calibrator
from calib_bench.core.study import Analysis, Table
from calib_bench.evaluation.findings import FEW, MAIN, NAMES, UNITS, doubts_of, stem
from calib_bench.evaluation.models import Model, calibrated, collapsed_models
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.scored import CONTRASTED, Scored, score_fits, summary
from calib_bench.inference.scores import with_doubt
from calib_bench.metrics.binned import BINS

Array = NDArray[np.float64]
FEWEST = 30
"""Examples of a slice below which nothing is said of it but their number."""
OVERCONFIDENCE = "overconfidence"
NAMED = ("slice", "method")
SHOWN = ("slice", "examples", *MAIN, OVERCONFIDENCE)
NOTE = (
    "overconfidence: mean confidence less accuracy, above zero where the model is too sure. Calibrators are fitted to "
    "the whole calibration set, not by slice. An ECE grows as examples get fewer: read each against its ece null."
)
DIFFERENCES_NOTE = (
    "Slice less all other examples, whose samples are independent; a star marks p < .05 after Holm's correction over "
    "slices, for each method. There is no difference of ECEs, since an ECE grows as examples get fewer; overconfidence "
    "does not. A side with fewer than 30 wrong answers is taken to vary as all examples do, at least: a few right ones "
    "hide how far others would be off. Intervals after calibration hold for these fits."
)
TOO_FEW = (
    "Slices of fewer than {least} examples have no numbers of their own, and are among the rest of others: {names}."
)
SMALL = "Slices of fewer than {few} examples are small, and their ECE mostly noise: {names}."
DIFFERS = "By {column}, as they are, less the rest, after Holm's correction over slices: {what}."
NONE = "no slice differs from the rest in accuracy, {loss} or overconfidence for certain"


@dataclass
class BySlice:
    """Rows of the tables by slice, filled method by method.

    Attributes:
        models: with the slice of each test example.
        column: that the slices are the values of; empty where there are none, and nothing is added.
        nested: whether models have test examples of their own.
    """

    models: Sequence[Model]
    column: str
    nested: bool
    bins: int = BINS
    rows: list[Row] = field(default_factory=list)
    differences: list[Row] = field(default_factory=list)

    def places(self) -> dict[str, list[Tensor]]:
        """By slice, which test examples of each model are in it, [N] booleans."""
        groups = [_groups(model) for model in self.models]
        names = sorted(set().union(*(one.tolist() for one in groups)), key=_natural)
        return {name: [torch.from_numpy((one == name).astype(bool)) for one in groups] for name in names}

    def measured(self) -> dict[str, list[Tensor]]:
        """Those that are large enough to be measured."""
        return {name: places for name, places in self.places().items() if _examples(places) >= FEWEST}

    def add(self, method: str, calibrator: Calibrator | None, folds: int, seed: int) -> None:
        """Add what a method gives in every slice."""
        if not self.column:
            return
        fits = [calibrated(model, calibrator, folds, seed) for model in self.models]
        overall = score_fits(self.models, fits, method, calibrator, self.bins)
        slices = self.measured()
        if not slices:
            raise Refusal.GROUPS_SMALL.of("", column=self.column, least=FEWEST)
        for name, places in slices.items():
            models = [_part(model, place) for model, place in zip(self.models, places, strict=True)]
            parts = [(logp_NK[place], params) for (logp_NK, params), place in zip(fits, places, strict=True)]
            scored = score_fits(models, parts, method, calibrator, self.bins)
            self.rows.append(self._row(name, method, places, scored, models))
        kinds = {TWO_KINDS: "models"} if collapsed_models(self.models) else {}
        for name, places in self._with_rest(slices):
            row = _differences(overall, places, self.nested)
            self.differences.append({"slice": name, "method": method, **row, **kinds})

    def _with_rest(self, slices: Mapping[str, list[Tensor]]) -> list[tuple[str, list[Tensor]]]:
        """The slices that are compared with the rest, where that is large enough; of two slices the first."""
        pairs = [(name, one) for name, one in slices.items() if _examples([~place for place in one]) >= FEWEST]
        return pairs if len(self.places()) > 2 else pairs[:1]

    def _compared(self) -> pd.DataFrame:
        """Differences from the rest with Holm's correction; without rows where nothing can be compared."""
        frame = pd.DataFrame(self.differences) if self.differences else pd.DataFrame(columns=[*NAMED])
        return adjusted(frame, "method")

    def _row(self, name: str, method: str, places: list[Tensor], scored: Scored, models: list[Model]) -> Row:
        gap = [c - right for c, right in zip(*scored.top, strict=True)]
        overconfidence = with_doubt(inference.crossed_interval(gap, nested=self.nested), [scored.top[1]], self.nested)
        row = {"slice": name, "examples": _examples(places), "method": method}
        y = [model.test.y_N for model in models]
        limits = {OVERCONFIDENCE: overconfidence}
        return row | summary(scored, self.nested, y, **limits) | {OVERCONFIDENCE: overconfidence.mean}

    def tables(self) -> dict[str, Table]:
        """The main numbers by slice, every number, and each slice less the rest."""
        frame = pd.DataFrame([*self.rows, *self._unmeasured()])
        shown = frame[[column for column in frame.columns if stem(column) in SHOWN]]
        differences = self._compared()
        note, of_differences = NOTE + marks_note(frame), DIFFERENCES_NOTE + marks_note(differences)
        by_name = {
            "slices": Table(f"By {self.column}", shown, note, paper=True, names=NAMED),
            "slice_metrics": Table(f"Every metric by {self.column}", frame, note, names=NAMED),
        }
        if len(differences):
            title = f"Each slice of {self.column} less the rest"
            by_name["slice_differences"] = Table(title, differences, of_differences, names=NAMED)
        return by_name

    def _unmeasured(self) -> list[Row]:
        """Rows of the slices with too few examples: their number alone."""
        few = {name: places for name, places in self.places().items() if name not in self.measured()}
        return [{"slice": name, "examples": _examples(places), "method": RAW} for name, places in few.items()]

    def added_to(self, analysis: Analysis) -> Analysis:
        """The analysis with the tables by slice, what differs in its verdict, and warnings of few examples."""
        if not self.column:
            return analysis
        return replace(
            analysis,
            verdict=(*analysis.verdict, self._verdict()),
            tables={**analysis.tables, **self.tables()},
            warnings=(*analysis.warnings, *self._warnings()),
        )

    def _verdict(self) -> str:
        """What differs from the rest for certain, as the predictions are."""
        rows = self._compared()
        raw = rows[rows["method"] == RAW].to_dict("records")
        metrics = [metric for metric in (*NAMES, OVERCONFIDENCE) if metric in rows]
        changes = [_change(row, metric) for metric in metrics for row in raw]
        words = [f"{change.where} in {change.quantity} ({change.text})" for change in established(changes)]
        loss = "log loss" if "log_loss" in metrics else "Brier score"
        return DIFFERS.format(column=self.column, what="; ".join(words) or NONE.format(loss=loss))

    def _warnings(self) -> tuple[str, ...]:
        counts = {name: _examples(places) for name, places in self.places().items()}
        few = [f"{name} ({count})" for name, count in counts.items() if count < FEWEST]
        small = [f"{name} ({count})" for name, count in counts.items() if FEWEST <= count < FEW]
        texts = {TOO_FEW: few, SMALL: small}
        differences = self._compared()
        doubts = doubts_of(differences[differences["method"] == RAW], "slice")
        return *doubts, *(
            text.format(least=FEWEST, few=FEW, names=", ".join(names)) for text, names in texts.items() if names
        )


def _change(row: Mapping[Any, Any], metric: str) -> Finding:
    return Finding.of(row, metric, NAMES.get(metric, metric), UNITS.get(metric, ""), where=row["slice"])


def _groups(model: Model) -> NDArray[np.object_]:
    assert model.test.groups is not None
    return model.test.groups


def _natural(name: str) -> tuple[float, str]:
    """Numbers in their order, before other names."""
    try:
        return float(name), ""
    except ValueError:
        return float("inf"), name


def _examples(places: Sequence[Tensor]) -> int:
    """Examples of a slice, of the model that has the fewest."""
    return min(int(place.sum()) for place in places)


def _part(model: Model, place: Tensor) -> Model:
    """The model with the test examples of a slice alone."""
    test = model.test
    return replace(model, test=replace(test, Z_NK=test.Z_NK[place], y_N=test.y_N[place], groups=None, ids={}))


def _differences(scored: Scored, places: Sequence[Tensor], nested: bool) -> Row:
    """A slice less the rest in the means over examples, and in overconfidence."""
    metrics = [metric for metric in CONTRASTED if metric in scored.metrics and metric in MEANS]
    values = {metric: [rows.numpy() for rows in scored.examples[MEANS[metric]]] for metric in metrics}
    values[OVERCONFIDENCE] = [c - right for c, right in zip(*scored.top, strict=True)]
    inside = [place.numpy() for place in places]
    return row_of({metric: difference(metric, rows, scored.top[1], inside, nested) for metric, rows in values.items()})


def difference(
    metric: str, rows: Sequence[Array], correct: Sequence[Array], inside: Sequence[NDArray[np.bool_]], nested: bool
) -> inference.Interval:
    """The mean of the examples inside a slice less that of the others, with its interval.

    Args:
        metric: what it is the mean of.
        rows: values [N] of each model.
        correct: 1 where its answer is right [N].
        inside: where its examples are in the slice [N].
        nested: models have test examples of their own.
    """
    apart = [less_rest(*pair) for pair in zip(rows, inside, strict=True)]
    with np.errstate(invalid="ignore"):  # an infinite loss: no interval, which says so
        interval = inference.difference_interval(metric, apart, nested)
        if not nested:  # one sample of examples, whatever the number of models
            rows, correct, inside = [np.mean(rows, 0)], [np.mean(correct, 0)], inside[:1]
        unseen = sum(map(unseen_variance, rows, correct, inside)) / len(rows) ** 2
    interval = inference.widened(interval, unseen, source="few errors in a part")
    return inference.within(interval, metric, difference=True)


def unseen_variance(value_N: Array, right_N: Array, inside_N: NDArray[np.bool_]) -> float:
    """Variance that a difference of two parts' means lacks where one shows few errors, and so little of its own.

    Thirty right answers of a model that is right in 98% are likely, and their losses hardly vary, though their mean is
    known no better than other thirty's. A part with fewer than `inference.FEWEST` wrong answers is therefore taken to
    vary as all examples do, at least.
    """
    few = [part for part in (inside_N, ~inside_N) if (1 - right_N[part]).sum() < inference.FEWEST]
    return sum(max(value_N.var(ddof=1) - value_N[part].var(ddof=1), 0.0) / float(part.sum()) for part in few)


def less_rest(value_N: Array, inside_N: NDArray[np.bool_]) -> Array:
    """Values [N] whose mean is that of the examples inside less that of the others, and whose spread is its own.

    With D that difference, n of N inside and m their mean: D + sqrt(n / (n - 1)) N / n (x - m) inside, likewise with
    the sign turned outside. The variance of their mean is then s^2 / n + s'^2 / n', as of two independent samples.
    """
    out = np.empty(len(value_N))
    difference = 0.0
    for sign, part in ((1, inside_N), (-1, ~inside_N)):
        n, mean = int(part.sum()), value_N[part].mean()
        difference += sign * mean
        out[part] = sign * (value_N[part] - mean) * len(value_N) / n * np.sqrt(n / max(n - 1, 1))
    return out + difference
