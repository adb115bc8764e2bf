"""An arm against the reference at equal mean confidence, so that what differs is not confidence.

A temperature moves a model's confidence and leaves its predicted classes. The reference's is set so that its mean
confidence on the calibration split is the arm's, and the arm's so that it is the reference's. The four models are a 2x2
of whose training (dynamics) and whose confidence:

    y00 the reference                            y01 the reference at the arm's confidence
    y10 the arm at the reference's confidence    y11 the arm

and total = y11 - y00 = confidence alone (y01 - y00) + what is left at equal confidence (y11 - y01), exactly. Unlike the
split by temperature scaling (Guo et al., 2017), no model is first made as calibrated as it can be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from calib_bench.analysis.calibration_variance import same_calibration
from calib_bench.analysis.contrast import difference_of
from calib_bench.analysis.findings import Finding, Sentences, changes, findings_of, overview
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import SCORES, shift
from calib_bench.analysis.result_rows import Row, adjusted, bounded, row_of
from calib_bench.analysis.table_notes import families, over_beta
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.analysis.temperature_influence import temperature_slopes
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.inference import Fitted, crossed_interval, ece_interval, fitted, share
from calib_bench.inference.arrays import Array
from calib_bench.inference.scores import with_doubt
from calib_bench.metrics.scores import scores_n

METRICS = {"log loss": "log_loss", "Brier": "brier", "accuracy": "correct", "mean confidence": "confidence"}
"""Metrics that are means over examples, and the per-example score each is the mean of."""
FIRST = ("log loss", "accuracy")
"""Metrics of `TABLE`; the others, and ECE, are in `OTHER_METRICS`."""
BLOCK = 1 << 18
"""Entries of a block of rows."""
ROUNDING = 1e-12
"""A mean confidence as close to 1 / K as this is that of no knowledge, at no temperature."""
FARTHEST = 600.0
"""Largest |log T| that is tried."""


@dataclass(frozen=True)
class Matched:
    """The four cells of the 2x2, over the seeds that finished in both arms and could be matched both ways.

    Attributes:
        seeds: those seeds.
        unmatched: seeds whose confidence no temperature of the other model reaches.
        dropped: number of seeds that did not finish in both.
        log_temperature: log T of the reference at the arm's confidence, [S]; 0 where both are equally confident.
        cells: by per-example score: y00, y10, y01, y11, each float64 [S, N].
        moves: by per-example score and part, by how much other choices of both rates would change it, [V, B, S].
        fits: likewise, what the calibration examples add on which confidences were matched.
    """

    seeds: tuple[int, ...]
    unmatched: tuple[int, ...]
    dropped: int
    log_temperature: tuple[float, ...]
    cells: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]
    moves: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    fits: Mapping[str, Mapping[str, Fitted]] = field(default_factory=dict)


class _Pair(NamedTuple):
    """log T of the reference at the arm's confidence; scores [N] of it there, and of the arm at the reference's.

    Of both also log T plus the influence of each calibration example on it, [2, M], and by score the first and second
    derivative of its mean in log T, [2, 2].
    """

    log_temperature: float
    reference: dict[str, Tensor]
    arm: dict[str, Tensor]
    log_T: Tensor
    slopes: dict[str, Array]


def compare(reference: Measures, arm: Measures, store: Results) -> Matched:
    """Brings each model to the other's mean confidence, seed by seed; one pair of trials in memory at a time.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    common = [seed for seed in arm.seeds if seed in reference.seeds]
    matched = _pairs(store, reference, arm, common)
    scores = METRICS.values() if matched else ()
    moves = _moves_by_score(reference, arm, scores)
    return Matched(
        seeds=tuple(matched),
        unmatched=tuple(seed for seed in common if seed not in matched),
        dropped=len({*arm.arm.trials, *reference.arm.trials}) - len(common),
        log_temperature=tuple(pair.log_temperature for pair in matched.values()),
        cells={score: _cells(reference, arm, matched, score) for score in scores},
        moves=moves,
        fits=_fits(list(matched.values()), all(same_calibration(one) for one in (reference, arm))),
    )


