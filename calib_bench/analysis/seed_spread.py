"""How far results at each beta depend on the seed, how often training diverges, and what choosing beta gains.

A beta may have the best seed of all and yet be the worse choice, when its seeds scatter: the peak is shown beside the
mean, the spread and the result of the seed that the selection split would pick. The gain of choosing beta counts the
choice itself: no seed judges a beta that it helped to choose (`inference.selected_gain`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.analysis.collapse import none_seen
from calib_bench.analysis.findings import NO_RATIO, Finding, Sentences, at_beta, changes, places
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import Row, adjusted, fields, percent
from calib_bench.analysis.scores import REPAIRED
from calib_bench.analysis.table_notes import families, over_beta
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.fate import FAILED, GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.errors import counted
from calib_bench.inference import Interval, choice_variance, rate, selected_gain, spread, spread_ratio, widened, within
from calib_bench.planning.tuning import Arm, joined, trial_at

RESULTS = {"accuracy": ("raw", "correct"), "repaired log loss": (REPAIRED, "log_loss")}
"""Results whose spread over seeds is looked at: method and per-example score of each."""
GAINS = {"log loss": ("raw", "log_loss"), **RESULTS}
"""Results that choosing beta may change."""


@dataclass(frozen=True)
class Seeds:
    """What one arm's seeds showed.

    Attributes:
        name: columns that name the arm.
        seeds: that finished.
        means: by result of GAINS, its mean over test examples for each of `seeds`, all at the chosen rate: how far
            seeds differ must not hold how far rates do.
        examples: by result of GAINS, float64 [S, N]: only of arms whose gain is asked for.
        selection: by seed at the rate it is reported at, the score that chooses: inf where it diverged; absent where
            not run.
        at_chosen: the same at the chosen rate; empty where that is where all are reported.
        tried: trials that ran, at whatever rate, and how many of them failed, see `calib_bench.core.fate`.
        chosen: the same at the chosen rate, over the seeds that did not choose it; over all when all did.
        fresh: whether `chosen` counts such seeds alone.
        moves: by result of GAINS, by how much other choices of the rate would change its mean, [B, S] over the tuning
            seeds; empty where no rate was chosen.
    """

    name: Row
    seeds: tuple[int, ...]
    means: Mapping[str, tuple[float, ...]]
    examples: Mapping[str, Tensor]
    selection: Mapping[int, float]
    tried: tuple[int, int]
    chosen: tuple[int, int]
    fresh: bool
    moves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    at_chosen: Mapping[int, float] = field(default_factory=dict)


def read(measures: Measures, store: Results, grid: Grid, name: Row, examples: bool = True) -> Seeds:
    """The results of one arm's seeds, from its measures and its stored trials.

    Args:
        examples: keep per-example scores, for `gain`.
    """
    arm = measures.arm
    values = {k: measures.examples[method][score] for k, (method, score) in GAINS.items() if measures.seeds}
    tuners = grid.seed[: grid.tune_seeds]
    tried, at_chosen = _states(arm, store, grid)
    fresh = {seed: bad for seed, bad in at_chosen.items() if seed not in tuners}
    counted = fresh or at_chosen
    return Seeds(
        name=name,
        seeds=measures.seeds,
        means={k: _at_chosen(measures, k, v.mean(1).tolist()) for k, v in values.items()},
        examples=values if examples else {},
        selection=_selection_scores(arm, store, grid),
        tried=tried,
        chosen=(len(counted), sum(counted.values())),
        fresh=bool(fresh),
        moves=_moves(measures),
        at_chosen=_selection_scores(arm.at_chosen(), store, grid) if arm.elsewhere else {},
    )


def _selection_scores(arm: Arm, store: Results, grid: Grid) -> dict[int, float]:
    """By seed the score of the arm's trial on the selection split, of those that have run."""
    scores = store.scores(grid.select)
    by_seed = {seed: scores(trial) for seed, trial in sorted(arm.trials.items())}
    return {seed: score for seed, score in by_seed.items() if score is not None}


def _moves(measures: Measures) -> dict[str, NDArray[np.float64]]:
    shifts = {result: shift(measures, None, (*where, 1.0)) for result, where in GAINS.items()}
    return {result: move for result, move in shifts.items() if move is not None}


def _at_chosen(measures: Measures, result: str, means: Sequence[float]) -> tuple[float, ...]:
    """The means of the arm's seeds, of those reported elsewhere that of their trial at the chosen rate."""
    arm, again = measures.arm, measures.redrawn_choice
    if not arm.elsewhere or again is None or arm.chosen is None:
        return tuple(means)
    method, score = GAINS[result]
    tuners = [trial.seed for trial in arm.tried[arm.chosen]]
    at_chosen = dict(zip(tuners, again.results[method][score][arm.chosen].tolist(), strict=True))
    return tuple(at_chosen.get(seed, mean) for seed, mean in zip(measures.seeds, means, strict=True))


