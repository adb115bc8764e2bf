"""Evaluations in words: tables with their notes, and sentences that say no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.format import ALPHA, number
from calib_bench.analysis.result_rows import DOUBTFUL, KINDS, TWO_KINDS, cell, is_significant
from calib_bench.analysis.scores import SETS
from calib_bench.core.study import Table
from calib_bench.evaluation.models import Model, collapsed_models, shared_rows
from calib_bench.inference import DECISIONS as RANKED
from calib_bench.inference.collapse import SEEDS

Row = Mapping[str, Any]
Context = Mapping[str, Any]
MAIN = ("method", "accuracy", "log_loss", "brier", "ece", "ece_positive", "ece_null", "kappa", "remark", "doubtful")
DECISION_METRICS = (*RANKED, *SETS)
UNITS = {"log_loss": " nats"}
NAMES = {"accuracy": "accuracy", "log_loss": "log loss", "brier": "Brier score", "ece": "ECE"}
COUNTED = (
    "The calibration examples that a temperature was fitted on are counted in the intervals of log loss and Brier "
    "score after it; those of accuracy and ECE hold for this fit."
)
UNCOUNTED = "Intervals after calibration hold for these fits: variation between fits is not counted."
FEW = 500
"""Below so many test examples an ECE is mostly noise."""


def sources(models: Sequence[Model], nested: bool) -> str:
    """Text on the models and test examples that intervals are computed from."""
    n, N = len(models), [len(m.test.y_N) for m in models]
    examples = f"{N[0]:,} test examples" if len(set(N)) == 1 else f"{min(N):,} to {max(N):,} test examples"
    if n == 1:
        return f"{examples}, one model: 95% intervals count test examples only, not variation between trainings"
    if nested:
        return f"{n} models with {examples} of their own: 95% t intervals over models"
    return f"{n} models, {examples}: 95% intervals count models and examples as crossed sources of variance"


def _stem(column: str) -> str:
    for end in ("_low", "_high", "_p"):
        column = column.removesuffix(end)
    return column


def tables(frames: Mapping[str, pd.DataFrame], context: Context) -> dict[str, Table]:
    """The main table, every metric, each calibrator against raw, and each model's own numbers."""
    frame = frames["evaluation"]
    how = sources(context["models"], context["nested"])
    if context["folds"]:
        how += f"; calibrators are cross-fitted on the test file in {context['folds']} folds"
    notes = _fits(frame, context)
    if any("doubtful" in frames[name] for name in ("evaluation", "differences")):
        notes = f"{notes} {DOUBTFUL}.".strip()
    main = [c for c in frame.columns if _stem(c) in MAIN]
    by_name = {
        "evaluation": Table(
            "Accuracy, log loss (nats), Brier and ECE by method",
            frame[main],
            f"{how}. ece null is what a calibrated model with these confidences would show on average; kappa > 1 is "
            f"overconfident. {notes}",
            paper=True,
        ),
        "metrics": Table(
            "Every metric by method",
            frame,
            f"{how}; but of smECE, MCE, squared debiased ECE and, where it would be long, classwise ECE: t intervals "
            f"over models, and none for one model. "
            f"Columns ending in _p are p-values; ece_null_p asks whether the ECE exceeds a calibrated model's. {notes}",
        ),
    }
    if len(frames["differences"]):
        by_name["differences"] = Table(
            "Each method minus raw",
            frames["differences"],
            f"{how}. Paired; a star marks p < {ALPHA:g} after Holm's correction over the methods. {notes}"
            + (f" {KINDS}." if TWO_KINDS in frames["differences"] else ""),
            paper=True,
        )
    by_name |= _decisions(frames, how)
    if len(context["models"]) > 1:
        by_name["models"] = Table("Each model by itself", frames["models"], "In the order given.")
    return by_name


DECISIONS = (
    "auroc: the chance that a right answer has more confidence than a wrong one, .5 where confidence tells nothing; "
    "augrc: the share of examples that are answered, and wrongly, mean over all shares answered, lower is better; "
    "coverage at 5 risk: the share of examples, the most confident first, that can be answered with 5% errors; risk at "
    "80 coverage: the share of errors among the 80% with most confidence. lac, aps, raps: split conformal sets with "
    "thresholds from the calibration set, made to hold the label for 90% of the examples: the share that they do hold, "
    "and classes in a set, fewer is better; nothing is drawn at random, so that sets of aps and raps, never empty, may "
    "cover more. Sets are made of raw predictions and after temperature scaling, since other calibrators fit the "
    "calibration set better than fresh examples. Intervals count the calibration examples behind thresholds, not those "
    "behind calibrators; of the coverage at 5% risk they are by bootstrap."
)
"""What metrics of decisions show, and how."""


