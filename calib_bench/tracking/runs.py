"""The runs: one an arm or a trial, one of all trials, one of every calibrator, one of the analysis; artifacts tie them.

train: arms or trials ── logits ──> calibrate ── calibration ──> analyse ── report
train: all trials and their histories as tables ── archives of logits ──> calibrate
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.core.fate import FAILED
from calib_bench.planning import tuning
from calib_bench.system import files
from calib_bench.tracking import content, names
from calib_bench.tracking.analysis_export import SENTENCES, HandedOver
from calib_bench.tracking.client import Ledger, Session, digest, mark, once, page
from calib_bench.tracking.tables import parts, table

if TYPE_CHECKING:
    import wandb

    from calib_bench.core.settings import Settings
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store


LOGITS = "Raw logits z, not times beta"
SPEED = 1e6
"""Bytes a second that a server takes at least: so long the job waits for what is large."""


class Logger:
    """Logs what the ledger does not have.

    Args:
        on_progress: called with each run's id once it is logged, and with "" after a step on the way; then also with
            how many seconds the next step may take longer than others, since much is sent.
        by_arm: whether a run holds all seeds of an arm, or one trial.
        agent: the run that a sweep's agent waits for, see `session.agent`.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        session: Session,
        ledger: Ledger,
        on_progress: Callable[..., None],
        by_arm: bool,
        agent: Mapping[str, str] | None = None,
    ) -> None:
        self.store, self.settings, self.session, self.ledger = store, settings, session, ledger
        self.on_progress, self.by_arm, self.agent = on_progress, by_arm, dict(agent or {})
        self._digests: dict[str, str] = {}

    def groups(self, trials: Iterable[Trial]) -> list[list[Trial]]:
        """The trials of each run."""
        return names.arms(trials) if self.by_arm else [[trial] for trial in trials]

    def train(self, trials: Sequence[Trial]) -> None:
        """The run of a trial, or of an arm's: config, history over epochs, final metrics, reliability bins, logits.

        Of several trials numbers are means, and each one's history is in a table.
        """
        run_id = self._run_id(trials)
        checksum = self._digests.setdefault(run_id, digest(content.config(self.store, self.settings, trials)))
        if self.ledger.has(run_id, checksum):
            return
        history = content.history(self.store, trials)
        summary, bins = content.summary(self.store, trials)
        frames = {} if bins is None else {"reliability": bins}
        if len(trials) > 1:
            frames["histories"] = content.histories(self.store, trials)

        def body(run: wandb.Run) -> None:
            columns = {name for row in history for name in row}
            run.define_metric("epoch")
            for name in sorted(columns - {"epoch"}):
                run.define_metric(name, step_metric="epoch")
            tables = self._tables(frames)
            once(run, [*history, tables] if tables else history)
            if artifact := self._logits(trials):
                run.log_artifact(artifact)
            run.summary.update(content.plain(summary))

        config = content.plain(content.config(self.store, self.settings, trials))
        role = names.role(self.settings, trials[0])
        title = names.title if len(trials) == 1 else names.arm_title
        fields = self._fields(run_id, title(self.settings, trials[0]), role, config)
        if role == names.CONTROL:
            fields |= {"group": f"{fields['group']}-{names.CONTROL}", "tags": [names.CONTROL]}
        self._write(fields, checksum, body, brief=True)

    def tuning(self, trials: Iterable[Trial]) -> None:
        """All trials, those of rates that were not chosen too, as rows, and their histories, in one run; it makes the
        artifact of those that lie in archives."""
        stored = [trial for trial in trials if self.store.has(trial)]
        run_id = self._page("tuning")
        checksum = digest([trial.key for trial in stored])
        if not stored or self.ledger.has(run_id, checksum):
            return
        rows = pd.DataFrame([content.row(self.store, trial, self.settings.select) for trial in stored])
        tables = {"trials": rows, "histories": content.histories(self.store, stored)}

        def body(run: wandb.Run) -> None:
            page(run, self._tables(tables), checksum)
            if archives := self._archives(stored):
                run.log_artifact(archives)
            run.summary.update({"n_trials": len(stored), "n_failed": int(rows["status"].isin(FAILED).sum())})

        self._write(self._fields(run_id, "all rates", names.TRAIN, self._about()), checksum, body)

    def calibration(self, analysis: HandedOver, trials: Iterable[Trial], plan: Iterable[Trial]) -> None:
        """Every calibrator on every trial at its chosen rate: uses their logits, makes the calibration artifact."""
        run_id = self._page("calibration")
        used = [trial for trial in trials if self.store.has(trial)]
        lasting = {k: frame.drop(columns=list(content.TIMES), errors="ignore") for k, frame in analysis.frames.items()}
        checksum = digest([trial.key for trial in used], {k: frame.to_csv() for k, frame in lasting.items()})
        if self.ledger.has(run_id, checksum):
            return

        def body(run: wandb.Run) -> None:
            stored = [trial for trial in plan if self.store.has(trial)]
            for artifact in filter(None, [*map(self._logits, self.groups(used)), self._archives(stored)]):
                use(run, artifact)
            frames = {name: _arms_first(frame, used) for name, frame in analysis.frames.items()}
            if frames:
                page(run, self._tables(frames), checksum)
            run.log_artifact(self._calibration(analysis))
            measurements = analysis.frames.get("measurements")
            methods = [] if measurements is None else sorted(set(measurements["method"]))
            run.summary.update({"trials": len(used), "methods": methods})

        self._write(self._fields(run_id, "calibration", names.CALIBRATE, self._about()), checksum, body)

    def analysis(self, analysis: HandedOver) -> None:
        """Every table and figure of the study, its verdict and warnings: uses the calibration, makes the report."""
        import wandb

        run_id = self.agent.get("id") or self._page("analysis")
        images = {name: files.sha256(path) for name, path in analysis.figures.items()}
        checksum = digest(analysis.words, {name: frame.to_csv() for name, frame in analysis.tables.items()}, images)
        if self.ledger.has(run_id, checksum):
            return

        def body(run: wandb.Run) -> None:
            use(run, self._calibration(analysis))
            frames = {f"tables/{name}": frame for name, frame in analysis.tables.items()}
            logged = self._tables(frames) | {
                f"figures/{name}": wandb.Image(str(path), caption=name.replace("_", " "))
                for name, path in analysis.figures.items()
            }
            page(run, logged, checksum)
            if report := self._report():
                run.log_artifact(report)
            run.summary.update({name: analysis.words[name] for name in SENTENCES})

        config = {**self._about(), "tables": analysis.words["tables"]}
        sweep = {name: value for name, value in self.agent.items() if name != "id"}
        self._write(self._fields(run_id, "analysis", names.ANALYSE, config), checksum, body, sweep=sweep)

    # artifacts: the same content gives the same digest, so that a server keeps one version of each

    def _run_id(self, trials: Sequence[Trial]) -> str:
        return names.run_id(self.settings, [self.store.record(trial) for trial in trials])

    def _logits(self, trials: Sequence[Trial]) -> wandb.Artifact | None:
        """Of the trials among these that have a folder of their own."""
        about = {
            name: content.shared([getattr(trial, name) for trial in trials])
            for name in ("key", "task", "model", "beta", "seed")
        }
        run_id = self._run_id(trials)
        return self._artifact(f"logits-{run_id}", "logits", LOGITS, about, content.files(self.store, trials))

    def _archives(self, trials: Sequence[Trial]) -> wandb.Artifact | None:
        """Of the archives of trials that were trained together: the store's files, so that nothing is copied."""
        paths = content.archives(self.store, trials)
        return self._artifact(self._page("archives"), "logits", f"{LOGITS}, in archives of the store", {}, paths)

    def _calibration(self, analysis: HandedOver) -> Any:
        folder = self.store.path / "wandb" / "analysis"
        paths = {f"{name}.csv": folder / f"{name}.csv" for name in analysis.frames}
        paths = paths or {"analysis.json": folder / "analysis.json"}
        return self._artifact(self._page("calibration"), "calibration", "Every calibrator on every trial", {}, paths)

    def _report(self) -> wandb.Artifact | None:
        folder = self.store.path / "report"
        reported = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
        paths = {str(path.relative_to(folder)): path for path in reported}
        return self._artifact(self._page("report"), "report", "The page, with its figures and tables", {}, paths)

    # plumbing

    def _tables(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
        """wandb's tables, a long frame as several, with a sign of life after each."""
        made: dict[str, Any] = {}
        for title, frame in frames.items():
            for name, part in parts(title, frame).items():
                made[name] = table(part, self.session.locate)
                self.on_progress("")
        return made

    def _artifact(
        self, name: str, kind: str, description: str, about: Mapping[str, Any], paths: Mapping[str, Path]
    ) -> wandb.Artifact | None:
        """An artifact of files that stay where they are; None of no files."""
        import wandb

        if not paths:
            return None
        artifact = wandb.Artifact(name, type=kind, description=description, metadata=dict(about))
        for inside, path in paths.items():
            entry = artifact.add_file(str(path), name=inside, policy="immutable", skip_cache=True)
            entry.local_path = self.session.locate(path)
        self.on_progress("", artifact.size / SPEED)
        return artifact

    def _page(self, kind: str) -> str:
        digests = [split["digest"] for split in self.store.provenance()["splits"]]
        return names.page_id(self.settings, digests, kind)

    def _about(self) -> dict[str, Any]:
        study = self.store.provenance()
        about = {
            "study": self.settings.study,
            "task": self.settings.task,
            "command": study["command"],
            "settings": names.question(self.settings),
            "environment": study["environment"],
            "data": study["splits"],
        }
        return content.plain(about)

    def _fields(self, run_id: str, name: str, job_type: str, config: dict[str, Any]) -> dict[str, Any]:
        return {
            "project": names.project(),
            "group": names.group(self.settings),
            "job_type": job_type,
            "id": run_id,
            "name": name,
            "config": config,
        }

    def _write(self, fields: dict[str, Any], checksum: str, body: Callable[[wandb.Run], None], **how: Any) -> None:
        self.session.write(fields, body, **how)
        self.ledger.add(fields["id"], checksum)
        if Ledger(self.ledger.path.parent, "online").has(fields["id"], checksum):
            mark(self.session.folder, fields["id"])
        self.on_progress(fields["id"])


def use(run: wandb.Run, artifact: wandb.Artifact) -> None:
    """The run's use of an artifact, recorded offline as online.

    `run.use_artifact` refuses to work offline and waits for the server online, for each artifact; what it records for
    an artifact of known content is this, and the server finds its version by the digest.
    """
    run._log_artifact(artifact, is_user_created=True, use_after_commit=True)


def _arms_first(frame: pd.DataFrame, trials: Iterable[Trial]) -> pd.DataFrame:
    """With the columns in front that say what a row is of; of rows that name their trial by its key alone, its arm."""
    if "key" in frame.columns and "arm" not in frame.columns:
        named = {trial.key: tuning.label(trial) for trial in trials}
        frame = frame.assign(arm=[named.get(key, "") for key in frame["key"]])
    first = [name for name in ("model", "variant", "arm", "beta", "objective", "tuning") if name in frame.columns]
    return frame[[*first, *(name for name in frame.columns if name not in first)]]
