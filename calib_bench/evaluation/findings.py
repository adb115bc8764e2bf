"""Evaluations in words: tables with their notes, and sentences that say no more than the intervals allow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import Finding, established
from calib_bench.analysis.format import ALPHA, number
from calib_bench.analysis.result_rows import cell, has_any, marks_note
from calib_bench.analysis.scores import SETS
from calib_bench.core.study import Table
from calib_bench.evaluation.models import (
    Model,
    collapsed_models,
    have_own_tests,
    named_twice,
    repeated_rows,
    shared_rows,
)
from calib_bench.evaluation.predictions import Predictions
from calib_bench.inference import DECISIONS as RANKED
from calib_bench.inference.collapse import SEEDS

Row = Mapping[str, Any]
Context = Mapping[str, Any]
MAIN = ("method", "accuracy", "log_loss", "brier", "ece", "ece_positive", "ece_null", "kappa", "remark", "doubtful")
DECISION_METRICS = (*RANKED, *SETS)
UNITS = {"log_loss": "nats"}
NAMES = {"accuracy": "accuracy", "log_loss": "log loss", "brier": "Brier score", "ece": "ECE"}
COUNTED = (
    "The calibration examples that a temperature was fitted on are counted in the intervals of log loss and Brier "
    "score after it; those of accuracy and ECE hold for this fit."
)
UNCOUNTED = "Intervals after calibration hold for these fits: variation between fits is not counted."
FEW = 500
"""Below so many test examples an ECE is mostly noise."""
ONE_MODEL = "one model: 95% intervals count test examples only, not variation between trainings"
OF_THEIR_OWN = "of their own: 95% t intervals over models"
CROSSED = "95% intervals count models and examples as crossed sources of variance"
CROSS_FITTED = "calibrators are cross-fitted on the test file in {folds} folds"
STAR = f"Paired; a star marks p < {ALPHA:g} after Holm's correction over the methods."
TITLE = "Accuracy, log loss (nats), Brier and ECE by method"
TITLE_ALONE = "Accuracy, Brier score of the confidence and ECE by method"
ALONE = (
    "Confidence and correctness alone: log loss over classes, entropy, errors by class, conformal sets and kappa are "
    "out of reach. Calibrators treat it as a problem of two classes, right and wrong: they move confidences, and no "
    "answer. Brier is the mean of (confidence - correct)^2."
)
ALONE_AS_THEY_ARE = (
    "The confidences as they are: accuracy {accuracy}, Brier score of the confidence {brier}, ECE {ece}, where a "
    "calibrated model would show {null} by chance{p}."
)
MAIN_NOTE = (
    "ece null is what a calibrated model with these confidences would show on average; kappa > 1 is overconfident."
)
METRICS_NOTE = (
    "but of smECE, MCE, squared debiased ECE and, where it would be long, classwise ECE: t intervals over models, and "
    "none for one model. Columns ending in _p are p-values; ece_null_p asks whether the ECE exceeds a calibrated "
    "model's."
)
DECISIONS_TITLE = "What confidence is worth to a decision"
OTHER_FITS = " Those of other calibrators hold for these fits."
DOUBTS = "Some intervals may cover less than 95% (see the table's note)."
AS_THEY_ARE = (
    "The predictions as they are: accuracy {accuracy}, log loss {log_loss} nats, Brier {brier}, ECE {ece}, where a "
    "calibrated model would show {null} by chance{p}."
)
NO_FIT = (
    "No calibrator was fitted: give the predictions for a held-out calibration set with --calibration, or --cross-fit "
    "5 to fit and judge on this one by folds."
)
BEST = (
    "{best.where} has the lowest {loss} of {among}, {best.text} against raw. After Holm's correction, lower than "
    "raw: {lower}; higher: {higher}{rest}."
)
ONLY = "{best.where} changes {loss} by {best.text}{best.note} against raw."
ONLY_PROBABILITIES = (
    "Only probabilities are known, so calibrators see log p. {methods} would be fitted differently on logits: save "
    "logits if you can."
)
BY_FOLDS = (
    "Calibrators were cross-fitted: every test example was calibrated by a fit to the other {others} of {folds} folds "
    "of the test file, so these numbers describe calibration with about as many examples, not one fixed calibrator."
)
COLLAPSED = (
    f"{{lost}} of {{models}} models collapsed ({{names}}): a gap parts their accuracy from the others'. No interval "
    f"over so few models covers the mean of two kinds, and no difference is called significant. Report the share that "
    f"collapsed and the mean of the others, and evaluate {SEEDS} models or more."
)
FEW_EXAMPLES = "{least:,} test examples are few: an ECE is then mostly noise; read it against its null."
MIXED = "{name}: of calibration and test predictions only one holds logits, so calibrators see log p of both."
BATCHES = (
    "The {S} arrays hold examples of their own and are taken for {S} models. If they are batches or sequences of one, "
    "join them: values.reshape(-1, K), labels.reshape(-1)."
)
PARTS = (
    "The {S} files hold examples of their own and are taken for {S} models. If they are parts of one, call them part0, "
    "part1..., and they are joined."
)
SHARED = (
    "{rows:,} of the {of:,} calibration rows of {calibration.name} are rows of the test set {test.name}: calibrators "
    "are judged on examples they were fitted to."
)
REPEATED = (
    "{rows:,} of the {of:,} test rows of {name} are like another one in {what}. If they are copies, leave them "
    "out{or_}: intervals take each for an example of its own, and a fit by folds has seen what it is judged on."
)
EVERY_LOGIT, ITS_NAME = "every logit and the label", "{column!r} and the label"
OR_VIEWS = ", and if they are views of one example, give the mean of their probabilities"
ZEROS = (
    "{name}: calibrators saw a probability of zero as {share} of {step}, the last digit kept ({why}); rows were "
    "normalized. Save logits or more digits to avoid this."
)
HARD = "only zeros and ones are known, so kappa has no meaning"
BEST_SHARE = "the share that explains the calibration labels best"
OVERCONFIDENT, UNDERCONFIDENT = "the model is overconfident", "the model is underconfident"
NEITHER = "neither over- nor underconfidence is established"
AT_BOUND = "the temperature stopped at a bound, as the calibration set is separable or uninformative"


def sources(models: Sequence[Model], nested: bool) -> str:
    """Text on the models and test examples that intervals are computed from."""
    n, N = len(models), [len(m.test.y_N) for m in models]
    examples = f"{N[0]:,} test examples" if len(set(N)) == 1 else f"{min(N):,} to {max(N):,} test examples"
    if n == 1:
        return f"{examples}, {ONE_MODEL}"
    return f"{n} models with {examples} {OF_THEIR_OWN}" if nested else f"{n} models, {examples}: {CROSSED}"


def stem(column: str) -> str:
    """The quantity that a column holds or limits."""
    for end in ("_low", "_high", "_p"):
        column = column.removesuffix(end)
    return column


def tables(frames: Mapping[str, pd.DataFrame], context: Context) -> dict[str, Table]:
    """The main table, every metric, each calibrator against raw, and each model's own numbers."""
    frame = frames["evaluation"]
    how = sources(context["models"], context["nested"])
    if context["folds"]:
        how = f"{how}; {CROSS_FITTED.format(folds=context['folds'])}"
    notes = _fits(frame, context)
    doubts = marks_note(frame)
    main = frame[[c for c in frame.columns if stem(c) in MAIN]]
    first = tuple(name for name in MAIN[1:-2] if name != "ece_positive")
    title = TITLE_ALONE if alone(context) else TITLE
    by_name = {
        "evaluation": Table(title, main, f"{how}. {MAIN_NOTE} {notes}{doubts}", paper=True, first=first),
        "metrics": Table("Every metric by method", frame, f"{how}; {METRICS_NOTE} {notes}{doubts}"),
    }
    differences = frames["differences"]
    if len(differences):
        note = f"{how}. {STAR} {notes}{marks_note(differences)}"
        by_name["differences"] = Table("Each method minus raw", differences, note, paper=True)
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
    shown = frame[[c for c in frame.columns if stem(c) in stems]]
    by_name = {"decisions": Table(f"{DECISIONS_TITLE}, by method", shown, f"{how}. {DECISIONS}")}
    if len(differences):
        note = f"{how}. {STAR} {DECISIONS}{marks_note(differences)}"
        by_name["decision_differences"] = Table(f"{DECISIONS_TITLE}, each method minus raw", differences, note)
    return by_name


