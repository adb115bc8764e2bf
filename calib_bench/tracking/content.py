"""What is logged of a trial, as plain values read from the store."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from calib_bench import registry
from calib_bench.analysis.measure import measure_arm
from calib_bench.analysis.scores import REPAIRED
from calib_bench.core.settings import Question, Settings
from calib_bench.core.study import Study
from calib_bench.core.trial import Trial
from calib_bench.planning import plan as planning
from calib_bench.planning import tuning
from calib_bench.store.places import Member
from calib_bench.store.store import Store

TIMES = frozenset({"fit_seconds"})
"""Measured anew whenever a trial is: logging it twice would not give the same."""
ARTIFACT = ("logits.safetensors", "trial.json")
"""The files of a trial that its artifact holds, beside the labels."""


def config(store: Store, settings: Question, trials: Sequence[Trial]) -> dict[str, Any]:
    """Everything that names trials, their data, and what they were made with: where they differ, a list."""
    each = [_config(store, settings, trial) for trial in trials]
    return {key: shared([one[key] for one in each]) for key in each[0]}


def _config(store: Store, settings: Question, trial: Trial) -> dict[str, Any]:
    record = store.record(trial)
    return {
        **trial.model_dump(mode="json"),
        "key": trial.key,
        "arm": tuning.label(trial),
        "study": settings.study,
        "data": dict(record.data),
        "environment": record.environment,
    }


def shared(values: Sequence[Any]) -> Any:
    """The one value that all have, else the list of them."""
    return values[0] if all(value == values[0] for value in values) else list(values)


def history(store: Store, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """One row a measured epoch, of several trials their mean; what was not measured is left out, since a missing number
    is no number."""
    frame = store.history(trials[0]) if len(trials) == 1 else _mean_history(histories(store, trials))
    return [{str(k): v for k, v in row.items() if not _missing(v)} for row in frame.to_dict("records")]


def histories(store: Store, trials: Sequence[Trial]) -> pd.DataFrame:
    """The histories of trials below one another, after columns that name each."""
    frames = []
    for trial in trials:
        frame = store.history(trial).rename(columns={"lr": "rate"}).reset_index(drop=True)
        about = {"key": trial.key, "arm": tuning.label(trial), "lr": trial.lr, "seed": trial.seed}
        frames.append(pd.concat([pd.DataFrame([about] * len(frame)), frame], axis=1))
    return pd.concat(frames, ignore_index=True)


def _mean_history(frame: pd.DataFrame) -> pd.DataFrame:
    numbers = frame.drop(columns=["key", "arm", "lr", "seed"]).rename(columns={"rate": "lr"})
    return numbers.groupby("epoch", sort=True).mean(numeric_only=True).reset_index() if len(numbers) else numbers


def summary(store: Store, trials: Sequence[Trial]) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Status, facts, and `<method>/<metric>` on the test split before and after temperature scaling, means of several
    trials; the reliability bins of both, None where no trial finished."""
    each = [{"status": store.fate(trial), **flat(store.record(trial).metadata)} for trial in trials]
    values = {key: _mean([one[key] for one in each if key in one]) for key in each[0]}
    done = {i: trial for i, trial in enumerate(trials) if store.record(trial).status == "done"}
    if not done:
        return values, None
    arm = tuning.Arm(trials[0], (trials[0].lr,), {}, trials[0].lr, "fixed", done)
    measures = measure_arm(store, arm, registry.calibrators((REPAIRED,)))
    return values | _means(measures.frame), measures.reliability if len(measures.reliability) else None


def _means(frame: pd.DataFrame) -> dict[str, float]:
    """`<method>/<metric>`: the mean of each column of numbers over the rows of each method."""
    values: dict[str, float] = {}
    for method, rows in frame.groupby("method", sort=False):
        means = rows.select_dtypes("float").drop(columns=list(TIMES), errors="ignore").mean().dropna()
        values |= {f"{method}/{name}": float(value) for name, value in means.items()}
    return values


def _mean(values: Sequence[Any]) -> Any:
    """One value for what several trials have: their mean, or all different texts."""
    if all(value == values[0] for value in values):
        return values[0]
    if all(isinstance(value, int | float) for value in values):
        return sum(values) / len(values)
    return ", ".join(sorted({str(value) for value in values}))


def files(store: Store, trials: Sequence[Trial]) -> dict[str, Path]:
    """The files of an artifact by name: labels, and logits and trial.json of trials with a folder of their own; none
    where no such trial has logits. Of several trials each one's are below its key."""
    folders = {trial.key: store.folder(trial) for trial in trials if (store.folder(trial) / ARTIFACT[0]).is_file()}
    inside = {key: f"{key}/" if len(trials) > 1 else "" for key in folders}
    paths = {f"{inside[key]}{name}": folder / name for key, folder in folders.items() for name in ARTIFACT}
    return _labels(store, trials) | paths if paths else {}


def archives(store: Store, trials: Sequence[Trial]) -> dict[str, Path]:
    """The archives that hold trials, by name, and the labels; none where all trials have folders of their own."""
    places = [store.place(trial.key) for trial in trials]
    paths = {path.name: path for path in (Path(place.archive) for place in places if isinstance(place, Member))}
    return _labels(store, trials) | paths if paths else {}


def _labels(store: Store, trials: Sequence[Trial]) -> dict[str, Path]:
    """The labels of trials' splits, by their names in an artifact."""
    splits = {path.name: path / "labels.safetensors" for path in map(store.splits.of, trials)}
    return {(path.name if len(splits) == 1 else f"{name}/{path.name}"): path for name, path in splits.items()}


def row(store: Store, trial: Trial, select: str) -> dict[str, Any]:
    """A trial as a row of the tuning table: its settings, how it ended, and the score that chooses a rate."""
    record = store.record(trial)
    score = store.scores(select)(trial)
    return {
        "key": trial.key,
        "arm": tuning.label(trial),
        **trial.model_dump(mode="json"),
        "status": store.fate(trial),
        "selection_score": score if score is not None and math.isfinite(score) else None,
        **{k: v for k, v in flat(record.metadata).items() if isinstance(v, int | float | str | bool) or v is None},
    }


def selected(study: Study, settings: Settings, store: Store) -> list[Trial]:
    """Stored trials that are known to be at their arm's chosen rate, while others may still run.

    With one rate a model, every trial; else what is reported of models of which nothing is left to train. What a study
    chooses otherwise comes with its analysis.
    """
    roles = planning.read(settings, study, store)
    if all(len(space["lr"]) == 1 for space in settings.spaces.values()):
        return [trial for trial in roles if store.has(trial)]
    still_trained = _models_in_training(roles, store)
    reported = [trial for trial, role in roles.items() if role in ("chosen", "intervention")]
    return [trial for trial in reported if trial.model not in still_trained and store.has(trial)]


def _models_in_training(trials: Iterable[Trial], store: Store) -> set[str]:
    """Models of which something is left to train."""
    failed = store.failures.now()
    return {trial.model for trial in trials if trial.key not in failed and not store.has(trial)}


def flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts with keys joined by `/`."""
    out: dict[str, Any] = {}
    for key, value in facts.items():
        out |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return out


def plain(value: Any) -> Any:
    """A JSON-able copy."""
    return json.loads(json.dumps(value, default=str))


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
