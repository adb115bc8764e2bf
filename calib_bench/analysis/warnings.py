"""What a reader must know before quoting a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import collapse
from calib_bench.analysis.contrast import is_reference
from calib_bench.analysis.interventions import why_not
from calib_bench.core.fate import DEAD, GUESS
from calib_bench.core.settings import Settings
from calib_bench.planning.tuning import FEW_SEEDS, FEWEST_SEEDS, Arm

if TYPE_CHECKING:
    import pandas as pd


STATUS = {
    "edge": "the best rate stands at the edge of its grid, so a better one may lie beyond",
    "fixed": "one rate was given, not tuned: a difference from a tuned arm may be a difference of tuning",
    "diverged": "no rate trains every tuning seed: some trial of each diverged or failed",
    "pending": "not trained yet, and missing from every comparison",
}
STATES = (
    ("diverged", "diverged at the chosen rate"),
    ("failed", "not finished for a fault"),
    ("missing", "not run yet"),
)
"""What becomes of trials that leave their arms."""


def warnings(
    settings: Settings,
    grid: Sequence[Arm],
    extra: Sequence[Arm],
    frames: Mapping[str, pd.DataFrame],
    refused: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> tuple[str, ...]:
    """Every warning, each once.

    Args:
        grid: its arms.
        extra: those of the interventions.
        refused: by calibrator that could not be fitted, what it said.
    """
    sentences = []
    if settings.limit is not None:
        sentences.append(f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results.")
    sentences += untrained([*grid, *extra]) + _batches([*grid, *extra], provenance)
    references = [arm for arm in grid if is_reference(arm.trial.model_dump(), settings)]
    if not references:
        sentences.append(
            f"No reference: no arm has beta={settings.reference:g} with cross-entropy, so nothing was compared."
        )
    sentences += _tuning([*grid, *extra]) + _trials(frames["trials"])
    sentences += collapse.warnings(collapse.rows(frames["trials"], settings))
    sentences += _doubtful(frames.get("separation"))
    if len(settings.seed or ()) == 1:
        sentences.append(
            "One seed: intervals hold for this one initialization and batch order, not for training in general."
        )
    if settings.interventions == "yes":
        reasons = dict.fromkeys(f"{arm.trial.model}: {why}" for arm in references if (why := why_not(arm.trial)))
        sentences += [f"Left out, interventions on {reason}." for reason in reasons]
    calibrators = registry.calibrators()
    every = set(calibrators) <= set(settings.calibrator or calibrators)
    for method, refusal in refused.items():
        if not (
            every and calibrators[method].classes
        ):  # of all there are, those for another number of classes are no loss
            sentences.append(f"Left out, {method}: {refusal}")
    for split in provenance.get("splits", ()):
        sentences += [f"Data: {note}." for note in split.get("notes", {}).values()]
    return tuple(dict.fromkeys(sentences))


def _doubtful(frame: pd.DataFrame | None) -> list[str]:
    """Contrasts whose limits are in doubt, by arm."""
    if frame is None or "doubtful" not in frame:
        return []
    rows = frame[frame["doubtful"].notna()].to_dict("records")
    listed = ", ".join(f"{row['model']} beta={row['beta']:.3g} {row['objective']} ({row['doubtful']})" for row in rows)
    return [f"Limits in doubt, which may cover less than 95% of the time, minus the reference: {listed}."]


def untrained(arms: Sequence[Arm]) -> list[str]:
    """What to say of nets that are not trained at all; they head the verdict too."""
    models = dict.fromkeys(arm.trial.model for arm in arms if arm.trial.epochs == 0 and not arm.trial.pretrained)
    if not models:
        return []
    return [
        f"Untrained: {', '.join(models)} at epochs=0 is at its initial weights, which nothing has taught: no number or "
        "sentence about it is about training."
    ]


def _batches(arms: Sequence[Arm], provenance: Mapping[str, Any]) -> list[str]:
    """Batches that ask for more examples than there are."""
    sizes = [split["sizes"]["train"] for split in provenance.get("splits", ()) if "sizes" in split]
    large = sorted({arm.trial.batch for arm in arms if sizes and arm.trial.epochs and arm.trial.batch > min(sizes)})
    return [
        f"Batch: batch={batch} is more than the {min(sizes):,} training examples, so that every update takes all of "
        "them and an epoch is one update."
        for batch in large
    ]


def _tuning(arms: Sequence[Arm]) -> list[str]:
    """Arms whose rate was not tuned, by why."""
    sentences = []
    for status, meaning in STATUS.items():
        affected = [arm for arm in arms if arm.status == status and (status != "fixed" or arm.trial.epochs > 0)]
        names = [f"{arm.trial.model} {arm.label}" for arm in affected]
        if names:
            everything = "every arm" if len(names) == len(arms) and len(arms) > 1 else ", ".join(names)
            sentences.append(f"{status.capitalize()}: {everything} ({meaning}).")
    few = [arm for arm in arms if FEW_SEEDS in arm.tuning]
    if few:
        seeds = max(len(trials) for arm in few for trials in arm.tried.values())
        everything = "every arm" if len(few) == len(arms) else ", ".join(f"{a.trial.model} {a.label}" for a in few)
        chose = f"{seeds} seed{'s' * (seeds > 1)} chose the rate of {everything}"
        sentences.append(
            f"{FEW_SEEDS.capitalize()}: {chose}, where fewer than {FEWEST_SEEDS} cannot show how far the choice "
            f"depends on them: no contrast is established; give tune_seeds={FEWEST_SEEDS}."
        )
    return sentences


def _trials(frame: pd.DataFrame) -> list[str]:
    """Trials that are missing from their arms, and temperatures at a bound."""
    sentences = []
    rows = frame.to_dict("records")
    for status, text in STATES:
        lost = [row for row in rows if row["status"] == status]
        if lost:
            which = ", ".join(_trial(row) for row in lost)
            sentences.append(f"Left out with their pairs, {text}: {len(lost)} of {len(rows)} trials ({which}).")
    dead = [row for row in rows if row["status"] == DEAD]
    if dead:
        sentences.append(
            f"Dead at the chosen rate, and part of every mean: {len(dead)} of {len(rows)} trials ended at {GUESS:.0%} "
            f"or more of the loss of guessing, the entropy of the labels ({', '.join(_trial(row) for row in dead)})."
        )
    stopped = [row for row in rows if row.get("at_bound") is True]
    if stopped:
        sentences.append(
            f"Temperature at a bound, where the calibration data have no optimum: {len(stopped)} of {len(rows)} "
            "trials; their kappa is that bound."
        )
    return sentences


def _trial(row: Mapping[str, Any]) -> str:
    what = f" ({row['intervention']})" if isinstance(row.get("intervention"), str) else ""
    return f"{row['model']} beta={row['beta']:.3g} {row['objective']}{what} seed {row['seed']}"