def _states(arm: Arm, store: Results, grid: Grid) -> tuple[tuple[int, int], dict[int, bool]]:
    """Stored trials of all rates and how many failed; at the chosen rate, by seed, whether it did."""
    ran = failed = 0
    chosen = {}
    for tried in arm.rates:
        for seed in grid.seed:
            trial = trial_at(grid, arm.trial, tried, seed)
            if not store.has(trial):
                continue
            bad = store.fate(trial) in FAILED
            ran, failed = ran + 1, failed + bad
            if tried == arm.chosen:
                chosen[seed] = bad
    return (ran, failed), chosen


def rows(reference: Seeds | None, arm: Seeds) -> list[Row]:
    """One row per result of RESULTS.

    Returns:
        `mean`, `peak` (the best seed, judged on the test split), `picked` (the seed that the selection split prefers);
        `spread`, the standard deviation across seeds, and `spread_ratio` to the reference's over the same seeds, with
        limits, the latter with the p-value of 1; `failed` and `failed_chosen`, shares of trials with exact limits,
        and their counts.
    """
    base = {**arm.name, "seeds": len(arm.seeds), **_failures(arm)}
    result_rows = []
    for result in RESULTS if arm.seeds else ():
        values = arm.means[result]
        best = max if result == "accuracy" else min
        row: Row = {**base, "result": result, "mean": math.fsum(values) / len(values), "peak": best(values)}
        if (picked := _picked(arm)) is not None:
            row["picked"] = values[arm.seeds.index(picked)]
        row |= fields("spread", spread(values))
        if reference is not None and reference is not arm:
            row |= fields("spread_ratio", _spread_ratio(arm, reference, result))
        result_rows.append(row)
    return result_rows or [base]


def _picked(arm: Seeds) -> int | None:
    """The seed that the selection split prefers; None where no seed has a score there."""
    scores = arm.at_chosen or arm.selection
    return min((seed for seed in arm.seeds if seed in scores), key=lambda seed: scores[seed], default=None)


def _spread_ratio(arm: Seeds, reference: Seeds, result: str) -> Interval:
    """The arm's spread in times the reference's, over the seeds of both."""
    common = [seed for seed in arm.seeds if seed in reference.seeds]
    mine, theirs = ([one.means[result][one.seeds.index(seed)] for seed in common] for one in (arm, reference))
    return spread_ratio(mine, theirs)


def _failures(arm: Seeds) -> Row:
    row: Row = {}
    for column, (n, bad) in (("failed", arm.tried), ("failed_chosen", arm.chosen)):
        if n:
            row |= fields(column, rate(bad, n))
        row[f"{column}_trials"] = f"{bad} of {n}"
    return {**row, "fresh": arm.fresh}


def gain(arms: Sequence[Seeds], reference: float, nested: bool) -> list[Row]:
    """What choosing beta on the selection split gains on the test split: one row per family, objective and result.

    Args:
        arms: of any families, with their per-example scores.
        reference: the beta that is taken without a choice.
        nested: see `inference.crossed_interval`.

    Returns:
        `gain`, chosen less reference, with limits and p; `chosen`, the beta that all seeds together choose; `choices`,
        counts of betas that the other seeds choose for each; `betas` chosen from, `left_out` those with a seed that did
        not finish, which are no choice; `seeds`.
    """
    groups: dict[tuple[Any, ...], list[Seeds]] = {}
    for arm in arms:
        groups.setdefault(tuple(arm.name.get(k) for k in ("model", "variant", "objective")), []).append(arm)
    gain_rows = []
    for members in groups.values():
        reference_arm = next((arm for arm in members if arm.name["beta"] == reference), None)
        if reference_arm is not None and reference_arm.seeds:
            gain_rows += _gains(members, reference_arm, nested)
    return gain_rows


def _gains(members: Sequence[Seeds], reference: Seeds, nested: bool) -> list[Row]:
    """The rows of one family and objective, one per result; none where there is no beta to choose."""
    candidates = [arm for arm in members if set(reference.seeds) <= set(arm.seeds) & set(arm.selection)]
    if len(candidates) < 2:
        return []
    left_out = sorted(arm.name["beta"] for arm in members if arm not in candidates)
    base: Row = {
        **{key: reference.name.get(key) for key in ("model", "variant", "objective")},
        "seeds": len(reference.seeds),
        "nested": nested,
        "tuning": joined(arm.name["tuning"] for arm in candidates),
    }
    counts = {"betas": len(candidates), "left_out": ", ".join(f"{beta:.3g}" for beta in left_out) or None}
    return [_gain(candidates, reference, result, nested, base, counts) for result in GAINS]