def _fits(frame: pd.DataFrame, context: Context) -> str:
    """Note on whether intervals after calibration count the calibration examples."""
    methods = [name for name in frame["method"] if name != "raw"]
    if not methods:
        return ""
    if context["folds"] or "temperature_scaling" not in methods or not has_any(frame, "kappa_low"):
        return UNCOUNTED
    return COUNTED + (OTHER_FITS if len(methods) > 1 else "")


def doubts_of(frame: pd.DataFrame, names: str) -> list[str]:
    """A warning that names the rows whose intervals are in doubt; none where none are."""
    marked = frame[frame["doubtful"].notna()] if "doubtful" in frame else frame[:0]
    if marked.empty:
        return []
    listed = "; ".join(f"{name}: {words}" for name, words in zip(marked[names], marked["doubtful"], strict=True))
    return [f"{DOUBTS} {listed}."]


def verdict(frames: Mapping[str, pd.DataFrame], context: Context) -> tuple[str, ...]:
    """Sentences on the predictions and the calibrators, most important first."""
    rows = {row["method"]: row for row in frames["evaluation"].to_dict("records")}
    raw = rows["raw"]
    cells = {metric: cell(raw, metric) for metric in NAMES if metric in raw}
    text = ALONE_AS_THEY_ARE if alone(context) else AS_THEY_ARE
    sentences = [text.format(**cells, null=number(raw["ece_null"]), p=_p(raw))]
    kappa = rows.get("temperature_scaling", {})
    if has_number(kappa, "kappa"):
        sentences.append(f"Kappa is {cell(kappa, 'kappa')}: {_confidence(kappa)}.")
    differences = frames["differences"].to_dict("records")
    return (*sentences, *(_calibrators(differences) if differences else [NO_FIT]))


