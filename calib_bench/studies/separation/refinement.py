"""Calibration and refinement: the split of a proper score by richer families of maps than one temperature.

The refinement of a model is its risk after the best recalibration, and its calibration error is the risk that this
takes away (Berta, Holzmueller, Jordan & Bach, 2025, arXiv 2501.19195). The best map is not known: each family of maps
gives an estimate, and so does the family that cross-validation on the calibration split prefers.

Nothing is fitted on the test split: maps are fitted on the calibration split and judged on the test split, and the
choice among families is by 5-fold cross-validation within the calibration split, for each seed, arm and score. The
price is that a family's estimation error on so many examples counts as refinement: calibration errors are estimated
too low, and are negative where recalibration does harm, which is left as it is (no family is "leave it alone"). In
differences between arms that error largely cancels. The row of temperature scaling is the split into confidence and
dynamics.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from calib_bench.analysis.calibration_variance import fitted_to, same_calibration
from calib_bench.analysis.contrast import difference_of
from calib_bench.analysis.findings import Finding, Sentences, betas, changes, findings_of, overview
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import RedrawnChoice, shift
from calib_bench.analysis.result_rows import Row, adjusted, doubtful, fields, limits
from calib_bench.analysis.table_notes import NAMES, families, over_beta
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.analysis.trial_predictions import on_trials
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.errors import UserError
from calib_bench.inference import Fitted, Interval, choice_variance, crossed_interval, jackknifed, widened, within
from calib_bench.inference.arrays import Array
from calib_bench.metrics.scores import scores_n
from calib_bench.planning.tuning import Arm

TEMPERATURE = "temperature_scaling"
FAMILIES = (TEMPERATURE, "vector_scaling", "structured_matrix_scaling", "isotonic")
"""From poorest to richest: 1, 2 K and K^2 + K parameters, and any increasing function of each class's probability."""
CHOSEN = "cross-validated"
SCORES = {"log loss": "log_loss", "Brier": "brier"}
FOLDS = 5
TOGETHER = 1 << 19
"""Logits at most of the sets whose folds are fitted together: 4 MiB, and as much again a fold."""
LARGEST = 200
"""Most classes at which the matrix family, of K^2 parameters, is cross-validated too."""


@dataclass(frozen=True)
class Refined:
    """An arm's risks per test example, before and after recalibration.

    Attributes:
        seeds: seeds that finished.
        trials: of the arm, by seed, finished or not.
        raw: by score, float64 [S, N].
        after: by family, then score: float64 [S, N]; CHOSEN among them.
        choices: by score, the family chosen for each seed.
        without: by family, then score: float64 [S, F], mean test scores after maps fitted without each of F folds of
            the calibration examples; of families that were cross-validated.
        measures: what the arm's temperatures are known by, see `measure.fitted_to`; without it no calibration examples
            are counted.
        rechosen: results at the rates that other selection data would have chosen; None where no rate was chosen.
    """

    seeds: tuple[int, ...]
    trials: Mapping[int, Trial]
    raw: Mapping[str, Tensor]
    after: Mapping[str, Mapping[str, Tensor]]
    choices: Mapping[str, tuple[str, ...]]
    without: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    measures: Measures | None = None
    redrawn_choice: RedrawnChoice | None = None