def _moves_by_score(reference: Measures, arm: Measures, scores: Iterable[str]) -> dict[str, Mapping[str, Array]]:
    """See `Matched.moves`."""
    moves = {score: _moves(reference, arm, score) for score in scores if score in SCORES}
    return {score: by_part for score, by_part in moves.items() if by_part}


def _pairs(store: Results, reference: Measures, arm: Measures, seeds: Sequence[int]) -> dict[int, _Pair]:
    """The seeds that could be matched both ways."""
    pairs = {seed: _pair(store, reference.arm.trials[seed], arm.arm.trials[seed]) for seed in seeds}
    return {seed: pair for seed, pair in pairs.items() if pair is not None}


def _cells(
    reference: Measures, arm: Measures, matched: Mapping[int, _Pair], score: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four cells of the 2x2 of one score, see `Matched.cells`."""
    y00, y11 = (one.examples["raw"][score][[one.seeds.index(seed) for seed in matched]] for one in (reference, arm))
    if score == "correct":  # A temperature changes no argmax.
        return y00, y11, y00, y11
    y01 = torch.stack([pair.reference[score] for pair in matched.values()])
    y10 = torch.stack([pair.arm[score] for pair in matched.values()])
    return y00, y10, y01, y11


ON = {
    "equal_confidence": (-1, 0),
    "confidence_alone": (1, 0),
    "equal_confidence_reverse": (0, 1),
    "interaction": (-1, -1),
}
"""By part, the factors of the matched reference and of the matched arm in it."""


def _fits(pairs: Sequence[_Pair], shared: bool) -> dict[str, dict[str, Fitted]]:
    """See `Matched.fits`: none where seeds have calibration sets of different sizes."""
    if len({pair.log_T.shape for pair in pairs}) != 1:
        return {}
    log_T_ASM = np.stack([pair.log_T.numpy() for pair in pairs], 1)
    fits: dict[str, dict[str, Fitted]] = {}
    for score in pairs[0].slopes:
        slope_AS, curvature_AS = np.stack([pair.slopes[score] for pair in pairs], -1).swapaxes(0, 1)
        fits[score] = {part: fitted(log_T_ASM, slope_AS, curvature_AS, on, shared) for part, on in ON.items()}
    return fits


def _moves(reference: Measures, arm: Measures, score: str) -> dict[str, Array]:
    """By part, by how much other choices of both rates would change it, [V, B, S]; empty where none was chosen.

    What is left at equal confidence changes as what is left after temperature scaling does, of which every tuning trial
    tells: to match it with a reference of another rate, too, would take as many fits as pairs.
    """
    total, dyn = (shift(arm, reference, (method, score, 1.0)) for method in ("raw", "temperature_scaling"))
    if total is None or dyn is None:
        return {}
    return {
        "total": total,
        "equal_confidence": dyn,
        "confidence_alone": total - dyn,
        "equal_confidence_reverse": dyn,
    }


def _pair(store: Results, reference: Trial, arm: Trial) -> _Pair | None:
    """Both at the other's mean confidence; None where a temperature does not reach it."""
    Z, test, labels = [], [], []
    for trial in (reference, arm):
        z = store.logits(trial)
        Z.append(trial.beta * z["calibration"].double())
        test.append(trial.beta * z["test"].double())
        labels.append(store.labels(trial)["test"])
    T_reference, T_arm = temperature_for(Z[0], doubt(Z[1])), temperature_for(Z[1], doubt(Z[0]))
    if T_reference is None or T_arm is None:
        return None
    at_arm, at_reference = _scores(test[0] / T_reference, labels[0]), _scores(test[1] / T_arm, labels[1])
    log_T = [_log_T_n(Z[0], T_reference, Z[1]), _log_T_n(Z[1], T_arm, Z[0])]
    both = [_slopes(test[0] / T_reference, labels[0]), _slopes(test[1] / T_arm, labels[1])]
    slopes = {score: np.array([one[score] for one in both]) for score in both[0]}
    return _Pair(math.log(T_reference), at_arm, at_reference, torch.stack(log_T), slopes)


def _confidence(Z_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence of softmax(Z / T) and its derivative in log T, at T = 1: [N] each."""
    log_NK = Z_NK.log_softmax(-1).clamp(min=-800.0)  # exp(-800) is zero, and 0 * -inf is not
    top_N = log_NK.amax(-1)
    return top_N.exp(), top_N.exp() * ((log_NK.exp() * log_NK).sum(-1) - top_N)


def _log_T_n(Z_NK: Tensor, T: float, other_NK: Tensor) -> Tensor:
    """log T plus the first-order influence of each calibration example on it, [N], where softmax(Z / T) is brought to
    the mean confidence of softmax(other)."""
    confidence_N, slope_N = _confidence(Z_NK / T)
    gap_N = confidence_N - _confidence(other_NK)[0]
    influence_N = (gap_N.mean() - gap_N) / slope_N.mean()
    return math.log(T) + influence_N.nan_to_num(0.0, 0.0, 0.0)


def _slopes(Z_NK: Tensor, y_N: Tensor) -> dict[str, tuple[float, float]]:
    """First and second derivative in log T of mean scores of softmax(Z / T); of confidence the first alone, which
    rules."""
    logp_NK = Z_NK.log_softmax(-1)
    return temperature_slopes(logp_NK, y_N) | {"confidence": (float(_confidence(Z_NK)[1].mean()), 0.0)}


def _scores(Z_NK: Tensor, y_N: Tensor) -> dict[str, Tensor]:
    names = ("log_loss", "brier", "confidence")
    return dict(zip(names, scores_n(Z_NK, y_N, *names), strict=True))


def doubt(Z_NK: Tensor, s: float = 1.0) -> float:
    """One less the mean confidence of softmax(s Z), accurate also where it is tiny."""
    total = 0.0
    for Z in Z_NK.split(max(1, BLOCK // Z_NK.shape[1])):
        top, arg = Z.double().max(1, keepdim=True)
        others = (s * (Z.double() - top)).exp_().scatter_(1, arg, 0.0).sum(1)
        total += float((others / (1 + others)).sum())
    return total / len(Z_NK)


def temperature_for(Z_NK: Tensor, target: float) -> float | None:
    """T > 0 at which one less the mean confidence of softmax(Z / T) is `target`; None when there is none.

    Mean confidence falls from 1 (less where logits tie) at T -> 0 to 1 / K at T -> infinity, strictly unless all logits
    of every row are equal, so that T is unique. Brent's method in log T, to 1e-12, in a bracket that grows from T = 1.
    """
    from scipy.optimize import brentq

    K = Z_NK.shape[1]
    if not 1e-290 < target < (1 - 1 / K) * (1 - ROUNDING):
        return None
    goal = math.log(target)

    def excess(u: float) -> float:
        return math.log(max(doubt(Z_NK, math.exp(-u)), 1e-300)) - goal

    start = excess(0.0)
    if start == 0:
        return 1.0
    near, step = 0.0, -0.5 if start > 0 else 0.5  # doubt grows with T
    while excess(near + step) * start > 0:
        near, step = near + step, 2 * step
        if abs(near + step) > FARTHEST:
            return None
    return math.exp(float(brentq(excess, near, near + step, xtol=1e-13, rtol=1e-13)))


def rows(reference: Measures, arm: Measures, store: Results, name: Row, nested: bool) -> list[Row]:
    """`rows_of` the arm matched with the reference."""
    return rows_of(compare(reference, arm, store), name, nested)


def rows_of(matched: Matched, name: Row, nested: bool) -> list[Row]:
    """One row a metric (means over examples, and ECE): the arm's difference from the reference and its parts.

    Returns:
        `total` y11 - y00, `equal_confidence` y11 - y01, `confidence_alone` y01 - y00, the reverse
        `equal_confidence_reverse` y10 - y00, and `interaction` y11 - y10 - y01 + y00, each with `_low`, `_high`, `_p`;
        `share`, equal_confidence / total, where the data bound it; `temperature`, geometric mean over seeds.
    """
    counts = {"seeds": len(matched.seeds), "dropped": matched.dropped, "unmatched": len(matched.unmatched)}
    base: Row = {**name, **counts, "nested": nested, "examples": 0}
    if not matched.seeds:
        return [{**base, "metric": metric} for metric in (*METRICS, "ECE")]
    base["examples"] = matched.cells["log_loss"][0].shape[1]
    base["temperature"] = math.exp(sum(matched.log_temperature) / len(matched.seeds))
    out = []
    for metric, score in METRICS.items():
        y00, y10, y01, y11 = matched.cells[score]
        parts = {
            "total": y11 - y00,
            "equal_confidence": y11 - y01,
            "confidence_alone": y01 - y00,
            "equal_confidence_reverse": y10 - y00,
            "interaction": y11 - y10 - y01 + y00,
        }
        row = {**base, "metric": metric}
        moves = matched.moves.get(score, {})
        ranged = metric.lower().replace(" ", "_")
        fits = matched.fits.get(score, {})
        intervals = {
            part: difference_of(ranged, d_SN, nested, fits.get(part), moves.get(part)) for part, d_SN in parts.items()
        }
        # Of four cells, not two.
        intervals["interaction"] = crossed_interval(parts["interaction"], nested=nested, fit=fits.get("interaction"))
        if score == "correct":
            intervals["total"] = with_doubt(intervals["total"], (y11, y00), nested)
        row |= row_of(intervals)
        if metric in ("log loss", "Brier"):
            choice = (moves["equal_confidence"], moves["total"]) if moves else None
            fit = fits.get("equal_confidence")
            of_total = share(parts["equal_confidence"], parts["total"], nested=nested, fit=fit, choice=choice)
            row |= bounded("share", of_total)
        out.append(row)
    return [*out, {**base, "metric": "ECE", **_ece(matched, nested)}]


def _ece(matched: Matched, nested: bool) -> Row:
    y00, y10, y01, y11 = zip(matched.cells["confidence"], matched.cells["correct"], strict=True)
    pairs = {
        "total": (y11, y00),
        "equal_confidence": (y11, y01),
        "confidence_alone": (y01, y00),
        "equal_confidence_reverse": (y10, y00),
    }
    intervals = {
        part: ece_interval(confidence, correct, theirs, nested=nested)
        for part, ((confidence, correct), theirs) in pairs.items()
    }
    return row_of(intervals)


def points(matched: Matched, name: Row) -> list[Row]:
    """Per seed, the arm at the reference's mean confidence: accuracy, log_loss, brier, for `factorial`."""
    if not matched.seeds:
        return []
    scores = {"accuracy": "correct", "log_loss": "log_loss", "brier": "brier"}
    means = {metric: matched.cells[score][1].mean(1).tolist() for metric, score in scores.items()}
    return [
        {**name, "seed": seed, "method": "equal_confidence", **{metric: values[i] for metric, values in means.items()}}
        for i, seed in enumerate(matched.seeds)
    ]


class Says(Sentences):
    """What is said of arms at equal confidence."""

    HEADLINE = "{where}With the reference as confident as the arm, {overview}."
    LARGEST = "Test log loss changes most at {where}, against beta={reference:g}: {changes}{depends}."
    DEPENDS = "; how much is dynamics depends on the confidence at which one looks"
    UNMATCHED = (
        "beta={beta:.3g} {objective}: {unmatched} of {of} seeds could not be compared at equal confidence: no "
        "temperature reaches the other model's."
    )


def headlines(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """One sentence per family on the betas at which an effect is left at equal confidence."""
    sentences = []
    for where, group in families(adjusted(frame, "metric") if len(frame) else frame):
        findings = [one for m in FIRST for one in findings_of(_of_metric(group, m, grid), "equal_confidence", m)]
        if findings:
            sentences.append(Says.HEADLINE.of(where=where, overview=overview(findings)))
    return sentences


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on what is left of beta's effect at equal confidence, and on seeds that could not be matched."""
    sentences = headlines(frame, grid)
    for where, group in families(adjusted(frame, "metric") if len(frame) else frame):
        measured = _of_metric(group, "log loss", grid)
        if measured:
            sentences.append(where + _largest(max(measured, key=lambda row: abs(row["total"])), grid))
        unmatched = group[(group["metric"] == "log loss") & (group["unmatched"] > 0)].to_dict("records")
        sentences += [where + _unmatched(row) for row in unmatched]
    return sentences


def _of_metric(group: pd.DataFrame, metric: str, grid: Grid) -> list[Row]:
    """The rows of one metric, of cross-entropy arms at another beta than the reference's that could be matched."""
    return _with_value(over_beta(group[group["metric"] == metric], grid))


def _with_value(beta_rows: list[Row]) -> list[Row]:
    return [row for row in beta_rows if isinstance(row.get("total"), float) and math.isfinite(row["total"])]


def _largest(row: Mapping[str, Any], grid: Grid) -> str:
    """Sentence on the arm whose log loss changed most: the total and its parts by confidence."""
    findings = [Finding.of(row, column, name, "nats") for column, name in PARTS.items()]
    interaction = Finding.of(row, "interaction")
    depends = Says.DEPENDS if interaction.is_established else ""
    about = {"where": findings[0].where, "reference": grid.reference}
    return Says.LARGEST.of(**about, changes=changes(findings), depends=depends)


PARTS = {
    "total": "in all",
    "confidence_alone": "with the reference made as confident as the arm",
    "equal_confidence": "at the arm's confidence",
    "equal_confidence_reverse": "at the reference's confidence",
}
"""What a sentence calls the columns of `rows_of`."""


def _unmatched(row: Mapping[Any, Any]) -> str:
    return Says.UNMATCHED.of(**{**row, "of": row["seeds"] + row["unmatched"]})


def _of(first: bool, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of FIRST, or the others; "doubtful" where a limit of theirs is."""
    rows = frame[frame["metric"].isin(FIRST) == first]
    lacks_doubt = "doubtful" in rows and rows["doubtful"].isna().all()
    return rows.drop(columns="doubtful") if lacks_doubt else rows


HOW = (
    "Each arm minus {reference} with cross-entropy, test split. equal confidence: the reference's temperature set so "
    "that its mean confidence on the calibration split is the arm's (temperature: a geometric mean over seeds); "
    "reverse: the arm's set so that its mean confidence is the reference's; confidence alone: the reference at the "
    "arm's confidence minus the reference; total = equal confidence + confidence alone, and interaction = equal "
    "confidence - its reverse",
    "share: the part of the total that is there at equal confidence, where the data bound it (Fieller); unmatched: "
    "seeds left out because no temperature reaches the other's confidence",
    "{sample}",
    f"{STAR} over the arms, for each metric and column",
)
TABLE = TableSpec(
    "At equal mean confidence: change of test log loss (nats) and accuracy",
    (
        *HOW,
        "the choice of rate is counted, at equal confidence by what it changes after temperature scaling; the "
        "calibration examples on which confidences were matched are counted",
    ),
    paper=True,
    holm=("metric",),
    rows=partial(_of, True),
    words=words,
)
"""Log loss and accuracy."""
OTHER_METRICS = TableSpec(
    "At equal mean confidence: change of Brier, ECE and mean confidence",
    (
        *HOW,
        "mean confidence is matched on the calibration split: its row at equal confidence is what is left on the "
        "test split; ECE: basic bootstrap intervals, extended by the bias of ECE",
        "the choice of rate is counted, at equal confidence by what it changes after temperature scaling, but not in "
        "mean confidence and ECE; the calibration examples on which confidences were matched are counted, but not in "
        "ECE",
    ),
    of="matched",
    holm=("metric",),
    rows=partial(_of, False),
)
"""Brier, ECE, and what was left of the difference in mean confidence on the test split."""