def _decisions(frames: Mapping[str, pd.DataFrame], how: str) -> dict[str, Table]:
    """What confidence is worth to a decision, by method, and each calibrator against raw."""
    frame, differences = frames["evaluation"], frames["decision_differences"]
    stems = ("method", *DECISION_METRICS)
    notes = f"{DECISIONS} {DOUBTFUL}." if "doubtful" in frame else DECISIONS
    by_name = {
        "decisions": Table(
            "What confidence is worth to a decision, by method",
            frame[[c for c in frame.columns if _stem(c) in stems]],
            f"{how}. {notes}",
        )
    }
    if len(differences):
        kinds = f" {KINDS}." if TWO_KINDS in differences else ""
        by_name["decision_differences"] = Table(
            "What confidence is worth to a decision, each method minus raw",
            differences,
            f"{how}. Paired; a star marks p < {ALPHA:g} after Holm's correction over the methods. {notes}{kinds}",
        )
    return by_name


def _fits(frame: pd.DataFrame, context: Context) -> str:
    """Note on whether intervals after calibration count the calibration examples."""
    methods = [name for name in frame["method"] if name != "raw"]
    if not methods:
        return ""
    if context["folds"] or "temperature_scaling" not in methods or not any_number(frame, "kappa_low"):
        return UNCOUNTED
    others = " Those of other calibrators hold for these fits." if len(methods) > 1 else ""
    return COUNTED + others


def doubts_of(frame: pd.DataFrame, names: str) -> list[str]:
    """A warning that names the rows whose intervals are in doubt; none where none are."""
    if "doubtful" not in frame:
        return []
    marked = frame[frame["doubtful"].notna()]
    if marked.empty:
        return []
    listed = "; ".join(f"{name}: {words}" for name, words in zip(marked[names], marked["doubtful"], strict=True))
    return [f"Some intervals may cover less than 95% (see the table's note). {listed}."]


def verdict(frames: Mapping[str, pd.DataFrame], context: Context) -> tuple[str, ...]:
    """Sentences on the predictions and the calibrators, most important first."""
    rows = {row["method"]: row for row in frames["evaluation"].to_dict("records")}
    raw = rows["raw"]
    sentences = [
        f"The predictions as they are: accuracy {cell(raw, 'accuracy')}, log loss {cell(raw, 'log_loss')} nats, Brier "
        f"{cell(raw, 'brier')}, ECE {cell(raw, 'ece')}, where a calibrated model would show {number(raw['ece_null'])} "
        f"by chance{_p(raw)}."
    ]
    kappa = rows.get("temperature_scaling", {})
    if has_number(kappa, "kappa"):
        sentences.append(f"Kappa is {cell(kappa, 'kappa')}: {_confidence(kappa)}.")
    differences = frames["differences"].to_dict("records")
    if differences:
        sentences += _calibrators(differences)
    else:
        sentences.append(
            "No calibrator was fitted: give the predictions for a held-out calibration set with --calibration, or "
            "--cross-fit 5 to fit and judge on this one by folds."
        )
    return tuple(sentences)


def _calibrators(differences: Sequence[Row]) -> list[str]:
    """Which calibrator has the lowest log loss, and which change it; nothing where all are infinite."""
    finite = [row for row in differences if math.isfinite(row["log_loss"])]
    if not finite:
        return []
    best = min(finite, key=lambda row: row["log_loss"])
    among = f"{len(differences)} calibrators" if len(differences) > 1 else "1 calibrator"
    return [
        f"{best['method']} has the lowest log loss of {among}, {cell(best, 'log_loss')} nats against raw. After Holm's "
        f"correction, lower than raw: {_significant(finite, -1)}; higher: {_significant(finite, 1)}; the others are "
        f"inconclusive."
    ]


def _significant(differences: Sequence[Row], sign: int) -> str:
    """The methods whose log loss differs significantly from raw, with the sign."""
    rows = [row for row in differences if is_significant(row, "log_loss")]
    return ", ".join(row["method"] for row in rows if sign * row["log_loss"] > 0) or "none"


