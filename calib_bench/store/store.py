"""The store: a run folder, the truth on disk. Every later stage reads it and nothing else.

    store.json                      schema version
    study.json                      resolved settings, command, versions and plan of the last run
    study.toml                      the same settings as a file for `run config=`
    splits/<name>/                  labels.safetensors, split.json (source, digest, class names), once per split
    trials/<key>/                   trial.json, history.parquet, logits.safetensors; of a probe, arrays.safetensors;
                                    of a trial that keeps logits on its way, snapshots.safetensors
    checkpoints/                    of trials under way
    claims/                         which driver is at work on what
    failed/<key>.json               why a trial could not be finished, until it is
    damaged/                        what was found broken, kept for a look

A trial's folder is written under a temporary name and renamed when whole. `trial.json` holds the SHA-256 of its
neighbours and of itself. Nothing here is ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from calib_bench.core import fate
from calib_bench.core.results import Record
from calib_bench.core.settings import Settings
from calib_bench.core.trial import CROSS_ENTROPY, NUMERICS, Score, Scores, Snapshot, Trial, key_of
from calib_bench.errors import StoreError
from calib_bench.store import mirror
from calib_bench.store.checkpoints import Checkpoints
from calib_bench.store.failures import Failures
from calib_bench.store.splits import StoredSplits, tensors
from calib_bench.system import environment, files, object_store
from calib_bench.system.redaction import redact, redacted

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from calib_bench.core.splits import Splits
    from calib_bench.core.trial import TrialResult

SCHEMA = 1
FILES = ("history.parquet", "logits.safetensors", "arrays.safetensors", "snapshots.safetensors")
"""What lies beside trial.json."""
RECENT = 4096
"""Records kept in memory; others are read again."""
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From schema n of trial.json to n + 1, by n: a trial is brought up to date when it is read."""