def _gain(
    candidates: Sequence[Seeds], reference: Seeds, result: str, nested: bool, base: Row, counts: Mapping[str, Any]
) -> Row:
    """The row of one result; `base` and `counts` are the columns that all results share."""
    seeds = reference.seeds
    selection_AS = [[arm.selection[seed] for seed in seeds] for arm in candidates]
    test_ASN = [[arm.examples[result][arm.seeds.index(seed)].numpy() for seed in seeds] for arm in candidates]
    selected = selected_gain(selection_AS, test_ASN, candidates.index(reference), nested=nested)
    chosen = candidates[selected.chosen]
    choices = Counter(candidates[choice].name["beta"] for choice in selected.choices)
    return {
        **base,
        "examples": len(test_ASN[0][0]),
        "result": result,
        "chosen": chosen.name["beta"],
        "choices": ", ".join(f"{beta:.3g} ({n})" for beta, n in sorted(choices.items())),
        **counts,
        **fields("gain", _with_rates(selected.gain, chosen, reference, result)),
    }


def _with_rates(gain: Interval, chosen: Seeds, reference: Seeds, result: str) -> Interval:
    """The gain's interval with the choice of both rates counted, within the range of such differences."""
    if result in chosen.moves and result in reference.moves:
        gain = widened(gain, choice_variance(chosen.moves[result] - reference.moves[result]))
    return within(gain, result.replace(" ", "_"), difference=True)


WHOSE = {True: "seeds that did not take part in choosing it", False: "all seeds, which chose it"}
"""Whose failures at the chosen rate are counted: of fresh seeds, or of all."""


def _counts(frame: pd.DataFrame, _: Grid) -> dict[str, str]:
    """How many seeds there are, and which of them tell of failures."""
    most = max(frame.get("seeds", ()), default=0)
    unseen = f": {none_seen(most)}" if most else ""
    return {"most": str(most), "whose": WHOSE[any(frame.get("fresh", ()))], "unseen": unseen}


TABLE = TableSpec(
    "How far results depend on the seed",
    (
        "spread: standard deviation across seeds of the result on this test set, 95% chi-square limits that allow for "
        "heavy tails; spread ratio: to that of {reference} with cross-entropy over the same seeds (Pitman-Morgan); "
        f"{STAR} that it is 1, over the arms, for each result",
        "peak: the best seed judged on the test split itself, which nobody can pick, and which grows with the number "
        "of seeds; picked: the seed that the selection split prefers; all seeds are at the rate that all of the "
        "tuning seeds chose",
        "up to {most} seeds; failed: share of all trials that ran, at every rate tried, whose loss is not finite "
        f"or ended at {GUESS:.0%} or more of that of guessing (the entropy of the labels); failed chosen: at the "
        "chosen rate, over {whose}; exact 95% limits (Clopper-Pearson) that take trials as independent, though those "
        "that share a seed are not quite; a trial that did not fail may still have collapsed{unseen}",
    ),
    hidden=("fresh",),
    holm=("result",),
    fields=_counts,
)
"""Of frames of `rows`."""
GAIN_TABLE = TableSpec(
    "What choosing beta on the selection split gains on the test split",
    (
        "the chosen beta minus {reference}, same objective, each beta at its chosen rate; chosen by mean {score} on "
        "the selection split; each seed is judged at the beta that the other seeds choose (choices: how often each), "
        "so the interval covers the choice of beta, and that of the rates at the chosen beta and the reference where "
        "several were tried; training at every beta is what it costs",
        "{sample}",
        f"{STAR} over this table",
    ),
    holm=(),
)


