"""Two predictors on the same examples: paired differences, as they are and after temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from calib_bench import registry
from calib_bench.analysis.findings import Finding
from calib_bench.analysis.result_rows import (
    TWO_KINDS,
    Row,
    adjusted,
    fields,
    marks_note,
)
from calib_bench.analysis.scores import REPAIRED
from calib_bench.core.study import Analysis, Table
from calib_bench.evaluation import findings
from calib_bench.evaluation.models import (
    Model,
    aligned,
    at_one_resolution,
    check_folds,
    collapsed_models,
    distinct,
    have_own_tests,
    refuse_other_classes,
)
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.scored import Scored, contrasts, decision_contrasts, fitted_to, kappa_of, score
from calib_bench.inference import Interval, difference_interval
from calib_bench.inference.scores import with_doubt

RAW, CONFIDENCE, DYNAMICS = "as they are", "confidence", "after temperature scaling"
SPLIT = (
    "Of the difference in log loss, {0.text} are confidence, which a temperature repairs{0.note}, and {1.text} remain "
    "after temperature scaling{1.note}."
)
INFINITE = "{0} has infinite {1.quantity}: it gives probability zero to a label that occurs."
ONE_EACH = "one model each: another training could give another result"
ALIKE = (
    "The other file has zeros, its numbers being {kept}: after temperature scaling, {names} is read at that resolution "
    "too, so that what one file does not keep counts neither for nor against the other."
)
NEGATIVE = "Negative is better for A, but for accuracy."
STAR = f"A star marks p < {findings.ALPHA:g} after Holm's correction over the metrics of each stage."


def compare(a: Sequence[Model], b: Sequence[Model], folds: int = 0, seed: int = 0) -> Analysis:
    """A minus B on accuracy, log loss, Brier and ECE.

    With calibration sets, or `folds`, log loss and Brier are split: a temperature repairs confidence, and what is left
    after temperature scaling is dynamics; delta_total = delta_conf + delta_dyn.

    Args:
        a, b: as many models each, paired by order.
        folds, seed: see `evaluate.evaluate`.

    Raises:
        DataError: the two are not of the same examples, or not as many.
    """
    for model in (*a, *b):
        if model.test.alone:
            raise Refusal.CONFIDENCE_PAIRED.of(model.test.name)
    b = aligned(a, b)
    _same_examples(a, b)
    check_folds([*a, *b], folds)
    nested = have_own_tests(a)
    raw = score(a, RAW, None), score(b, RAW, None)
    fits = bool(folds or all(m.calibration is not None for m in (*a, *b)))
    same_a, same_b = zip(*map(at_one_resolution, a, b), strict=True)
    repaired = _repaired(same_a, same_b, folds, seed) if fits else None
    frame = _frame(_rows(raw, repaired, nested, _apart(a, b)))
    if mixed := _collapsed_sides(a, b):
        frame[TWO_KINDS] = mixed
    tables = {"comparison": Table("A minus B", frame, _note(a, b, frame, repaired, nested), paper=True)}
    decisions = _decisions(raw, repaired, nested, _apart(a, b))
    if mixed:
        decisions[TWO_KINDS] = mixed
    tables["decisions"] = Table(
        "What confidence is worth to a decision, A minus B", decisions, _decisions_note(a, decisions, nested)
    )
    if repaired is not None:
        tables["kappa"] = Table("Factor of overconfidence, kappa", _kappas(a, b, repaired), "1 is neither.")
    one, other = distinct([a[0].test, b[0].test])
    sentences = _verdict(frame, len(a), (one.name, other.name))
    warnings = (*_warnings(a, b), *findings.doubts_of(frame, "metric"))
    if fits:
        warnings = (*warnings, *_read_alike((*a, *b), (*same_a, *same_b)))
    return Analysis(
        sentences, tables, warnings, summary=(sentences[-1], sentences[1], *sentences[len(findings.NAMES) : -1])
    )


def _collapsed_sides(a: Sequence[Model], b: Sequence[Model]) -> str:
    """Which of A and B have models that collapsed beside others that did not; empty where neither has."""
    return " and ".join(name for name, models in (("A", a), ("B", b)) if collapsed_models(models))


def _repaired(a: Sequence[Model], b: Sequence[Model], folds: int, seed: int) -> tuple[Scored, Scored]:
    """Scores of both after temperature scaling."""
    temperature = registry.calibrators((REPAIRED,))[REPAIRED]
    return score(a, REPAIRED, temperature, folds, seed), score(b, REPAIRED, temperature, folds, seed)


def _rows(raw: tuple[Scored, Scored], repaired: tuple[Scored, Scored] | None, nested: bool, apart: bool) -> list[Row]:
    """Differences in every metric, as they are and, where there is a fit, split by temperature scaling.

    Args:
        apart: whether the two have calibration examples of their own.
    """
    rows = [_row(RAW, metric, raw, interval) for metric, interval in contrasts(*raw, nested).items()]
    if repaired is None:
        return rows
    after = contrasts(*repaired, nested, apart)
    for metric in ("log_loss", "brier"):
        rows.append(_row(CONFIDENCE, metric, None, _gain(raw, repaired, metric, nested, apart)))
        rows.append(_row(DYNAMICS, metric, repaired, after[metric]))
    return [*rows, _row(DYNAMICS, "ece", repaired, after["ece"])]


def _decisions(
    raw: tuple[Scored, Scored], repaired: tuple[Scored, Scored] | None, nested: bool, apart: bool
) -> pd.DataFrame:
    """Differences in what confidence is worth to a decision, as they are and after temperature scaling."""
    rows = [_row(RAW, metric, raw, one) for metric, one in decision_contrasts(*raw, nested, apart).items()]
    if repaired is not None:
        after = decision_contrasts(*repaired, nested, apart)
        rows += [_row(DYNAMICS, metric, repaired, interval) for metric, interval in after.items()]
    return _frame(rows)


def _decisions_note(a: Sequence[Model], frame: pd.DataFrame, nested: bool) -> str:
    return f"{findings.sources(a, nested)}. {STAR} {findings.DECISIONS}{marks_note(frame)}"


def _note(
    a: Sequence[Model], b: Sequence[Model], frame: pd.DataFrame, repaired: tuple[Scored, Scored] | None, nested: bool
) -> str:
    """What a reader of the differences must know."""
    note = f"A is {_called(a)}, B is {_called(b)}. {findings.sources(a, nested)}. {NEGATIVE} {STAR}"
    if repaired is not None:
        note += " " + (findings.COUNTED if any(scored.slopes for scored in repaired) else findings.UNCOUNTED)
    return note + marks_note(frame)


def _read_alike(models: Sequence[Model], same: Sequence[Model]) -> tuple[str, ...]:
    """Note on predictions read at the coarser resolution of the other file, which has zeros."""
    finer = [
        (m.test.name, s.zeros.resolution.words)
        for m, s in zip(models, same, strict=True)
        if s.zeros is not None and (m.zeros is None or m.zeros.resolution != s.zeros.resolution)
    ]
    if not finer:
        return ()
    names, kept = ", ".join(dict.fromkeys(name for name, _ in finer)), finer[0][1]
    return (ALIKE.format(kept=kept, names=names),)


def _same_examples(a: Sequence[Model], b: Sequence[Model]) -> None:
    """Raises DataError where the models of A and B cannot be paired example by example."""
    if len(a) != len(b):
        raise Refusal.MODEL_COUNT.of("", a=len(a), b=len(b))
    for one, other in zip(a, b, strict=True):
        y, w = one.test.y_N, other.test.y_N
        names = {"origin": other.test.name, "one": one.test.name}
        if len(y) != len(w):
            raise Refusal.OTHER_EXAMPLES.of(**names, reason=f"{len(w):,} against {len(y):,} examples")
        refuse_other_classes([one.test, other.test])
        differ = y != w
        if bool(differ.any()):
            hint = ": the same labels in another order?" if torch.equal(y.sort().values, w.sort().values) else ""
            count, row = int(differ.sum()), int(differ.int().argmax())
            reason = f"they differ in {count:,} of {len(y):,} labels, first at row {row}{hint}"
            raise Refusal.OTHER_EXAMPLES.of(**names, reason=reason)
        seeds = [m.test.trial.seed for m in (one, other) if m.test.trial is not None]
        if len(set(seeds)) > 1:
            raise Refusal.OTHER_SEED.of(**names, seed=seeds[0], other=seeds[1])


def _apart(a: Sequence[Model], b: Sequence[Model]) -> bool:
    """Whether A and B have different calibration examples, judged by number and labels."""
    pairs = [(one.calibration, other.calibration) for one, other in zip(a, b, strict=True)]
    return any(
        one is not None and other is not None and (len(one.y_N) != len(other.y_N) or bool((one.y_N != other.y_N).any()))
        for one, other in pairs
    )


def _gain(
    raw: tuple[Scored, Scored], repaired: tuple[Scored, Scored], metric: str, nested: bool, apart: bool
) -> Interval:
    """delta_conf: what the temperature repairs in A less what it repairs in B."""
    rows = zip(*(s.examples[metric] for s in (*raw, *repaired)), strict=True)
    fit = fitted_to(metric, *repaired, apart)
    values = [((p - q) - (r - s)).numpy() for p, q, r, s in rows]
    interval = difference_interval(metric, values, nested, None if fit is None else fit.negative())
    return with_doubt(interval, [scored.top[1] for scored in raw], nested)


def _row(stage: str, metric: str, pair: tuple[Scored, Scored] | None, interval: Interval) -> Row:
    means = [math.fsum(s.metrics[metric]) / len(s.metrics[metric]) for s in pair] if pair else [None, None]
    row = {"stage": stage, "metric": metric, "a": means[0], "b": means[1], **fields("difference", interval)}
    return row | ({"doubtful": interval.doubt} if interval.doubt else {})


def _frame(rows: list[Row]) -> pd.DataFrame:
    parts = []
    for stage in (RAW, CONFIDENCE, DYNAMICS):
        part = pd.DataFrame([row for row in rows if row["stage"] == stage])
        if len(part):
            parts.append(adjusted(part))
    return pd.concat(parts, ignore_index=True)


def _kappas(a: Sequence[Model], b: Sequence[Model], repaired: tuple[Scored, Scored]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"predictions": name, "of": _called(m), **kappa_of(s)}
            for name, m, s in zip("AB", (a, b), repaired, strict=True)
        ]
    )


def _called(models: Sequence[Model]) -> str:
    names = [m.test.name for m in models]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _verdict(frame: pd.DataFrame, n: int, names: tuple[str, str]) -> tuple[str, ...]:
    rows = {(row["stage"], row["metric"]): row for row in frame.to_dict("records")}
    sentences = [_sentence(rows[RAW, metric], metric) for metric in findings.NAMES]
    if (CONFIDENCE, "log_loss") in rows:
        parts = (Finding.of(rows[stage, "log_loss"], "difference", unit="nats") for stage in (CONFIDENCE, DYNAMICS))
        sentences.append(SPLIT.format(*parts))
    count = ONE_EACH if n == 1 else f"{n} models each"
    return (*sentences, f"A is {names[0]}, B is {names[1]}; {count}.")


def _sentence(row: Row, metric: str) -> str:
    finding = Finding.of(row, "difference", findings.NAMES[metric], findings.UNITS.get(metric, ""))
    better = "A" if (row["difference"] < 0) != (metric == "accuracy") else "B"
    if math.isinf(row["difference"]):
        return INFINITE.format("B" if better == "A" else "A", finding)
    if finding.is_established:
        return f"{better} is better in {finding.quantity}: A minus B is {finding.text}."
    quantity = finding.quantity[0].upper() + finding.quantity[1:]
    return f"{quantity}, A minus B: {finding.text}{finding.note}."


def _warnings(a: Sequence[Model], b: Sequence[Model]) -> tuple[str, ...]:
    sentences = [*findings.two_kinds(a), *findings.two_kinds(b), *findings.general((*a, *b))]
    for one, other in zip(a, b, strict=True):
        Z, W = one.test.Z_NK, other.test.Z_NK
        if Z.shape == W.shape and bool((Z == W).all()):
            sentences.append(f"{one.test.name} and {other.test.name} hold the same predictions.")
    return tuple(dict.fromkeys(sentences))