class Store:
    """One run folder.

    Args:
        path: the folder, or an address as s3://bucket/folder, of which there is then a copy on this machine.
        mode: "write" makes it where it is missing, "read" wants it to be there, "peek" takes a missing one as empty.

    Attributes:
        address: the folder as it was given: what another process opens.
        path: the folder on this machine.
        label: the address, for people.
        failures, checkpoints, splits: the parts of it that are not trials.

    Raises:
        StoreError: the folder is missing, cannot be made or written, or was written by a newer version.
    """

    def __init__(self, path: Path, mode: Literal["write", "read", "peek"] = "write") -> None:
        url = object_store.url_of(path)
        self.address, self.label = path, url or str(path)
        self.mirror = mirror.Mirror(url) if url else None
        if self.mirror:
            self.mirror.open(write=mode == "write")
            path = self.mirror.folder
        self.path = path
        self._trials = str(path / "trials")
        self._records: dict[str, Record] = {}
        self._whole: dict[str, tuple[str, dict[str, float]]] = {}  # status and selection scores: all that a plan needs
        self._alike: dict[str, Any] = {}
        self.failures = Failures(path / "failed")
        self.checkpoints = Checkpoints(path / "checkpoints", self.mirror)
        self.splits = StoredSplits(path)
        marker = path / "store.json"
        if marker.exists():
            self._check_version(marker, mode)
        elif mode == "read":
            raise StoreError(f"{self.label} is not a run folder: it has no store.json; `run` makes one")
        elif mode == "write":
            files.write_json(marker, {"schema": SCHEMA, "numerics": NUMERICS})

    def _check_version(self, marker: Path, mode: str) -> None:
        """Raises StoreError where this version of calib_bench cannot go on from the one that wrote the marker."""
        try:
            content = json.loads(marker.read_text())
            schema, numerics = content["schema"], content["numerics"]
            if type(schema) is not int or type(numerics) is not int or schema < 0:
                raise ValueError("no version")
        except (ValueError, KeyError, TypeError, OSError, RecursionError):
            fresh = json.dumps({"schema": SCHEMA, "numerics": NUMERICS})
            raise StoreError(f"{marker} is damaged: write {fresh} into it, or use another folder") from None
        if schema > SCHEMA:
            raise StoreError(
                f"{self.path} has schema {schema}, and this version of calib_bench reads up to {SCHEMA}: "
                f"`pip install --upgrade calib_bench`"
            )
        if numerics != NUMERICS and mode == "write":
            raise StoreError(
                f"{self.path} was begun by a version whose trials train to other results (numerics {numerics}, here "
                f"{NUMERICS}): give another folder with out=, or go on with that version"
            )

    def __reduce__(self) -> tuple[type[Store], tuple[Path, str]]:
        """Another process opens the folder anew, to read."""
        return Store, (self.address, "read")

    def refresh(self) -> None:
        """Learn what others have stored since: where the store is a plain folder, that shows by itself."""
        if self.mirror:
            self.mirror.refresh()

    # trials

    def folder(self, trial: Trial) -> Path:
        """Where a trial's files are, or would be."""
        return self.path / "trials" / trial.key

    def digests(self, trial: Trial) -> dict[str, str]:
        """SHA-256 of a stored trial's logits, by their place; raises StoreError where it is not whole."""
        self.has(trial)
        claims, name = self._read(trial.key)["files"], "logits.safetensors"
        return {str(self.folder(trial) / name): claims[name]["sha256"]} if name in claims else {}

    def has(self, trial: Trial) -> bool:
        """Whether the trial is stored whole. What is there but broken raises, see `audit`."""
        if trial.key in self._whole:
            return True
        if not os.path.exists(f"{self._trials}/{trial.key}/trial.json") and not (
            self.mirror and self.mirror.has(trial.key)
        ):
            return False
        self._check(trial.key)
        return True

    def _check(self, key: str) -> None:
        content = self._read(key)
        for name, claim in content["files"].items():
            if name not in FILES:
                raise StoreError(f"{self._trials}/{key}/trial.json names {name!r}, which no trial holds: it is foreign")
            path = f"{self._trials}/{key}/{name}"
            if not files.is_whole(path, claim["bytes"], claim["sha256"]):
                damage = "is damaged: its bytes are not those that were written"
                state = damage if os.path.isfile(path) else "is missing"
                raise StoreError(f"{path} {state}; run the study's command again to redo this one trial")
        selection = dict(content["facts"].get("selection") or {})
        if (entropy := content["facts"].get("label_entropy")) is not None:
            selection["label_entropy"] = entropy
        self._whole[key] = sys.intern(content["status"]), {sys.intern(name): v for name, v in selection.items()}

    def _shared(self, name: str, value: Any) -> Any:
        """The value, or the equal one that the last trial had: most trials of a store share data and environment."""
        if self._alike.get(name) != value:
            self._alike[name] = value
        return self._alike[name]

    def audit(self) -> list[str]:
        """Move every broken trial to `damaged/` and say which and why; only those will be redone.

        What a killed process left half written is removed once its trial is stored.
        """
        messages = []
        if self.mirror:
            self.mirror.complete()
        names = sorted(os.listdir(self._trials)) if os.path.isdir(self._trials) else []
        stored = set(names)
        for name in names:
            if name.startswith("."):
                if name.split(".")[1] in stored:
                    shutil.rmtree(f"{self._trials}/{name}", ignore_errors=True)
                continue
            try:
                self._check(name)
            except StoreError as error:
                self._whole.pop(name, None)
                self._records.pop(name, None)
                messages.append(f"{error}. Moved to {self._set_aside(self.path / 'trials' / name)}.")
        for folder in self.splits.written():
            try:
                self.splits.check(folder)
            except StoreError as error:
                messages.append(f"{error}. Moved to {self._set_aside(folder)}.")
        return messages

    def _set_aside(self, folder: Path) -> Path:
        target = self.path / "damaged" / f"{folder.name}-{uuid.uuid4().hex[:6]}"
        with files.writing(target):
            target.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # another driver was faster
                folder.rename(target)
        if self.mirror:
            self.mirror.forget(folder.relative_to(self.path).as_posix())
        return target

    def write(self, result: TrialResult, data: dict[str, str], metadata: dict[str, Any]) -> None:
        """Store a trial's result; one that another process stored meanwhile is left as it is."""
        final = self.folder(result.trial)
        temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
        with files.writing(final):
            temporary.mkdir(parents=True)
            try:
                _write_measured(temporary, result)
                neighbours = sorted(temporary.iterdir())
                content = {
                    "schema": SCHEMA,
                    "key": result.trial.key,
                    "trial": result.trial.model_dump(mode="json"),
                    "status": result.status,
                    "facts": {**result.metadata, **_snapshot_facts(result), **metadata},
                    "environment": environment.describe(),
                    "data": data,
                    "files": {p.name: {"sha256": files.sha256(p), "bytes": p.stat().st_size} for p in neighbours},
                }
                for path in neighbours:
                    files.sync(path)
                files.write_bytes(temporary / "trial.json", files.sealed(content))
                files.sync(temporary)
                if not (final / "trial.json").exists():
                    temporary.rename(final)
                    files.sync(final.parent)
            except OSError:
                if not (final / "trial.json").exists():
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        if self.mirror:
            self.mirror.commit(result.trial.key)
            self.mirror.forget(f"failed/{result.trial.key}.json")
        self.failures.forget(result.trial.key)

    def _read(self, key: str) -> dict[str, Any]:
        path = f"{self._trials}/{key}/trial.json"
        content = files.read_sealed(path)
        for version in range(content.get("schema", 0), SCHEMA):
            if version not in UPGRADES:
                raise StoreError(f"{path} has schema {version}, from which there is no way to {SCHEMA}")
            content = UPGRADES[version](content)
        if content.get("key") != key:
            raise StoreError(f"{path} belongs to trial {content.get('key')}: the folder was renamed or copied")
        if key_of(content["trial"]) != key:
            raise StoreError(f"{path} holds a trial of another key: it is foreign")
        for name in ("environment", "data"):
            content[name] = self._shared(name, content[name])
        return content

    def record(self, trial: Trial) -> Record:
        """What is known of a stored trial.

        Raises:
            StoreError: it is not there or not whole.
        """
        if trial.key not in self._records:
            content = self._read(trial.key)
            while len(self._records) >= RECENT:
                del self._records[next(iter(self._records))]
            self._records[trial.key] = Record(
                trial, content["status"], content["facts"], content["environment"], content["data"]
            )
        return self._records[trial.key]

    def state(self, trial: Trial) -> str:
        """ "done", "diverged", "failed" or, of a trial that is not here, "missing"."""
        if self.has(trial):
            return self.record(trial).status
        return "failed" if trial.key in self.failures.now() else "missing"

    def fate(self, trial: Trial) -> str:
        """The trial's status as reports have it: `state`, but "dead" of a trial that is done and ended no better than
        guessing. See `calib_bench.core.fate`, which says what counts as failed."""
        state = self.state(trial)
        return fate.DEAD if state == "done" and self._is_dead(trial) else state

    def _is_dead(self, trial: Trial) -> bool:
        numbers = self._whole[trial.key][1]
        if not fate.trained(trial) or "log_loss" not in numbers:
            return False
        entropy = numbers.get("label_entropy")
        entropy = self.splits.label_entropy(trial) if entropy is None else entropy
        if not fate.failed(numbers["log_loss"], entropy):
            return False
        return fate.failed(fate.end_loss(numbers, self._train_loss(trial)), entropy)

    def _train_loss(self, trial: Trial) -> float | None:
        """Mean cross-entropy over the last epoch; None where another objective was trained or none was measured."""
        if trial.objective != CROSS_ENTROPY:
            return None
        losses = self.history(trial).get("train_loss")
        return None if losses is None or losses.isna().iloc[-1] else float(losses.iloc[-1])

    def logits(self, trial: Trial) -> dict[str, Tensor]:
        """Raw logits z [N, K] float32 of the selection, calibration and test splits; empty for a diverged trial."""
        return self._tensors(trial, "logits")

    def arrays(self, trial: Trial) -> dict[str, Tensor]:
        """What the trial's probe measured at its end, by name; empty without one, and for a diverged trial."""
        return self._tensors(trial, "arrays")

    def snapshots(self, trial: Trial) -> list[Snapshot]:
        """The logits that the trial kept on its way, the highest training loss first; none where it kept none."""
        stored = self._tensors(trial, "snapshots")
        facts = self.record(trial).metadata.get("snapshots", [])
        return [Snapshot(**fact, logits=_under(f"{fact['level']:g}/", stored)) for fact in facts]

    def _tensors(self, trial: Trial, kind: str) -> dict[str, Tensor]:
        self.has(trial)
        path = self.folder(trial) / f"{kind}.safetensors"
        return tensors(path) if path.exists() else {}

    def history(self, trial: Trial) -> pd.DataFrame:
        """One row a measured epoch; a probe's columns come last."""
        import pandas as pd

        self.has(trial)
        return pd.read_parquet(self.folder(trial) / "history.parquet")

    def scores(self, select: str) -> Scores:
        """Selection scores by `select`: "log_loss", "repaired_log_loss" or "error"; inf of what diverged or could not
        be finished. The score of a dead trial is what it is."""
        failed = self.failures.now()

        def score(trial: Trial) -> float | None:
            if not self.has(trial):
                return float("inf") if trial.key in failed else None
            status, selection = self._whole[trial.key]
            value = float("inf") if status != "done" else float(selection[select])
            return Score(value, lambda: self.fate(trial) in fate.FAILED)

        return score

    # splits

    def write_splits(self, trial: Trial, splits: Splits) -> dict[str, str]:
        """Store labels and origin, once; returns what a trial records of its data.

        Raises:
            DataError: the store holds trials from data with another digest.
        """
        return self.splits.write(trial, splits)

    def labels(self, trial: Trial) -> dict[str, Tensor]:
        """Labels [N] int64 of the selection, calibration and test splits.

        Raises:
            StoreError: they are missing, damaged, or not those that the trial, if it is stored, was trained with.
        """
        labels = self.splits.labels(trial)
        if self.has(trial):
            of_trial, stored = self.record(trial).data, self.split_info(trial)
            if any(of_trial.get(name) != stored.get(name) for name in ("digest", "preparation") if name in of_trial):
                raise StoreError(
                    f"{self.folder(trial)} was trained on other data than {self.splits.of(trial)} holds labels of: "
                    f"results on different data do not mix; give another folder with out="
                )
        return labels

    def split_info(self, trial: Trial) -> dict[str, Any]:
        """Source, digest, class names, notes and sizes of a trial's splits."""
        return self.splits.info(trial)

    # the study

    def write_study(self, settings: Settings, command: str, plan: Mapping[str, Any] | None = None) -> None:
        """Record what the last run of this folder asked for, and the plan that answers it, see `planning.plan.keep`."""
        content = {
            "settings": redacted(settings.model_dump(mode="json")),
            "command": redact(command),
            "environment": environment.describe(),
            "plan": plan,
        }
        files.write_json(self.path / "study.json", files.seal(content))

    def settings(self) -> Settings:
        """The resolved settings of the last run.

        Raises:
            StoreError: they are missing or damaged, or of another version of calib_bench.
        """
        path = self.path / "study.json"
        try:
            return Settings.model_validate(files.read_sealed(path)["settings"])
        except (ValidationError, KeyError) as error:
            why = str(error)
            if isinstance(error, ValidationError):
                first = error.errors()[0]
                why = f"{first['loc']}: {first['msg']}"
            raise StoreError(
                f"{path} holds settings that this version of calib_bench does not know ({why}): run the study's "
                f"command again"
            ) from None

    def plan(self) -> dict[str, Any] | None:
        """What `write_study` recorded of the plan; None where nothing was, as by older versions.

        Raises:
            StoreError: study.json is damaged.
        """
        path = self.path / "study.json"
        plan: dict[str, Any] | None = files.read_sealed(path).get("plan") if path.exists() else None
        return plan

    def provenance(self) -> dict[str, Any]:
        """Command, environment, and the data behind the stored splits."""
        study = files.read_sealed(self.path / "study.json")
        return {"command": study["command"], "environment": study["environment"], "splits": self.splits.every()}


def _write_measured(folder: Path, result: TrialResult) -> None:
    """Write a trial's history, its logits, what its probe measured and what it kept on its way, where there is any."""
    import pyarrow as pa
    from pyarrow import parquet
    from safetensors.torch import save

    columns = {name: pa.array(values, from_pandas=True) for name, values in result.history.items()}
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer)
    (folder / "history.parquet").write_bytes(buffer.getvalue())
    kept = {f"{one.level:g}/{name}": z for one in result.snapshots for name, z in one.logits.items()}
    for kind, by_name in (("logits", result.logits), ("arrays", result.arrays), ("snapshots", kept)):
        if by_name:
            contiguous = {name: tensor.contiguous() for name, tensor in by_name.items()}
            (folder / f"{kind}.safetensors").write_bytes(save(contiguous))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _snapshot_facts(result: TrialResult) -> dict[str, Any]:
    """What trial.json says of a trial's snapshots; nothing of a trial that kept none."""
    names = ("level", "epoch", "step", "train_loss")
    facts = [{name: getattr(snapshot, name) for name in names} for snapshot in result.snapshots]
    return {"snapshots": facts} if facts else {}