def _calibrators(differences: Sequence[Row]) -> list[str]:
    """Which calibrator has the lowest loss, and which change it; nothing where all are infinite."""
    metric = "log_loss" if "log_loss" in differences[0] else "brier"
    finite = [row for row in differences if math.isfinite(row[metric])]
    if not finite:
        return []
    changes = [Finding.of(row, metric, unit=UNITS.get(metric, ""), where=row["method"]) for row in finite]
    best, loss = min(changes, key=lambda change: change.departure), NAMES[metric]
    if len(differences) == 1:
        return [ONLY.format(best=best, loss=loss)]
    among = f"{len(differences)} calibrators"
    rest = "; the others are inconclusive" if len(established(changes)) < len(changes) else ""
    lower, higher = _methods(changes, -1), _methods(changes, 1)
    return [BEST.format(best=best, loss=loss, among=among, lower=lower, higher=higher, rest=rest)]


def warnings(frames: Mapping[str, pd.DataFrame], context: Context) -> tuple[str, ...]:
    """Warnings of an evaluation: what a reader must know before quoting a number."""
    models: Sequence[Model] = context["models"]
    sentences = [*([ALONE] if alone(context) else []), *context["skipped"]]
    remarks, folds = frames["evaluation"].get("remark"), context["folds"]
    if remarks is not None and remarks.notna().any():
        marked = ", ".join(frames["evaluation"]["method"][remarks.notna()])
        sentences.append(ONLY_PROBABILITIES.format(methods=marked))
    if folds:
        sentences.append(BY_FOLDS.format(others=folds - 1, folds=folds))
    sentences += doubts_of(frames["evaluation"][:1], "method")
    return (*sentences, *two_kinds(models), *general(models))


