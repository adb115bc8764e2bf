"""How reliable is training at each inverse temperature beta, and does small beta peak higher at its cost?

Many seeds an arm. Peak against reliability: what the best and the worst of a few seeds reach, how far seeds spread, how
often training fails at the rate that was chosen without them, and what choosing beta gains. That small beta may peak
higher while it depends more on the seed is an observation of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import arms as each
from calib_bench.analysis import beta_rate_plane, collapse, controls
from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.contrast import is_reference
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.measure import Measures, own_tests
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import (
    Row,
    adjusted,
    cell,
    drop_single_seed_intervals,
    excludes_zero,
    fields,
    is_significant,
    marks,
    revoked,
    why_loose,
)
from calib_bench.analysis.table_notes import betas, display_columns, families, table_note
from calib_bench.analysis.tuned_arms import Reader, intervals
from calib_bench.core.fate import GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Section, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.inference import best_of, choice_variance, rate, widened
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm
from calib_bench.studies.stability import figures

if TYPE_CHECKING:
    import pandas as pd


BEST, MEAN, WORST = "best", "mean", "worst"
MOST = 3
"""Of at most how many seeds the best and the worst are looked at: more rest on too few independent draws."""


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """The grid, tuned, all seeds at the chosen rates, and the positive control of each family.

    Raises:
        SettingsError: there are too few seeds to speak of their spread, or nothing is trained.
    """
    if len(settings.seed or ()) < 3:
        raise SettingsError("study=stability compares seeds and needs three or more: give for example seed=0..11")
    if any(0 in space["epochs"] for space in (settings.spaces or {}).values()):
        raise SettingsError("study=stability trains what it compares: give epochs=1 or more")
    return controls.plan(settings, scores)


def analyse(settings: Settings, store: Results) -> Analysis:
    """Every arm's seeds beside the reference's.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    tuned_families = tuning.tuned(settings, store.scores(settings.select))
    variants = each.variants(family.arms[0].trial.family() for family in tuned_families)
    reader = Reader(settings, store, own_tests(store, [arm for family in tuned_families for arm in family.arms]))
    peaks, spreads, members = [], [], []  # type: list[Row], list[Row], list[sown.Seeds]
    for family in tuned_families:
        arms = [arm.at_chosen() for arm in family.arms]
        named = [(each.named(arm, variants[family.arms[0].trial.family()]), arm) for arm in arms]
        named.sort(key=lambda pair: not is_reference(pair[0], settings))
        base: tuple[Measures, sown.Seeds] | None = None
        for name, arm in named:
            measures = reader.measure(arm, name)
            arm_seeds = sown.read(measures, store, settings, name)
            if base is None and is_reference(name, settings):
                base = measures, arm_seeds
            members.append(arm_seeds)
            spreads += sown.rows(base[1] if base else None, arm_seeds)
            failed = _failed(settings, store, arm)
            peaks += [{**name, **row, **failed} for row in _peaks(measures, base[0] if base else None, reader.nested)]
        reader.control(family.arms, variants[family.arms[0].trial.family()])
    frames = {"peaks": pd.DataFrame(peaks), "seeds": pd.DataFrame(spreads)}
    frames["gain"] = pd.DataFrame(sown.gain(members, settings.reference, reader.nested))
    frames = {name: drop_single_seed_intervals(frame, settings) for name, frame in frames.items()}
    frames = {name: _ordered(frame) for name, frame in frames.items()}
    if "result" in frames["peaks"]:
        frames["peaks"] = adjusted(frames["peaks"], "result")
    collapse.mark(frames := {**frames, "trials": pd.DataFrame(reader.trials)}, settings)
    del frames["trials"]
    dots = [
        {**one.name, "seed": seed, **{result: one.means[result][i] for result in sown.RESULTS}}
        for one in members
        for i, seed in enumerate(one.seeds)
    ]
    data: dict[str, Any] = {**frames, "dots": pd.DataFrame(dots)}
    tables = _tables(frames, settings, reader.nested)
    return reader.analysis(verdict(frames, settings), tables, summary=_summary(frames, settings), **data)


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """By beta within a model, variant and objective, all in the order of their first rows."""
    if "beta" not in frame:
        return frame
    keys = [frame[key].fillna("").map({v: i for i, v in enumerate(dict.fromkeys(frame[key].fillna("")))}) for key in
            ("model", "variant", "objective")]  # fmt: skip
    order = frame.assign(_m=keys[0], _v=keys[1], _o=keys[2]).sort_values(["_m", "_v", "_o", "beta"], kind="stable")
    return frame.loc[order.index].reset_index(drop=True)


