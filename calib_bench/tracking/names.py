"""What things are called in Weights & Biases: project, groups, run ids, artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.core.settings import SHARED_BEFORE
from calib_bench.planning import tuning
from calib_bench.planning.search import lengths
from calib_bench.system.files import digest_of

if TYPE_CHECKING:
    from calib_bench.core.settings import Grid, Question, Settings
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Record

PROJECT = "calib_bench"
TRAIN, CALIBRATE, ANALYSE = "train", "calibrate", "analyse"
CONTROL = "positive-control"
"""Job types: a trial, or the table of all trials; every calibrator on every trial; the study's tables and figures; a
trial of a positive control."""
SAID = frozenset({"beta", "objective", "lr", "lr_unit", "head_lr", "head_init", "correlation"})
"""Settings that every run's name tells."""
PLACES = frozenset(
    {
        "data", "out", "device", "executor", "workers", "threads", "compile", "stack", "checkpoint", "lease", "stall",
        "wandb", "wandb_runs", "wandb_wait", "log_format", "plugins", "yes",
    }
)  # fmt: skip
"""Settings that say where and how a study runs, and not what it asks."""


def project() -> str:
    """`$WANDB_PROJECT`, or this project's name; entity and server are wandb's own settings."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


def group(settings: Question) -> str:
    """Study and task."""
    return f"{settings.study}-{settings.task}".replace("/", "-")


def trial_id(settings: Question, record: Record) -> str:
    """A trial's run id: its key, and a digest of study, task and data, since other data makes it another run."""
    data = (record.data.get("digest"), record.data.get("preparation"))
    return f"{record.trial.key}-{digest_of([settings.study, settings.task, *data])[:8]}"


def run_id(settings: Question, records: Sequence[Record]) -> str:
    """The id of the run of these trials: a trial's own, or of several one that tells them all."""
    ids = [trial_id(settings, record) for record in records]
    return ids[0] if len(ids) == 1 else f"arm-{digest_of(ids)[:24]}"


def arms(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Trials that differ in their seed and rate alone together, in order of their seeds."""
    together: dict[Trial, list[Trial]] = {}
    for trial in trials:
        together.setdefault(trial.model_copy(update={"seed": 0, "split": 0, "lr": 1.0}), []).append(trial)
    return [sorted(group, key=lambda trial: (trial.seed, trial.split, trial.lr)) for group in together.values()]


def page_id(settings: Settings, digests: Iterable[str], kind: str) -> str:
    """The run id of what a whole study leaves: of one question on one data, wherever its folder is.

    Args:
        digests: of the data of the store's splits.
        kind: "tuning", "calibration" or "analysis".
    """
    shared_before = {key: default for key, (_, default) in SHARED_BEFORE.items()}  # ids stay what they were
    return f"{group(settings)}-{kind}-{digest_of([shared_before | question(settings), sorted(digests)])[:12]}"


def question(settings: Settings) -> dict[str, Any]:
    """What a study asks, by key, without where and how it runs."""
    content = settings.model_dump(mode="json", exclude={*PLACES, "options"})
    return content | settings.options


def role(settings: Settings, trial: Trial) -> str:
    """The job type of a trial: `CONTROL` of one that runs shorter than anything that the study asks for."""
    epochs: Iterable[int] = settings.spaces.get(trial.model, {}).get("epochs", (trial.epochs,))
    if settings.study == "tune":  # whose searches train for a part of the epochs first
        epochs = [part for most in epochs for part in lengths(trial.model_copy(update={"epochs": most}))]
    return TRAIN if trial.probe or trial.epochs in epochs else CONTROL


def title(grid: Grid, trial: Trial) -> str:
    """A trial's run name, unique in its study: that of its arm, its rate and its seed."""
    return f"{arm_title(grid, trial)} {trial.lr_unit}={trial.lr:.6g} seed={trial.seed}"


def arm_title(grid: Grid, trial: Trial) -> str:
    """The run name of a trial's arm: what the study's settings vary, and in what it departs from them."""
    space = grid.spaces.get(trial.model, {})
    also = [
        f" {key}={getattr(trial, key)}"
        for key, values in space.items()
        if key not in SAID and (len(values) > 1 or getattr(trial, key) not in values)
    ]
    if trial.switch_from is not None:
        also.append(f" switch_at={trial.switch_at:g}")
    if trial.probe:
        also.append(f" probe={trial.probe}")
    if trial.shift:
        also.append(f" shift={trial.shift}")
    return f"{trial.model} {tuning.label(trial)}{''.join(also)}"
