"""What things are called in Weights & Biases: project, groups, run ids, artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from calib_bench import tuning
from calib_bench.files import digest_of

if TYPE_CHECKING:
    from calib_bench.settings import Settings
    from calib_bench.store import Record
    from calib_bench.trial import Trial

PROJECT = "calib_bench"
TRAIN, CALIBRATE, ANALYSE = "train", "calibrate", "analyse"
"""Job types: a trial, or the table of all trials; every calibrator on every trial; the study's tables and figures."""
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


def group(settings: Settings) -> str:
    """Study and task."""
    return f"{settings.study}-{settings.task}".replace("/", "-")


def trial_id(settings: Settings, record: Record) -> str:
    """A trial's run id: its key, and a digest of study, task and data, since other data makes it another run."""
    data = (record.data.get("digest"), record.data.get("preparation"))
    return f"{record.trial.key}-{digest_of([settings.study, settings.task, *data])[:8]}"


def page_id(settings: Settings, digests: Iterable[str], kind: str) -> str:
    """The run id of what a whole study leaves: of one question on one data, wherever its folder is.

    Args:
        digests: of the data of the store's splits.
        kind: "tuning", "calibration" or "analysis".
    """
    asked = settings.model_dump(mode="json", exclude=set(PLACES))
    return f"{group(settings)}-{kind}-{digest_of([asked, sorted(digests)])[:12]}"


def title(trial: Trial) -> str:
    """A trial's run name."""
    return f"{trial.model} {tuning.label(trial)} {trial.lr_unit}={trial.lr:.3g} seed={trial.seed}"
