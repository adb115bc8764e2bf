"""The store: a run folder, the truth on disk. Every later stage reads it and nothing else.

    store.json                      schema version
    study.json                      resolved settings, command, versions and plan of the last run
    study.toml                      the same settings as a file for `run config=`
    splits/<name>/                  labels.safetensors, split.json (source, digest, class names), once per split
    trials/<key>/                   trial.json, history.parquet, logits.safetensors; of a probe, arrays.safetensors;
                                    of a trial that keeps logits on its way, snapshots.safetensors;
                                    of one that keeps its model, weights.safetensors
    trials/<digest>.zip             such folders, of trials that were trained together, see `calib_bench.store.places`
    checkpoints/                    of trials under way
    claims/                         which driver is at work on what
    failed/<key>.json               why a trial could not be finished, until it is
    damaged/                        what was found broken, kept for a look

What is written of trials, folder or archive, has a temporary name and is renamed when whole. `trial.json` holds the
SHA-256 of its neighbours and of itself. Logits are kept to the bit, in the form that `calib_bench.store.planes` tells.
Nothing here is ever unpickled.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from calib_bench.core import fate
from calib_bench.core.results import Record
from calib_bench.core.settings import Settings
from calib_bench.core.trial import CROSS_ENTROPY, NUMERICS, Score, Scores, Snapshot, Trial
from calib_bench.errors import StoreError
from calib_bench.store import mirror, upkeep
from calib_bench.store.checkpoints import Checkpoints
from calib_bench.store.contents import SCHEMA, content_of
from calib_bench.store.failures import Failures
from calib_bench.store.places import Folder, Place
from calib_bench.store.splits import StoredSplits, numpy_arrays, tensors
from calib_bench.store.trials import StoredTrials
from calib_bench.system import environment, files, object_store
from calib_bench.system.redaction import redact, redacted

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor

    from calib_bench.core.splits import Splits
    from calib_bench.core.trial import TrialResult


def is_run(path: Path) -> bool:
    """Whether a path is that of a run folder."""
    return (path / "store.json").is_file()


def near_runs(path: Path) -> str:
    """A clause that names the run folders most like one that is missing, beside it or in runs/, see `files.near`."""
    return "" if is_run(path) else files.near(path, is_run) or files.near(Path("runs") / path.name, is_run)


class Store:
    """One run folder.

    Args:
        path: the folder, or an address as s3://bucket/folder, of which there is then a copy on this machine.
        mode: "write" makes it where it is missing, "read" wants it to be there, "peek" takes a missing one as empty.

    Attributes:
        address: the folder as it was given: what another process opens.
        path: the folder on this machine.
        label: the address, for people.
        trials, failures, checkpoints, splits: its parts.

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
        self.trials = StoredTrials(path, self.mirror)
        self._dead: dict[str, bool] = {}
        self.failures = Failures(path / "failed")
        self.checkpoints = Checkpoints(path / "checkpoints", self.mirror)
        self.splits = StoredSplits(path)
        marker = path / "store.json"
        if marker.exists():
            self._check_version(marker, mode)
        elif mode == "read":
            why = f"{self.label} is not a run folder: it has no store.json; `run` makes one"
            raise StoreError(why if self.mirror else f"{why}{near_runs(path)}")
        elif mode == "write":
            self._mark(NUMERICS)

    def _mark(self, numerics: int) -> None:
        files.write_json(self.path / "store.json", {"schema": SCHEMA, "numerics": numerics})

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
        if schema < SCHEMA and mode == "write":
            self._mark(numerics)

    def __reduce__(self) -> tuple[Callable[[Path], Store], tuple[Path]]:
        """Another process opens the folder anew, to read."""
        return _opened, (self.address,)

    def refresh(self) -> None:
        """Learn what others have stored since: where the store is a plain folder, that shows by itself."""
        if self.mirror:
            self.mirror.refresh()

    # trials

    def folder(self, trial: Trial) -> Path:
        """Where a trial's files are, or would be, if it has a folder of its own."""
        return self.path / "trials" / trial.key

    def place(self, key: str) -> Place | None:
        """Where the trial of a key is stored; None where it is not.

        Raises:
            StoreError: an archive is damaged, so that nobody knows which trials it holds.
        """
        return self.trials.place(key)

    def stored_keys(self) -> set[str]:
        """Keys of all stored trials, be they whole or not."""
        return self.trials.keys()

    def trial(self, key: str) -> Trial:
        """The trial that is stored under a key.

        Raises:
            StoreError: it is not there, or not whole.
        """
        place = self.place(key)
        if place is None:
            raise StoreError(f"{self.label} holds no trial {key}")
        return Trial.model_validate(self.trials.read(key, place)["trial"])

    def files(self, trial: Trial) -> dict[str, bytes]:
        """A stored trial's files by name, trial.json included."""
        return self.trials.files(trial.key, self.trials.at(trial.key))

    def digests(self, trial: Trial, kind: str = "logits") -> dict[str, str]:
        """SHA-256 of a stored trial's logits, or weights, by their place; raises StoreError where it is not whole."""
        self.has(trial)
        place = self.trials.at(trial.key)
        claims, name = self.trials.read(trial.key, place)["files"], f"{kind}.safetensors"
        return {place.at(name): claims[name]["sha256"]} if name in claims else {}

    def digest(self, trial: Trial) -> str:
        """A digest of all that is stored of a trial, whose record names those of its files; StoreError as `digests`."""
        self.has(trial)
        return files.digest_of(self.trials.read(trial.key, self.trials.at(trial.key)))

    def has(self, trial: Trial) -> bool:
        """Whether the trial is stored whole. What is there but broken raises, see `audit`."""
        return self.trials.has(trial.key)

    def audit(self) -> list[str]:
        """Move every broken trial to `damaged/` and say which and why; only those will be redone."""
        self._dead.clear()
        return upkeep.audit(self.trials) + [why for folder in self.splits.written() for why in self._audited(folder)]

    def _audited(self, split: Path) -> list[str]:
        try:
            self.splits.check(split)
        except StoreError as error:
            return [f"{error}. Moved to {self.trials.set_aside(split)}."]
        return []

    def upgrade(self) -> tuple[int, list[str]]:
        """Put trials that have a folder of their own into archives, see `upkeep.upgrade`."""
        if self.mirror:
            self.mirror.complete()
        self.trials.archives.look()
        self._mark(json.loads((self.path / "store.json").read_text())["numerics"])
        return upkeep.upgrade(self.trials)

    def write(self, result: TrialResult, data: dict[str, str], metadata: dict[str, Any]) -> None:
        """Store a trial's result; one that another process stored meanwhile is left as it is."""
        self.write_together([(result, metadata)], data)

    def write_together(self, results: Sequence[tuple[TrialResult, dict[str, Any]]], data: dict[str, str]) -> None:
        """Store results at once, several in one archive; what another process stored meanwhile is left as it is.

        Args:
            results: each with what a trial records beside what its loop reports.
            data: what each records of its data, see `write_splits`.
        """
        contents = {
            result.trial.key: partial(content_of, result, data, metadata, self._class_names(result))
            for result, metadata in results
            if self.place(result.trial.key) is None
        }
        self.trials.write(contents)
        for result, _ in results:
            if self.mirror:
                self.mirror.forget(f"failed/{result.trial.key}.json")
            self.failures.forget(result.trial.key)

    def _class_names(self, result: TrialResult) -> list[str]:
        """Of a trial that keeps its weights, the classes of its head."""
        return self.split_info(result.trial)["class_names"] if result.weights else []

    def record(self, trial: Trial) -> Record:
        """What is known of a stored trial.

        Raises:
            StoreError: it is not there or not whole.
        """
        return self.trials.record(trial)

    def state(self, trial: Trial) -> str:
        """ "done", "diverged", "failed" or, of a trial that is not here, "missing"."""
        if self.has(trial):
            return self.trials.whole[trial.key][0]
        return "failed" if trial.key in self.failures.now() else "missing"

    def fate(self, trial: Trial) -> str:
        """The trial's status as reports have it: `state`, but "dead" of a trial that is done and ended no better than
        guessing. See `calib_bench.core.fate`, which says what counts as failed."""
        state = self.state(trial)
        if state != "done":
            return state
        if trial.key not in self._dead:
            self._dead[trial.key] = self._is_dead(trial)
        return fate.DEAD if self._dead[trial.key] else state

    def _is_dead(self, trial: Trial) -> bool:
        numbers = self.trials.whole[trial.key][1]
        if not fate.trained(trial) or "log_loss" not in numbers:
            return False
        entropy = numbers.get("label_entropy")
        entropy = self.splits.label_entropy(trial) if entropy is None else entropy
        return fate.is_dead(numbers, entropy, lambda: self._classes(trial), lambda: self._train_loss(trial))

    def _classes(self, trial: Trial) -> int:
        """K, by the trial's own logits: its splits may be missing."""
        return self.logits(trial)["selection"].shape[1]

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

    def weights(self, trial: Trial) -> dict[str, Tensor]:
        """The parameters and buffers of the trial's model at its end, by name; empty where it kept none."""
        return self._tensors(trial, "weights")

    def _tensors(self, trial: Trial, kind: str) -> dict[str, Tensor]:
        self.has(trial)
        place, name = self.trials.at(trial.key), f"{kind}.safetensors"
        if not place.holds(name):
            return {}
        large = kind == "weights" and isinstance(place, Folder)  # and need not be read at once
        return tensors(place.at(name), None if large else place.read(name))

    def logit_arrays(self, trial: Trial) -> dict[str, np.ndarray]:
        """`logits` as numpy arrays."""
        self.has(trial)
        place, name = self.trials.at(trial.key), "logits.safetensors"
        return numpy_arrays(place.at(name), place.read(name)) if place.holds(name) else {}

    def history(self, trial: Trial) -> pd.DataFrame:
        """One row a measured epoch; a probe's columns come last."""
        import pandas as pd

        self.has(trial)
        return pd.read_parquet(io.BytesIO(self.trials.at(trial.key).read("history.parquet")))

    def scores(self, select: str) -> Scores:
        """Selection scores by `select`: "log_loss", "repaired_log_loss" or "error"; inf of what diverged or could not
        be finished. The score of a dead trial is what it is."""
        failed = self.failures.now()

        def score(trial: Trial) -> float | None:
            if not self.has(trial):
                return float("inf") if trial.key in failed else None
            status, selection = self.trials.whole[trial.key]
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
        self._refuse_other_data(trial)
        return labels

    def label_arrays(self, trial: Trial) -> dict[str, np.ndarray]:
        """`labels` as numpy arrays."""
        labels = self.splits.label_arrays(trial)
        self._refuse_other_data(trial)
        return labels

    def _refuse_other_data(self, trial: Trial) -> None:
        """Raises StoreError where a stored trial was trained on other data than its labels are of."""
        if self.has(trial):
            of_trial, stored = self.record(trial).data, self.split_info(trial)
            if any(of_trial.get(name) != stored.get(name) for name in ("digest", "preparation") if name in of_trial):
                raise StoreError(
                    f"{self.folder(trial)} was trained on other data than {self.splits.of(trial)} holds labels of: "
                    f"results on different data do not mix; give another folder with out="
                )

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


@lru_cache(maxsize=1)
def _opened(address: Path) -> Store:
    """The store that a process was sent, opened once: to list its archives for each job took a tenth of an analysis."""
    return Store(address, "read")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