def begun(store: Results, arm: Arm, calibrators: Mapping[str, Calibrator]) -> Iterator[Risks]:
    """The cross-validation of an arm's finished trials: inside `pool.workers` others may go on with it.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    done = [trial for _, trial in sorted(arm.trials.items()) if store.state(trial) == "done"]
    return on_trials(_risks, store, done, {name: calibrators[name] for name in FAMILIES if name in calibrators})


def refine(measures: Measures, risks: Iterable[Risks] | None) -> Refined:
    """An arm's risks after each family that was measured, and after the one chosen for every seed and score.

    Args:
        measures: of the arm.
        risks: of each of the measured seeds, in order, what `begun` gives; CHOSEN is left out without them.
    """
    scores = tuple(SCORES.values())
    present = [name for name in FAMILIES if name in measures.examples]
    after = {name: {score: measures.examples[name][score] for score in scores} for name in present}
    seed_risks = list(risks or ())
    choices = {score: tuple(_best_family(present, one, score) for one in seed_risks) for score in scores}
    if measures.seeds and risks is not None:
        after[CHOSEN] = {score: _after_chosen(after, names, score) for score, names in choices.items()}
    return Refined(
        seeds=measures.seeds,
        trials=measures.arm.trials,
        raw={score: measures.examples["raw"][score] for score in scores} if measures.seeds else {},
        after=after,
        choices=choices,
        without=_without_folds(present, seed_risks, choices),
        measures=replace(measures, examples={}),
        redrawn_choice=measures.redrawn_choice,
    )


def _without_folds(
    present: Sequence[str], seed_risks: Sequence[Risks], choices: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Tensor]]:
    """See `Refined.without`."""
    folds = {name: [one.get(name, {}) for one in seed_risks] for name in present}
    folds[CHOSEN] = []
    for i, one in enumerate(seed_risks):
        folds[CHOSEN].append(_without_chosen(one, {score: names[i] for score, names in choices.items()}))
    without = {name: _without(sets, choices) for name, sets in folds.items()}
    return {name: by_score for name, by_score in without.items() if by_score}


def _best_family(present: Sequence[str], risks: Risks, score: str) -> str:
    """The family of the lowest risk on examples held out, of those that were cross-validated."""
    return min((name for name in present if name in risks), key=lambda name: risks[name][score])


def _after_chosen(after: Mapping[str, Mapping[str, Tensor]], names: Sequence[str], score: str) -> Tensor:
    """Scores [S, N] of every seed after the family chosen for it."""
    return torch.stack([after[name][score][i] for i, name in enumerate(names)])


def _without_chosen(risks: Risks, chosen: Mapping[str, str]) -> dict[str, Any]:
    """One seed's test scores without each fold, by score + WITHOUT, each of the family chosen for that score."""
    return {score + WITHOUT: risks[name].get(score + WITHOUT) for score, name in chosen.items()}


def _without(sets: Sequence[Mapping[str, Any]], scores: Iterable[str]) -> dict[str, Tensor]:
    """Of each score [S, F] without each fold, where every set has them."""
    without: dict[str, Tensor] = {}
    for score in scores:
        rows = [folds.get(score + WITHOUT) for folds in sets]
        if rows and all(rows) and len({len(row) for row in rows if row}) == 1:
            without[score] = torch.tensor(rows, dtype=torch.float64)
    return without


Risks = dict[str, dict[str, Any]]
"""By calibrator, then score, the risk on examples held out; by score + WITHOUT, that on the test split of a map fitted
without each fold."""
WITHOUT = "_without"


def _risks(calibrators: Mapping[str, Calibrator], store: Results, trials: Sequence[Trial]) -> list[Risks]:
    """Of each trial, see `cross_validated`."""
    Z, y, tests = [], [], []
    for trial in trials:
        logits, labels = store.logits(trial), store.labels(trial)
        Z.append(trial.beta * logits["calibration"].double())
        y.append(labels["calibration"])
        tests.append((trial.beta * logits["test"].double(), labels["test"]))
    able = {name: method for name, method in calibrators.items() if Z[0].shape[1] <= LARGEST or "matrix" not in name}
    if len({z.shape for z in Z}) > 1:
        sets = zip(Z, y, tests, strict=True)
        return [cross_validated(z[None], y_N[None], able, [test])[0] for z, y_N, test in sets]
    return cross_validated(torch.stack(Z), torch.stack(y), able, tests)


def cross_validated(
    Z_SNK: Tensor,
    y_SN: Tensor,
    calibrators: Mapping[str, Calibrator],
    tests: Sequence[tuple[Tensor, Tensor]] = (),
) -> list[Risks]:
    """Mean log loss and Brier score of each calibrator on examples that it was not fitted on, of S calibration sets.

    Folds are random, the same for every calibrator and set; small ones are fitted together. With fewer examples than
    folds, each is a fold of its own. One calibrator alone is not fitted: there is nothing to choose. A calibrator that
    cannot take one of the sets is left out.

    Args:
        Z_SNK: logits.
        y_SN: labels.
        calibrators: by name.
        tests: of each set logits [M, K] and labels [M] of test examples: their mean scores after the map that was
            fitted without each fold are by score + WITHOUT.
    """
    S = len(Z_SNK)
    if len(calibrators) == 1:
        nothing = dict.fromkeys(SCORES.values(), math.nan)
        return [dict.fromkeys(calibrators, nothing) for _ in range(S)]
    parts = _alike(_folds(y_SN.shape[1]), Z_SNK.numel())
    risks: list[Risks] = [{} for _ in range(S)]
    for name, calibrator in calibrators.items():
        try:
            set_risks = _cross_validate(calibrator, Z_SNK, y_SN, parts, tests)
        except (Exception, SystemExit):  # measuring the trials tells why
            continue
        for one, by_score in zip(risks, set_risks, strict=True):
            one[name] = by_score
    return risks


