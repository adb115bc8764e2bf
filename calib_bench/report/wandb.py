"""Weights & Biases: a view of the store, never its keeper. Whatever goes wrong here is one warning."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calib_bench import tuning
from calib_bench.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.settings import Settings
    from calib_bench.store import Store
    from calib_bench.study import Analysis
    from calib_bench.trial import Trial

PROJECT = "calib_bench"
"""Unless $WANDB_PROJECT says otherwise; the entity and server are wandb's own settings."""


def log(store: Store, settings: Settings, analysis: Analysis, mode: str = "offline") -> int:
    """Logs what is not logged yet: a run for each trial at its arm's chosen rate, one of all rates tried, one analysis.

    What was logged is kept in `<run>/wandb/logged-<mode>.json` by content, so that logging again costs nothing and a
    changed result is logged anew under the same id.

    Args:
        analysis: with data["measurements"], rows of (key, method, metrics), and data["arms"], the arms whose trials at
            the chosen rate are logged, where there are any; else the arms of the grid.
        mode: "offline" (files under `<run>/wandb`, for `wandb sync`), "online", or "disabled" (wandb is not imported).

    Returns:
        How many runs were logged.
    """
    if mode == "disabled":
        return 0
    try:
        return _Logger(store, settings, mode).log(analysis)
    # wandb fails in ways beyond its own exceptions (servers, sockets, files), and none may cost the user a result.
    except Exception as error:
        warnings.warn(
            f"logging to Weights & Biases stopped ({type(error).__name__}: {error}). The results in {store.path} are "
            f"whole; the same command again logs what is missing.",
            RuntimeWarning,
            stacklevel=2,
        )
        return 0


class _Logger:
    def __init__(self, store: Store, settings: Settings, mode: str) -> None:
        self.store, self.settings, self.mode = store, settings, mode
        self.path = store.path / "wandb" / f"logged-{mode}.json"
        self.logged: dict[str, str] = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.count = 0

    def log(self, analysis: Analysis) -> int:
        arms: Any = analysis.data.get("arms")
        if arms is None:
            arms = tuning.arms(self.settings, self.store.scores(self.settings.select))
        measured = _summaries(analysis.data.get("measurements"))
        for arm in arms:
            for trial in arm.trials.values():
                if self.store.has(trial):
                    self._trial(trial, arm.label, measured.get(trial.key, {}))
        frames = {name: table.frame for name, table in analysis.tables.items()}
        rates = {name: frame for name, frame in frames.items() if name.endswith("rates")}
        tables = {name: frame for name, frame in frames.items() if name not in rates}
        self._page("tuning", rates, {}, ())
        figures = sorted((self.store.path / "report" / "figures").glob("*.png"))
        words = {"verdict": list(analysis.verdict), "warnings": list(analysis.warnings)}
        self._page("analysis", tables, words, figures)
        return self.count

    def _trial(self, trial: Trial, label: str, measured: Mapping[str, float]) -> None:
        import wandb

        record = self.store.record(trial)
        summary = {"status": record.status, **_plain(record.facts), **measured}
        config = {
            **trial.model_dump(mode="json"),
            "key": trial.key,
            "study": self.settings.study,
            "data": dict(record.data),
            "environment": record.environment,
        }
        digest = _digest(config, summary)
        if self.logged.get(trial.key) == digest:
            return
        name = f"{trial.model} {label} seed={trial.seed}"
        with wandb.init(**self._options(trial.key, name, "trial"), config=config) as run:
            run.define_metric("epoch")
            run.define_metric("*", step_metric="epoch")
            if self.mode == "offline" or trial.key not in self.logged:
                for row in self.store.history(trial).to_dict("records"):
                    run.log({str(k): v for k, v in row.items()})
            run.summary.update(dict(summary))
        self._done(trial.key, digest)

    def _page(self, kind: str, tables: Mapping[str, pd.DataFrame], words: Mapping[str, Any], figures: Any) -> None:
        import wandb

        texts = {name: frame.to_csv(index=False) for name, frame in tables.items()}
        images = [hashlib.sha256(path.read_bytes()).hexdigest() for path in figures]
        digest = _digest(texts, words, images)
        key = f"{self.settings.name}-{kind}".replace("/", "-")
        if self.logged.get(key) == digest:
            return
        config = {"study": self.settings.study, "task": self.settings.task, "command": self.settings.command()}
        with wandb.init(**self._options(key, kind, kind), config=config) as run:
            content: dict[str, Any] = {name: wandb.Table(dataframe=_strings(frame)) for name, frame in tables.items()}
            content |= {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
            run.log(content)
            run.summary.update(dict(words))
        self._done(key, digest)

    def _options(self, key: str, name: str, kind: str) -> dict[str, Any]:
        import wandb

        return {
            "project": os.environ.get("WANDB_PROJECT", PROJECT),
            "group": f"{self.settings.study}-{self.settings.task}",
            "job_type": kind,
            "id": key,
            "name": name,
            "dir": str(self.store.path),
            "mode": self.mode,
            "resume": "allow" if self.mode == "online" else None,
            "reinit": "finish_previous",
            "settings": wandb.Settings(
                console="off",
                silent=True,
                x_disable_stats=True,
                # What slows a short run more than all of its values do. A trial's config has versions and machine; the
                # runs of a whole study keep the rest.
                x_save_requirements=False,
                disable_git=kind == "trial",
                x_disable_machine_info=kind == "trial",
            ),
        }

    def _done(self, key: str, digest: str) -> None:
        self.logged[key] = digest
        self.count += 1
        write_bytes(self.path, (json.dumps(self.logged, indent=1, sort_keys=True) + "\n").encode())


def _summaries(frame: object) -> dict[str, dict[str, float]]:
    """Of measurements (key, method, metrics...): `<method>/<metric>` by key."""
    found: dict[str, dict[str, float]] = {}
    if frame is None or not len(frame):  # type: ignore[arg-type]
        return found
    for row in frame.to_dict("records"):  # type: ignore[attr-defined]
        numbers = {k: v for k, v in row.items() if isinstance(v, float) and not math.isnan(v) and k != "fit_seconds"}
        found.setdefault(row["key"], {}).update({f"{row['method']}/{k}": v for k, v in numbers.items()})
    return found


def _plain(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested facts with keys joined by `/`."""
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _plain(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _strings(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with empty cells of text columns as text, since a wandb column has one type."""
    text = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{str(c): frame[c].astype("string").fillna("").astype(object) for c in text})


def _digest(*content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]