def warnings(frames: Mapping[str, pd.DataFrame], context: Context) -> tuple[str, ...]:
    """Warnings of an evaluation: what a reader must know before quoting a number."""
    models: Sequence[Model] = context["models"]
    sentences = list(context["skipped"])
    remarks = frames["evaluation"].get("remark")
    if remarks is not None and remarks.notna().any():
        marked = ", ".join(frames["evaluation"]["method"][remarks.notna()])
        sentences.append(
            f"Only probabilities are known, so calibrators see log p. {marked} would be fitted differently on "
            f"logits: save logits if you can."
        )
    if context["folds"]:
        sentences.append(
            f"Calibrators were cross-fitted: every test example was calibrated by a fit to the other "
            f"{context['folds'] - 1} of {context['folds']} folds of the test file, so these numbers describe "
            f"calibration with about as many examples, not one fixed calibrator."
        )
    sentences += doubts_of(frames["evaluation"][:1], "method")
    return (*sentences, *two_kinds(models), *general(models))


def two_kinds(models: Sequence[Model]) -> list[str]:
    """A warning where some of several models collapsed: no interval over few models covers their mean."""
    lost = collapsed_models(models)
    if not lost:
        return []
    names = ", ".join(model.test.name for model in lost)
    return [
        f"{len(lost)} of {len(models)} models collapsed ({names}): a gap parts their accuracy from the others'. No "
        f"interval over so few models covers the mean of two kinds, and no difference is called significant. Report "
        f"the share that collapsed and the mean of the others, and evaluate {SEEDS} models or more."
    ]


def general(models: Sequence[Model]) -> list[str]:
    """Warnings about the predictions themselves."""
    sentences = []
    least = min(len(m.test.y_N) for m in models)
    if least < FEW:
        sentences.append(f"{least:,} test examples are few: an ECE is then mostly noise; read it against its null.")
    sentences += _mixed(models)
    for model in models:
        sentences += _shared(model, shared_rows(model))
    sentences += _noted(models, "test") + _noted(models, "calibration")
    for model in models:
        sentences += _zeros(model)
    return sentences


def _noted(models: Sequence[Model], role: str) -> list[str]:
    """What was noted when predictions of a role were read."""
    sets = [model.sets[role] for model in models if role in model.sets]
    return [f"{role} {predictions.name}: {note}." for predictions in sets for note in predictions.notes]


def _mixed(models: Sequence[Model]) -> list[str]:
    """A warning where one of a model's two sets holds logits and the other probabilities; nothing where none does."""
    for model in models:
        if model.calibration is not None and model.calibration.exact != model.test.exact:
            return [
                f"{model.test.name}: of calibration and test predictions only one holds logits, so calibrators see "
                f"log p of both."
            ]
    return []


def _shared(model: Model, rows: int) -> list[str]:
    """A warning of calibration rows that are rows of the test set; nothing where none are."""
    if not rows or model.calibration is None:
        return []
    return [
        f"{rows:,} of the {len(model.calibration.y_N):,} calibration rows of {model.calibration.name} are rows of the "
        f"test set {model.test.name}: calibrators are judged on examples they were fitted to."
    ]


def _zeros(model: Model) -> list[str]:
    """A warning on the value that replaced probabilities of zero in fits; nothing where none was replaced."""
    if model.zeros is None or not model.shares:
        return []
    shares, steps = sorted(model.shares.values()), model.zeros.step_K
    share = f"{shares[0]:.3g}" if shares[0] == shares[-1] else f"{shares[0]:.3g} to {shares[-1]:.3g}"
    step = f"{steps.min():.2g}" if steps.min() == steps.max() else " and ".join(f"{s:.2g}" for s in steps)
    why = (
        "only zeros and ones are known, so kappa has no meaning"
        if model.zeros.resolution.form == "hard"
        else "the share that explains the calibration labels best"
    )
    return [
        f"{model.test.name}: calibrators saw a probability of zero as {share} of {step}, the last digit kept ({why}); "
        f"rows were normalized. Save logits or more digits to avoid this."
    ]


def any_number(frame: pd.DataFrame, column: str) -> bool:
    """Whether the frame has the column, with a number in any row."""
    return column in frame and bool(frame[column].notna().any())


def has_number(row: Row, column: str) -> bool:
    """Whether the row has a finite number in the column."""
    value = row.get(column)
    return value is not None and math.isfinite(value)


def _p(row: Row) -> str:
    return f" (p = {row['ece_null_p']:.2g})" if has_number(row, "ece_null_p") else ""


def _confidence(row: Row) -> str:
    if not has_number(row, "kappa_low"):
        return "the temperature stopped at a bound, as the calibration set is separable or uninformative"
    if row["kappa_low"] > 1:
        return "the model is overconfident"
    if row["kappa_high"] < 1:
        return "the model is underconfident"
    return "neither over- nor underconfidence is established"