def alone(context: Context) -> bool:
    """Whether what was evaluated are confidences and correctness alone."""
    return bool(context["models"][0].test.alone)


def two_kinds(models: Sequence[Model]) -> list[str]:
    """A warning where some of several models collapsed: no interval over few models covers their mean."""
    lost = collapsed_models(models)
    if not lost:
        return []
    names = ", ".join(model.test.name for model in lost)
    return [COLLAPSED.format(lost=len(lost), models=len(models), names=names)]


def general(models: Sequence[Model]) -> list[str]:
    """Warnings about the predictions themselves."""
    least = min(len(m.test.y_N) for m in models)
    sentences = [FEW_EXAMPLES.format(least=least)] if least < FEW else []
    sentences += _mixed(models) + _parts(models) + _repeated(models[0].test)
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
    mixed = [m for m in models if m.calibration is not None and m.calibration.exact != m.test.exact]
    return [MIXED.format(name=model.test.name) for model in mixed[:1]]


def _parts(models: Sequence[Model]) -> list[str]:
    """A note where files or arrays with examples of their own may be parts of one; none where a name says otherwise."""
    files = [model.test.file for model in models]
    of_files = models[0].test.trial is None and all(files)
    by_place = models[-1].test.name == f"test{len(models) - 1}"
    is_said = re.search("seed|fold", " ".join(files), re.IGNORECASE)
    if is_said or not (of_files or by_place) or not have_own_tests(models):
        return []
    return [(PARTS if of_files else BATCHES).format(S=len(models))]


def _shared(model: Model, rows: int) -> list[str]:
    """A warning of calibration rows that are rows of the test set; nothing where none are."""
    if not rows or model.calibration is None:
        return []
    return [SHARED.format(rows=rows, of=len(model.calibration.y_N), calibration=model.calibration, test=model.test)]


def _repeated(test: Predictions) -> list[str]:
    """A warning of test rows that may be copies of others, or views of the same examples; nothing where none are."""
    column, named = named_twice(test)
    rows, what, or_ = (
        (named, ITS_NAME.format(column=column), OR_VIEWS) if named else (repeated_rows(test), EVERY_LOGIT, "")
    )
    return [REPEATED.format(rows=rows, of=len(test.y_N), name=test.name, what=what, or_=or_)] if rows else []


def _zeros(model: Model) -> list[str]:
    """A warning on the value that replaced probabilities of zero in fits; nothing where none was replaced."""
    if model.zeros is None or not model.shares:
        return []
    shares, steps = sorted(model.shares.values()), model.zeros.step_K
    share = f"{shares[0]:.3g}" if shares[0] == shares[-1] else f"{shares[0]:.3g} to {shares[-1]:.3g}"
    step = f"{steps.min():.2g}" if steps.min() == steps.max() else " and ".join(f"{s:.2g}" for s in steps)
    why = HARD if model.zeros.resolution.form == "hard" else BEST_SHARE
    return [ZEROS.format(name=model.test.name, share=share, step=step, why=why)]


def has_number(row: Row, column: str) -> bool:
    """Whether the row has a finite number in the column."""
    value = row.get(column)
    return value is not None and math.isfinite(value)


def _p(row: Row) -> str:
    return f" (p = {row['ece_null_p']:.2g})" if has_number(row, "ece_null_p") else ""


def _confidence(row: Row) -> str:
    if not has_number(row, "kappa_low"):
        return AT_BOUND
    if row["kappa_low"] > 1:
        return OVERCONFIDENT
    return UNDERCONFIDENT if row["kappa_high"] < 1 else NEITHER


def _methods(changes: Sequence[Finding], sign: int) -> str:
    """The methods whose change is established, with the sign."""
    return ", ".join(change.where for change in established(changes) if sign * change.departure > 0) or "none"