class Says(Sentences):
    """What is said of seeds, and of choosing beta."""

    SPREAD = (
        "{where}How {result} depends on the seed, its standard deviation compared with beta={reference:g}: {times}."
    )
    TIMES = "{ratio} times at {where}{note}"
    PEAK_AT_MEAN = (
        "{where}The single best seed, judged on the test split, is at beta={peak:.3g}, where the mean is highest too."
    )
    PEAK = (
        "{where}The single best seed, judged on the test split, is at beta={peak:.3g}; the mean is highest at "
        "beta={mean:.3g} (best seed {of_peak[peak]:.4f} and {of_mean[peak]:.4f}, mean {of_peak[mean]:.4f} and "
        "{of_mean[mean]:.4f})."
    )
    FAILED = "{where}Trials failed at {betas}; at the chosen rate, {listed}."
    FAILED_ELSEWHERE = "{where}Trials failed at {betas}, none of them counted at its chosen rate."
    SHARE = "{share} of trials at {where} {objective}"
    NO_GAIN = (
        "Choosing beta{loss} on the selection split ({betas} betas, {seeds}; all together choose beta={chosen:.3g}) "
        "always chooses the reference, beta={reference:.3g}: it gains nothing."
    )
    GAIN = (
        "Choosing beta{loss} on the selection split ({betas} betas, {seeds}; all together choose beta={chosen:.3g}) "
        "instead of beta={reference:.3g} changes, the choice counted, test {results}."
    )


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on the betas at which results depend more on the seed, or training diverges."""
    sentences: list[str] = []
    if "result" not in frame:
        return sentences
    for where, family in families(adjusted(frame, "result")):
        for result, group in family.groupby("result", sort=False):
            rows = [row for row in over_beta(group, grid) if math.isfinite(row.get("spread_ratio_low", math.nan))]
            if rows:
                about = {"where": where, "result": result, "reference": grid.reference}
                sentences.append(Says.SPREAD.of(**about, times="; ".join(map(_times, rows))))
        sentences += _peak(where, family)
        sentences += _failed(where, family.drop_duplicates(["beta", "objective"]))
    return sentences


def _times(row: Row) -> str:
    ratio = Finding.of(row, "spread_ratio", expectation=NO_RATIO)
    return Says.TIMES.of(ratio=ratio.text, where=ratio.where, note=ratio.note)


def _peak(where: str, frame: pd.DataFrame) -> list[str]:
    """Whether the best single seed and the best mean are at different betas."""
    accuracy_rows = frame[(frame["objective"] == CROSS_ENTROPY) & (frame["result"] == "accuracy")]
    if len(accuracy_rows) < 2 or int(accuracy_rows["seeds"].max()) < 2:
        return []
    peak, mean = accuracy_rows.loc[accuracy_rows["peak"].idxmax()], accuracy_rows.loc[accuracy_rows["mean"].idxmax()]
    sentence = Says.PEAK_AT_MEAN if peak["beta"] == mean["beta"] else Says.PEAK
    return [sentence.of(where=where, peak=peak["beta"], mean=mean["beta"], of_peak=peak, of_mean=mean)]


def _failed(where: str, frame: pd.DataFrame) -> list[str]:
    """At which betas trials failed, and how many at the chosen rates."""
    rows = [row for row in frame.to_dict("records") if row.get("failed", 0) > 0]
    chosen = [row for row in rows if row.get("failed_chosen", 0) > 0]
    sentence = Says.FAILED if chosen else Says.FAILED_ELSEWHERE
    shares = [(percent(row, "failed_chosen"), at_beta(row), row["objective"]) for row in chosen]
    listed = ", ".join(Says.SHARE.of(share=share, where=at, objective=objective) for share, at, objective in shares)
    betas = places(at_beta({"beta": row["beta"]}) for row in rows)
    return [sentence.of(where=where, betas=betas, listed=listed)] if rows else []


def gain_words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on the gain of choosing beta on the selection split."""
    sentences = []
    for where, family in families(adjusted(frame) if len(frame) else frame):
        for objective, rows in family.groupby("objective", sort=False):
            sentences.append(where + _gain_words(str(objective), rows.to_dict("records"), grid))
    return sentences


def _gain_words(objective: str, rows: Sequence[Mapping[Any, Any]], grid: Grid) -> str:
    """Sentence on the gain with one objective, whose rows are of the results of GAINS."""
    loss = "" if objective == CROSS_ENTROPY else f" with {objective}"
    seeds = counted(rows[0]["seeds"], "seed")
    nothing = all(row["gain"] == 0 == row["gain_low"] == row["gain_high"] for row in rows)
    about = {"loss": loss, "betas": rows[0]["betas"], "seeds": seeds, "chosen": rows[0]["chosen"]}
    results = ", ".join(_gain_of_result(row) for row in rows)
    return (Says.NO_GAIN if nothing else Says.GAIN).of(**about, reference=grid.reference, results=results)


def _gain_of_result(row: Mapping[Any, Any]) -> str:
    """By how much choosing beta changes one result, and which way is better where that is established."""
    finding = Finding.of(row, "gain", row["result"])
    better = (row["gain"] > 0) == (row["result"] == "accuracy")
    way = " (a gain)" if better else " (a loss)"
    return changes([finding]) + (way if finding.is_established else "")
