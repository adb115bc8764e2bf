"""What is logged of a trial, as plain values read from the store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis.measure import measure_arm
from calib_bench.analysis.scores import REPAIRED
from calib_bench.planning import plan as planning
from calib_bench.planning import tuning

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.core.settings import Question, Settings
    from calib_bench.core.study import Study
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store


TIMES = frozenset({"fit_seconds"})
"""Measured anew whenever a trial is: logging it twice would not give the same."""
ARTIFACT = ("logits.safetensors", "trial.json", "labels.safetensors")
"""The files of a trial's artifact: its logits, and what they are to be held against."""


def config(store: Store, settings: Question, trial: Trial) -> dict[str, Any]:
    """Everything that names a trial, its data, and what it was made with."""
    record = store.record(trial)
    return {
        **trial.model_dump(mode="json"),
        "key": trial.key,
        "arm": tuning.label(trial),
        "study": settings.study,
        "data": dict(record.data),
        "environment": record.environment,
    }


def history(store: Store, trial: Trial) -> list[dict[str, Any]]:
    """One row a measured epoch; what was not measured is left out, since a missing number is no number."""
    rows = store.history(trial).to_dict("records")
    return [{str(k): v for k, v in row.items() if not _missing(v)} for row in rows]


def summary(store: Store, trial: Trial) -> tuple[dict[str, Any], pd.DataFrame | None]:
    """Status, facts, and `<method>/<metric>` on the test split before and after temperature scaling; the reliability
    bins of both, None of a trial that did not finish."""
    import pandas as pd

    record = store.record(trial)
    values = {"status": store.fate(trial), **flat(record.metadata)}
    if record.status != "done":
        return values, None
    arm = tuning.Arm(trial, (trial.lr,), {}, trial.lr, "fixed", {trial.seed: trial})
    measures = measure_arm(store, arm, registry.calibrators((REPAIRED,)))
    for row in measures.frame.to_dict("records"):
        numbers = {k: v for k, v in row.items() if isinstance(v, float) and not math.isnan(v) and k not in TIMES}
        values |= {f"{row['method']}/{k}": v for k, v in numbers.items()}
    bins = measures.reliability
    return values, bins if isinstance(bins, pd.DataFrame) and len(bins) else None


def files(store: Store, trial: Trial, scratch: Path) -> dict[str, Path]:
    """The files of a trial's artifact, by name; those out of an archive are written to `scratch`."""
    paths = {"labels.safetensors": store.splits.of(trial) / "labels.safetensors"}
    for name, content in store.files(trial).items():
        paths[name] = store.folder(trial) / name
        if not paths[name].exists():
            paths[name] = scratch / name
            paths[name].write_bytes(content)
    return {name: path for name, path in paths.items() if name in ARTIFACT and path.exists()}


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
    failed = store.failures.now()
    open_models = {trial.model for trial in roles if trial.key not in failed and not store.has(trial)}
    reported = [trial for trial, role in roles.items() if role in ("chosen", "intervention")]
    return [trial for trial in reported if trial.model not in open_models and store.has(trial)]


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
