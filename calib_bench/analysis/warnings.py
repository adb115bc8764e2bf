"""Warnings of a report: what a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, collapse
from calib_bench.analysis.contrast import is_reference
from calib_bench.analysis.findings import Sentences
from calib_bench.analysis.interventions import why_not
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.fate import DEAD, GUESS
from calib_bench.core.settings import Grid
from calib_bench.errors import counted
from calib_bench.planning.tuning import FEW_SEEDS, FEWEST_SEEDS, Arm

STATUS = {
    "edge": "the best rate is at the edge of its grid, so a better one may lie beyond it",
    "fixed": "one rate was given, not tuned: a difference from a tuned arm may be a difference of tuning",
    "diverged": "no rate trains every tuning seed: some trial of each diverged or failed",
    "pending": "not trained yet, so missing from every comparison",
}
STATES = (
    ("diverged", "diverged at the chosen rate"),
    ("failed", "not finished because of an error"),
    ("missing", "not run yet"),
)
"""Status of trials that are left out of their arms, with its description."""


MOST_NAMED = 5
"""Contrasts with limits in doubt that a warning names; of more it gives the number."""


class Says(Sentences):
    """What warnings say."""

    ONE_SEED = "One seed: intervals hold for this one initialization and batch order{more}."
    DATA = "Data: {note}."
    NO_REFERENCE = "No reference: no arm has beta={reference:g} with cross-entropy, so nothing was compared."
    NO_INTERVENTIONS = "Left out, interventions on {family}: {why}."
    REFUSED = "Left out, {method}: {refusal}"
    DOUBTFUL = "Limits in doubt, which may cover less than 95% of the time, minus the reference: {listed}."
    DOUBTFUL_MANY = "{number} of {of} contrasts, named in the main table's column doubtful"
    DOUBTFUL_ARM = "{arm} ({doubtful})"
    UNTRAINED = (
        "Untrained: {models} at epochs=0 has its initial weights: no number or sentence about it describes training."
    )
    BATCH = (
        "Batch: batch={batch} is more than the {examples:,} training examples, so that every update takes all of them "
        "and an epoch is one update."
    )
    TUNING = "{status}: {arms} ({meaning})."
    FEW_SEEDS = (
        f"{FEW_SEEDS.capitalize()}: {{seeds}} chose the rate of {{arms}}; no contrast is established with fewer than "
        f"{FEWEST_SEEDS}; give tune_seeds={FEWEST_SEEDS}."
    )
    LOST = "Left out with their pairs, {state}: {number} of {of} trials ({listed})."
    DEAD = (
        f"Dead at the chosen rate, and part of every mean: {{number}} of {{of}} trials ended at {GUESS:.0%} or more of "
        "the loss of guessing ({listed})."
    )
    AT_BOUND = "Temperature at a bound, which is its kappa: {number} of {of} trials."
    TRIAL = "{arm} seed {seed}"


def warnings(
    grid: Grid,
    arms: Sequence[Arm],
    extra: Sequence[Arm],
    frames: Mapping[str, pd.DataFrame],
    provenance: Mapping[str, Any],
) -> tuple[str, ...]:
    """Every warning, each once.

    Args:
        arms: those of the grid.
        extra: those of the interventions.
    """
    all_arms = [*arms, *extra]
    sentences = smoke_warnings(grid) + untrained(all_arms) + _batches(all_arms, provenance)
    sentences += _no_reference(arms, grid) + _tuning(all_arms) + _trials(frames["trials"])
    sentences += collapse.warnings(collapse.rows(frames["trials"], grid))
    sentences += _doubtful(frames.get("separation")) + one_seed(grid)
    sentences += missing_interventions(arms, grid)
    sentences += data_notes(provenance)
    return tuple(dict.fromkeys(sentences))


def one_seed(grid: Grid, more: str = "") -> list[str]:
    """Warning of what a run of one seed cannot tell; nothing of more seeds.

    Args:
        more: text on what else is missing.
    """
    if len(grid.seed) != 1:
        return []
    return [Says.ONE_SEED.of(more=more)]


def data_notes(provenance: Mapping[str, Any]) -> list[str]:
    """Warnings on the data that trials were trained on, as loading them noted, but for a limit: see `smoke_warnings`.

    A study may limit some of its trials, of which alone the note would be true.
    """
    return [
        Says.DATA.of(note=note)
        for split in provenance.get("splits", ())
        for about, note in split.get("notes", {}).items()
        if about != "limit"
    ]


def _no_reference(arms: Sequence[Arm], grid: Grid) -> list[str]:
    if any(is_reference(arm.trial.model_dump(), grid) for arm in arms):
        return []
    return [Says.NO_REFERENCE.of(reference=grid.reference)]


def missing_interventions(arms: Sequence[Arm], grid: Grid) -> list[str]:
    """Warnings on references among the arms that cannot be intervened on; none where no interventions are asked for."""
    if grid.interventions != "yes":
        return []
    references = [arm for arm in arms if is_reference(arm.trial.model_dump(), grid)]
    variants = each.variants(arm.trial.family() for arm in references)
    return [
        Says.NO_INTERVENTIONS.of(family=best_beta.named(each.named(arm, variants[arm.trial.family()])), why=why)
        for arm in references
        if (why := why_not(arm.trial))
    ]


def refusals(refused: Mapping[str, str], requested: Sequence[str]) -> list[str]:
    """Sentences on calibrators that could not be fitted; where all are requested, those for another number of classes
    are no loss.

    Args:
        refused: by calibrator, the reason.
        requested: the calibrators of the settings.
    """
    calibrators = registry.calibrators()
    runs_all = set(calibrators) <= set(requested)
    return [
        Says.REFUSED.of(method=method, refusal=refusal)
        for method, refusal in refused.items()
        if not (runs_all and calibrators[method].classes)
    ]


def _doubtful(frame: pd.DataFrame | None) -> list[str]:
    """Warning that names contrasts with limits in doubt, by arm."""
    if frame is None or "doubtful" not in frame:
        return []
    rows = frame[frame["doubtful"].notna()].to_dict("records")
    if len(rows) > MOST_NAMED:
        return [Says.DOUBTFUL.of(listed=Says.DOUBTFUL_MANY.of(number=len(rows), of=len(frame)))]
    return [Says.DOUBTFUL.of(listed=", ".join(Says.DOUBTFUL_ARM.of(**row, arm=collapse.named(row)) for row in rows))]


def untrained(arms: Sequence[Arm]) -> list[str]:
    """Warning that names models without any training; it heads the verdict too."""
    models = dict.fromkeys(arm.trial.model for arm in arms if arm.trial.epochs == 0 and not arm.trial.pretrained)
    return [Says.UNTRAINED.of(models=", ".join(models))] if models else []


def _batches(arms: Sequence[Arm], provenance: Mapping[str, Any]) -> list[str]:
    """Warnings on batch sizes above the number of training examples."""
    sizes = [split["sizes"]["train"] for split in provenance.get("splits", ()) if "sizes" in split]
    large = sorted({arm.trial.batch for arm in arms if sizes and arm.trial.epochs and arm.trial.batch > min(sizes)})
    return [Says.BATCH.of(batch=batch, examples=min(sizes)) for batch in large]


def _tuning(arms: Sequence[Arm]) -> list[str]:
    """Warnings on arms whose rate was not tuned, one per reason."""
    sentences = []
    for status, meaning in STATUS.items():
        affected = [arm for arm in arms if arm.status == status and (status != "fixed" or arm.trial.epochs > 0)]
        if affected:
            everything = _listed(affected, 1 < len(arms) == len(affected))
            sentences.append(Says.TUNING.of(status=status.capitalize(), arms=everything, meaning=meaning))
    return sentences + _few_seeds([arm for arm in arms if FEW_SEEDS in arm.tuning], len(arms))


def _few_seeds(few: Sequence[Arm], count: int) -> list[str]:
    """Arms whose rate too few seeds chose, of `count` arms."""
    if not few:
        return []
    seeds = max(len(trials) for arm in few for trials in arm.tried.values())
    return [Says.FEW_SEEDS.of(seeds=counted(seeds, "seed"), arms=_listed(few, len(few) == count))]


def _listed(arms: Sequence[Arm], every: bool) -> str:
    return "every arm" if every else ", ".join(f"{arm.trial.model} {arm.label}" for arm in arms)


def _trials(frame: pd.DataFrame) -> list[str]:
    """Warnings on trials that are missing from their arms, and on temperatures at a bound."""
    rows = frame.to_dict("records")
    by_status: dict[str, list[str]] = {}
    for row in rows:
        by_status.setdefault(row["status"], []).append(_trial(row))
    sentences = [
        Says.LOST.of(state=text, number=len(lost), of=len(rows), listed=", ".join(lost))
        for status, text in STATES
        if (lost := by_status.get(status))
    ]
    if dead := by_status.get(DEAD):
        sentences.append(Says.DEAD.of(number=len(dead), of=len(rows), listed=", ".join(dead)))
    stopped = sum(row.get("at_bound") is True for row in rows)
    if stopped:
        sentences.append(Says.AT_BOUND.of(number=stopped, of=len(rows)))
    return sentences


def _trial(row: Mapping[str, Any]) -> str:
    return Says.TRIAL.of(arm=collapse.named(row), seed=row["seed"])