def _folds(N: int) -> list[Tensor]:
    """Random folds of N examples, none of them empty."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(N))
    return [part for part in torch.tensor_split(order, FOLDS) if len(part)]


def _cross_validate(
    calibrator: Calibrator,
    Z_SNK: Tensor,
    y_SN: Tensor,
    parts: Sequence[Tensor],
    tests: Sequence[tuple[Tensor, Tensor]],
) -> list[dict[str, Any]]:
    """One calibrator's risks on each of S sets, over all folds, those of one size [F, R] at a time.

    Raises:
        UserError: a map gives NaN.
    """
    S, N = y_SN.shape
    sums: dict[str, Any] = dict.fromkeys(SCORES.values(), 0.0)
    without: list[dict[str, Any]] = [{} for _ in range(S)]
    for same_size in parts:
        held_out = _HeldOut.of(Z_SNK, y_SN, same_size)
        for score, values in _held_out_scores(calibrator, held_out, tests, without).items():
            sums[score] = sums[score] + values.view(S, -1).sum(1)
    return [{score: float(sums[score][i]) / N for score in sums} | without[i] for i in range(S)]


class _HeldOut(NamedTuple):
    """Folds of one size of S sets, those of a set after one another, [S F, ...]: what a map is fitted on, what not."""

    Z: Tensor
    y: Tensor
    Z_out: Tensor
    y_out: Tensor

    @classmethod
    def of(cls, Z_SNK: Tensor, y_SN: Tensor, parts_FR: Tensor) -> _HeldOut:
        """The folds whose held-out examples are `parts_FR`."""
        kept = torch.ones(len(parts_FR), y_SN.shape[1], dtype=torch.bool).scatter_(1, parts_FR, False)
        rest = kept.nonzero()[:, 1].view(len(parts_FR), -1)
        return cls(*(a[:, i].flatten(0, 1) for i in (rest, parts_FR) for a in (Z_SNK, y_SN)))


def _held_out_scores(
    calibrator: Calibrator,
    held_out: _HeldOut,
    tests: Sequence[tuple[Tensor, Tensor]],
    without: Sequence[dict[str, Any]],
) -> dict[str, Tensor]:
    """Scores of the examples held out, [S F, R], of maps fitted on the others; adds those of `tests` to `without`.

    Raises:
        UserError: a map gives NaN.
    """
    names = tuple(SCORES.values())
    fits = calibrator.fits(held_out.Z, held_out.y)
    logp = torch.stack([calibrator.apply(fit, z) for fit, z in zip(fits, held_out.Z_out, strict=True)])
    if bool(logp.isnan().any()):
        raise UserError("NaN")
    folds_a_set = len(held_out.Z) // len(without)
    for i, fit in enumerate(fits if tests else ()):
        _add(without[i // folds_a_set], calibrator, fit, *tests[i // folds_a_set])
    return dict(zip(names, scores_n(logp, held_out.y_out, *names), strict=True))


def _add(without: dict[str, Any], calibrator: Calibrator, fit: Any, Z_MK: Tensor, y_M: Tensor) -> None:
    """Adds the mean test scores of one fit to those of the folds before it."""
    names = tuple(SCORES.values())
    logp = calibrator.apply(fit, Z_MK)
    for score, values in zip(names, scores_n(logp[None], y_M[None], *names), strict=True):
        without.setdefault(score + WITHOUT, []).append(float(values.double().mean()))


def _alike(parts: Sequence[Tensor], entries: int) -> list[Tensor]:
    """Folds [F, R] of one size together, as far as all their logits are few; else one by one."""
    if entries > TOGETHER:
        return [part[None] for part in parts]
    return [torch.stack([p for p in parts if len(p) == size]) for size in sorted({len(p) for p in parts})]


def rows(reference: Refined | None, arm: Refined, name: Row, nested: bool) -> list[Row]:
    """One row a score and family: the arm's own split, and the parts of its difference from the reference.

    Args:
        reference: None for the reference itself, which then has no differences.
        arm: refined.
        name: columns that name it.
        nested: seeds have test examples of their own.

    Returns:
        `calibration` and `refinement` of the arm; `total_change` = `calibration_change` + `refinement_change`, over the
        seeds that both have; each with `_low`, `_high`, changes with `_p`. For CHOSEN, `chosen` counts families. The
        choice of rates is counted, see `_moves`.
    """
    other = reference or arm
    seeds = [seed for seed in arm.seeds if seed in other.seeds]
    if not seeds:
        return []
    sides = [(one, [one.seeds.index(seed) for seed in seeds]) for one in ([arm, reference] if reference else [arm])]
    base = {**name, "seeds": len(seeds), "dropped": len({*arm.trials, *other.trials}) - len(seeds), "nested": nested}
    table_rows: list[Row] = []
    for score, column in SCORES.items():
        levels, changes = _moves(arm, None, column), _moves(arm, reference, column)
        for family in (CHOSEN, *FAMILIES):
            if family in arm.after:
                row = {**base, "examples": arm.raw[column].shape[1], "score": score, "family": family}
                table_rows.append(row | _row(sides, family, column, nested, (levels, changes)))
    return table_rows


def _row(
    sides: Sequence[Side],
    family: str,
    column: str,
    nested: bool,
    moves: tuple[Mapping[str, Array], Mapping[str, Array]],
) -> Row:
    """The arm's split by one family of maps, and its difference from the reference where there is one.

    Args:
        sides: the arm and, where there is one, the reference.
        family: of maps.
        column: the per-example score.
        nested: seeds have test examples of their own.
        moves: of the arm and of its difference from the reference, see `_moves`.
    """
    arm, places = sides[0]
    row: Row = {"chosen": _counted([arm.choices[column][i] for i in places])} if family == CHOSEN else {}
    intervals = _levels(sides[0], family, column, nested, moves[0])
    for part, interval in intervals.items():
        row |= limits(part, interval)
    if len(sides) > 1 and family in sides[1][0].after:
        changes = _changes((sides[0], sides[1]), family, column, nested, moves[1])
        for part, interval in changes.items():
            row |= fields(part, interval)
        intervals |= changes
    return row | doubtful(intervals)


Side = tuple[Refined, Sequence[int]]
"""An arm and the places of the seeds that are compared."""


def _levels(side: Side, family: str, column: str, nested: bool, moves: Mapping[str, Array]) -> dict[str, Interval]:
    """An arm's calibration and refinement by one family of maps."""
    arm, places = side
    raw, refined = arm.raw[column][places], arm.after[family][column][places]
    fit = _fit(family, column, (1, arm, places))
    before = None if fit is None else fit.negative()
    return {
        "calibration": _level("calibration", raw - refined, nested, column, before, moves.get("calibration")),
        "refinement": _level("refinement", refined, nested, column, fit, moves.get("refinement")),
    }