def _peaks(measures: Measures, reference: Measures | None, nested: bool) -> list[Row]:
    """A row a result: what the best and the worst of m seeds, and the mean seed, reach, and by how much more than the
    reference's, paired over the seeds that finished in both.

    The choice of rates is counted by what it changes in the mean seed: best and worst are taken to move with it.
    """

    rows = []
    for result, (method, score) in sown.RESULTS.items() if measures.seeds else ():
        each_move, change_move = (shift(measures, one, (method, score, 1.0)) for one in (None, reference))
        chosen, changed = (0.0 if move is None else choice_variance(move) for move in (each_move, change_move))
        largest = result == "accuracy"
        values = measures.examples[method][score].numpy()
        values = values.mean(1, keepdims=True) if nested else values
        m = min(MOST, len(values) // 3)
        row: Row = {"result": result, "seeds": len(values), "of": m}
        if m < 1:
            continue
        kinds = {BEST: (m, largest), MEAN: (1, largest), WORST: (m, not largest)}
        for kind, (n, most) in kinds.items():
            limits = widened(best_of(values, n, None, most), chosen)
            row |= {k: v for k, v in fields(kind, limits).items() if k != f"{kind}_p"}
        common = [seed for seed in measures.seeds if reference is not None and seed in reference.seeds]
        if reference is not None and reference is not measures and len(common) > max(m, 1):
            mine, theirs = (
                other.examples[method][score].numpy()[[other.seeds.index(seed) for seed in common]]
                for other in (measures, reference)
            )
            if nested:
                mine, theirs = mine.mean(1, keepdims=True), theirs.mean(1, keepdims=True)
            for kind, (n, most) in kinds.items():
                row |= fields(f"{kind}_change", widened(best_of(mine, n, theirs, most), changed))
        rows.append(row)
    return rows


def _failed(settings: Settings, store: Results, arm: Arm) -> Row:
    """The share of seeds that failed at the chosen rate, of those that did not choose it, with exact limits."""

    scores, failed = store.scores(settings.select), beta_rate_plane.is_failed(settings)
    tuners = (settings.seed or ())[: settings.tune_seeds]
    failed_by_seed = {seed: failed(score) for seed, trial in arm.trials.items() if (score := scores(trial)) is not None}
    fresh = {seed: bad for seed, bad in failed_by_seed.items() if seed not in tuners} or failed_by_seed
    if not fresh:
        return {}
    lost = sum(fresh.values())
    return {**fields("failed", rate(lost, len(fresh))), "failed_trials": f"{lost} of {len(fresh)}"}


def verdict(frames: Mapping[str, pd.DataFrame], settings: Settings) -> list[str]:
    """Peak against reliability, no more than the intervals allow.

    Args:
        frames: "peaks", Holm-adjusted within each result, "seeds" and "gain".
    """
    if "best_change" not in frames["peaks"]:
        return ["There is nothing to compare: no other arm shares enough finished seeds with the reference."]
    sentences = []
    spread = adjusted(frames["seeds"], "result") if "result" in frames["seeds"] else frames["seeds"]
    for where, peaks in families(frames["peaks"]):
        peaks = peaks[peaks["objective"] == CROSS_ENTROPY]
        same = spread[(spread["model"] == peaks["model"].iloc[0]) & (spread["objective"] == CROSS_ENTROPY)]
        same = same[same["variant"].fillna("") == (peaks["variant"].iloc[0] or "")]
        sentences += [where + text for text in _claim(peaks, same, settings)]
    gain = frames["gain"]
    sentences += sown.words(frames["seeds"], settings)
    return sentences + sown.gain_words(gain[gain["objective"] == CROSS_ENTROPY] if len(gain) else gain, settings)


def _summary(frames: Mapping[str, pd.DataFrame], settings: Settings) -> list[str]:
    """What to read first, of one family."""
    sentences = verdict(frames, settings)
    if "best_change" not in frames["peaks"] or len(list(families(frames["peaks"]))) > 1:
        return []
    return [text for text in sentences if text.startswith(("Peak:", "That small beta"))]


def _claim(peaks: pd.DataFrame, spread: pd.DataFrame, settings: Settings) -> list[str]:
    """Whether betas below the reference peak higher, and whether they depend more on the seed."""
    small = [row for row in peaks.to_dict("records") if row["beta"] < settings.reference]
    if not small:
        return []
    better = [row for row in small if is_significant(row, "best_change") and _better(row, "best_change")]
    worse = [row for row in small if is_significant(row, "worst_change") and not _better(row, "worst_change")]
    wide = [
        row
        for row in spread.to_dict("records")
        if row["beta"] < settings.reference
        and row.get("spread_ratio_holm", math.nan) < ALPHA
        and row["spread_ratio"] > 1
        and not revoked(row)
    ]
    base = peaks[peaks["beta"] == settings.reference].to_dict("records")
    ceiling = base[0].get("failed_high", math.nan) if base else math.nan
    fails = [row for row in small if row.get("failed_low", math.nan) > ceiling]
    of = f"the best of {small[0]['of']} seeds"
    sentences = [
        f"Peak: {of} is better than that of beta={settings.reference:g} {_listed(better, 'best_change')}.",
        f"Cost: seeds surely spread more {_listed(wide, 'spread_ratio')}; the worst of {small[0]['of']} is surely "
        f"worse {_listed(worse, 'worst_change')}; training surely fails more often {_listed(fails, 'failed')}.",
    ]
    both = {row["beta"] for row in better} & {row["beta"] for row in (*wide, *worse, *fails)}
    if both:
        conclusion = f"hold together at {betas([{'beta': beta} for beta in sorted(both)])}"
    elif better:
        conclusion = "does not show: where it peaks higher the data cannot say that it costs reliability"
    else:
        conclusion = f"is nothing that these data can say: no smaller beta surely peaks higher{_why(small)}"
    return [*sentences, f"That small beta peaks higher at the cost of reliability {conclusion}."]


def _why(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why peaks that seem to be higher are not surely so, where that is not their intervals."""
    hints = [row for row in rows if revoked(row) and excludes_zero(row, "best_change") and _better(row, "best_change")]
    return f" (at {betas(hints)} {why_loose(hints)})" if hints else ""


def _better(row: Mapping[str, Any], column: str) -> bool:
    return bool((row[column] > 0) == (row["result"] == "accuracy"))


def _listed(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    if not rows:
        return "at no smaller beta that the data show"
    parts = [f"{betas([row])} ({row.get('result', 'share')} {cell(row, column)})" for row in rows]
    return f"at {', '.join(parts)}"


def _tables(frames: Mapping[str, pd.DataFrame], settings: Settings, nested: bool) -> dict[str, Table]:
    ref = f"beta={settings.reference:g}"
    peaks = Table(
        "Peak and reliability over beta",
        display_columns(frames["peaks"], settings),
        table_note(
            settings,
            f"best, worst: expected result of the best and the worst of so many (of) seeds, mean over all choices of "
            f"them, judged on the test split; change: minus that of {ref}, paired by seed; "
            f"{intervals(settings, nested)}, by jackknife over seeds, {len(settings.seed or ())} seeds, which count "
            "the choice of rates by what it changes in the mean seed; seeds that helped to choose are at the rate they "
            "chose, like all others, so that seeds differ by nothing else",
            f"failed: share of trials at the chosen rate that diverged or ended at {GUESS:.0%} or more of the loss of "
            "guessing (the entropy of the labels), of seeds that did not choose the rate where there are such, exact "
            "limits; diverged seeds have no result and are left out of the others",
            "* Holm-adjusted p < .05 over the arms, for each result and column",
            *marks(frames["peaks"]),
        ),
        paper=True,
    )
    tables = {"peaks": peaks, "seeds": sown.table(frames["seeds"], settings)}
    return tables | ({"gain": sown.gain_table(frames["gain"], settings)} if len(frames["gain"]) else {})


STUDY = Study(
    question="Does a smaller inverse temperature beta peak higher at the cost of reliability: a wider spread over "
    "seeds, more failed trainings?",
    plan=plan,
    analyse=analyse,
    figures={"stability": figures.stability},
    defaults={"objective": (CROSS_ENTROPY,), "seed": tuple(range(12))},
    sections=(
        Section("Peak and reliability", ("stability", "peaks"), "What the best, the mean and the worst seed reach."),
        Section("Seeds, and choosing beta", ("collapse", "seeds", "gain")),
        controls.SECTION,
        Section("Tuning and trials", ("rates", "trials")),
    ),
    references=("agarwala2023temperature", "guo2017", "holm1979"),
)