def _changes(
    pair: tuple[Side, Side], family: str, column: str, nested: bool, moves: Mapping[str, Array]
) -> dict[str, Interval]:
    """The parts of an arm's difference from the reference by one family of maps."""
    (arm, places), (reference, reference_places) = pair
    total = arm.raw[column][places] - reference.raw[column][reference_places]
    change = arm.after[family][column][places] - reference.after[family][column][reference_places]
    fit = _fit(family, column, (1, arm, places), (-1, reference, reference_places))
    before = None if fit is None else fit.negative()
    parts = {"total": (total, None), "calibration": (total - change, before), "refinement": (change, fit)}
    return {
        f"{part}_change": difference_of(column, d_SN, nested, part_fit, moves.get(part))
        for part, (d_SN, part_fit) in parts.items()
    }


def _moves(arm: Refined, reference: Refined | None, column: str) -> dict[str, Array]:
    """By part, by how much other choices of both rates would change it, [V, B, S]; empty where none was chosen.

    What is left after any family of maps changes as what is left after temperature scaling does, of which every tuning
    trial tells: to fit each family to every trial that was tried would take many times as long as all else.
    """
    raw, repaired = (shift(arm, reference, (method, column, 1.0)) for method in ("raw", TEMPERATURE))
    if raw is None or repaired is None:
        return {}
    return {"total": raw, "calibration": raw - repaired, "refinement": repaired}


def _level(name: str, d_SN: Tensor, nested: bool, column: str, fit: Fitted | None, move: Array | None) -> Interval:
    level = crossed_interval(d_SN, nested=nested, fit=fit)
    level = level if move is None else widened(level, choice_variance(move))
    return within(level, column) if name == "refinement" else within(level, column, difference=True)


def _fit(family: str, column: str, *sides: tuple[float, Refined, Sequence[int]]) -> Fitted | None:
    """What calibration examples add to a sum of arms' mean scores after their maps: weight, arm and places of seeds.

    A temperature's by its influence, other maps' by leaving out folds, the family chosen as it was. None where it is
    not known: a family that was not cross-validated, or seeds with calibration examples of their own, whose spread has
    it already.
    """
    measured = [(weight, arm.measures, places) for weight, arm, places in sides if arm.measures is not None]
    if len(measured) < len(sides):
        return None
    if family == TEMPERATURE:
        return fitted_to(column, *measured)
    if not all(same_calibration(measures) for _, measures, _ in measured):
        return None
    terms = []
    for weight, arm, places in sides:
        folds = arm.without.get(family, {}).get(column)
        if folds is None:
            return None
        terms.append(weight * folds[list(places)])
    return jackknifed(sum(terms[1:], terms[0])) if len({term.shape for term in terms}) == 1 else None


def _counted(names: Sequence[str]) -> str:
    """ "vector scaling 4, isotonic 2"."""
    return ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in Counter(names).most_common())


class Says(Sentences):
    """What is said of richer families of maps."""

    CHOSEN = "With the family of maps that cross-validation chose, {overview}."
    HARM = "At {betas} the chosen map does harm: it has too few calibration examples."
    FAMILIES = "At beta={beta:.3g} refinement changed after {changes}.{sign}"
    SIGN = " All families agree on its sign."


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on whether the split by temperature scaling holds for richer families of maps."""
    if not len(frame) or "refinement_change" not in frame or frame["family"].nunique() <= 2:
        return []
    sentences: list[str] = []
    for where, group in families(adjusted(frame, "score", "family")):
        sentences += [where + text for text in _family_words(group[group["score"] == "log loss"], grid)]
    return sentences


def _family_words(log_loss: pd.DataFrame, grid: Grid) -> list[str]:
    """Of one model and variant: where refinement changed, by which families, and where recalibration does harm."""
    chosen = [r for r in over_beta(log_loss[log_loss["family"] == CHOSEN], grid) if _has_change(r)]
    if not chosen:
        return []
    largest = max(chosen, key=lambda row: abs(row["total_change"]))
    findings = [one for column, name in CHANGES.items() for one in findings_of(chosen, column, name)]
    sentences = [
        Says.CHOSEN.of(overview=overview(findings)),
        _compared(largest, log_loss),
    ]
    harmed = [row for row in chosen if row.get("calibration_high", math.nan) < 0]
    if harmed:
        sentences.append(Says.HARM.of(betas=betas(harmed)))
    return sentences


CHANGES = {
    "refinement_change": "the refinement of test log loss, which no recalibration repairs",
    "calibration_change": "its calibration error, which one repairs",
}
"""What a sentence calls the columns of `rows`."""


def _has_change(row: Row) -> bool:
    value = row.get("refinement_change")
    return isinstance(value, float) and math.isfinite(value)


def _compared(largest: Row, log_loss: pd.DataFrame) -> str:
    """The change of refinement by each family, at the beta where the total changed most."""
    rows = log_loss[(log_loss["beta"] == largest["beta"]) & (log_loss["objective"] == largest["objective"])]
    by_family = [
        Finding.of(row, "refinement_change", row["family"].replace("_", " "), "nats")
        for row in rows.to_dict("records")
        if _has_change(row)
    ]
    agree = len({finding.departure > 0 for finding in by_family}) == 1
    sign = Says.SIGN if agree and all(one.is_established for one in by_family) else ""
    return Says.FAMILIES.of(beta=largest["beta"], changes=changes(by_family), sign=sign)


def _chosen(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["family"] == CHOSEN].drop(columns="family")


HOW = (
    "refinement: test risk after recalibration by a map fitted on the calibration split; calibration: what that took "
    "away, negative where recalibration does harm (Berta et al., 2025). Changes: minus {reference} with "
    "cross-entropy; total = calibration + refinement",
    "{sample}, which count the choice of rates, by what it changes before and after temperature scaling; the "
    f"calibration examples that maps are fitted on count, by leaving out each of {FOLDS} folds (of temperatures, by "
    "their influence), the family as it was chosen; not in a family that was not cross-validated",
    f"{STAR} over the arms, for each score, family and column",
)
TABLE = TableSpec(
    "Calibration and refinement, by the family of maps that cross-validation chose",
    (
        *HOW,
        f"chosen: how many seeds chose which family, by {FOLDS}-fold cross-validation within the calibration split",
    ),
    paper=True,
    names=(*NAMES, "score"),
    holm=("score", "family"),
    rows=_chosen,
    words=words,
)
EVERY_FAMILY = TableSpec(
    "Calibration and refinement, by every family of maps",
    (
        *HOW,
        f"{CHOSEN}: the family that {FOLDS}-fold cross-validation within the calibration split prefers, by seed",
    ),
    names=(*NAMES, "score", "family"),
    of="refinement",
    holm=("score", "family"),
)
