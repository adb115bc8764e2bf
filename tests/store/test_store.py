"""The store: whole or not there, named when broken, safe between processes."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from calib_bench.core.splits import InputSpec, Splits
from calib_bench.core.trial import NUMERICS, Trial, TrialResult
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.errors import DataError, ResourceError, StoreError
from calib_bench.store import store, trials
from calib_bench.store.store import Store
from calib_bench.system import files

FIELDS: dict[str, Any] = {
    "task": "digits",
    "model": "mlp_8",
    "beta": 1.0,
    "objective": "cross_entropy",
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_unit": "lr",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "epochs": 1,
    "batch": 4,
}
DATA = {"source": "here", "digest": "sha256:00"}


def trial(seed: int = 0) -> Trial:
    return Trial(**FIELDS, seed=seed)


def outcome(seed: int = 0, status: str = "done") -> TrialResult:
    generator = torch.Generator().manual_seed(seed)
    names = ("selection", "calibration", "test") if status == "done" else ()
    logits = {name: torch.randn(5, 3, generator=generator) for name in names}
    return TrialResult(trial(seed), status, logits, {"epoch": [0, 1], "train_loss": [float("nan"), 1.0]}, {"lr": 0.1})


def put(where: Store, seed: int = 0, status: str = "done") -> None:
    where.write(outcome(seed, status), DATA, {"selection": {"log_loss": 1.0 + seed}} if status == "done" else {})


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    made = Store(tmp_path / "run")
    for seed in range(3):
        put(made, seed)
    return made


def test_what_is_written_is_read(filled: Store) -> None:
    again = Store(filled.path, "read")
    assert all(again.has(trial(seed)) for seed in range(3))
    assert not again.has(trial(3))
    record = again.record(trial(1))
    assert (record.trial, record.status, record.data) == (trial(1), "done", DATA)
    assert record.metadata == {"lr": 0.1, "selection": {"log_loss": 2.0}}
    assert record.environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert all(torch.equal(z, outcome(1).logits[name]) for name, z in again.logits(trial(1)).items())
    assert list(again.history(trial(1))["epoch"]) == [0, 1]
    assert [again.scores("log_loss")(trial(seed)) for seed in range(4)] == [1.0, 2.0, 3.0, None]


def test_a_process_opens_a_store_once_that_it_is_sent_with_every_job(filled: Store) -> None:
    sent = pickle.loads(pickle.dumps(filled))
    assert sent is not filled
    assert not sent.has(trial(3))
    put(filled, 3)
    assert pickle.loads(pickle.dumps(filled)) is sent
    assert sent.has(trial(3))


def test_what_a_killed_process_left_half_written_goes_once_its_trial_is_stored(filled: Store) -> None:
    left, needed = (filled.path / "trials" / f".{key}.0a1b2c3d" for key in (trial().key, "0" * 20))
    for folder in (left, needed):
        folder.mkdir()
        (folder / "logits.safetensors").write_bytes(b"half")
    assert filled.audit() == []
    assert not left.exists()
    assert needed.exists(), "another driver may be at it"
    assert filled.has(trial())


def test_divergence_is_a_result(tmp_path: Path) -> None:
    made = Store(tmp_path)
    put(made, 0, "diverged")
    again = Store(tmp_path, "read")
    assert again.has(trial())
    assert again.logits(trial()) == {}
    assert again.scores("log_loss")(trial()) == float("inf")


@pytest.mark.parametrize("name", ["logits.safetensors", "history.parquet", "trial.json"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove", "empty"])
def test_a_broken_file_is_named_and_only_its_trial_redone(filled: Store, name: str, harm: str) -> None:
    path = filled.folder(trial(1)) / name
    content = path.read_bytes()
    middle = len(content) // 2
    if harm == "remove":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncate": content[:middle], "flip": flipped, "empty": b""}[harm])
    again = Store(filled.path)
    messages = again.audit()
    assert len(messages) == 1
    assert str(path) in messages[0]
    assert [again.has(trial(seed)) for seed in range(3)] == [True, False, True]
    assert len(list((filled.path / "damaged").iterdir())) == 1
    put(again, 1)
    assert again.has(trial(1))
    assert Store(filled.path).audit() == []


def test_reading_a_broken_trial_is_an_error_that_names_the_file(filled: Store) -> None:
    path = filled.folder(trial(2)) / "logits.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"logits\.safetensors is damaged"):
        Store(filled.path, "read").logits(trial(2))


def test_a_seal_is_checked_by_its_bytes_and_else_by_its_content(tmp_path: Path) -> None:
    path, value = tmp_path / "sealed.json", {"b": [1.5, None, "ä"], "a": {"d": 1, "c": 2}}
    for content in (files.sealed(value), json.dumps(files.seal(value), indent=1).encode()):
        path.write_bytes(content)
        assert files.read_sealed(path) == value
        path.write_bytes(content.replace(b"1.5", b"1.25"))
        with pytest.raises(StoreError, match="damaged"):
            files.read_sealed(path)
    path.write_bytes(files.sealed(value).replace(b'"sha256": "', b'"sha256": "0'))
    with pytest.raises(StoreError, match="damaged"):
        files.read_sealed(path)


@pytest.mark.parametrize("size", [0, 10, files.SMALL, files.SMALL + 1])
def test_whole_files_of_any_size(tmp_path: Path, size: int) -> None:
    path, content = tmp_path / "file", bytes(size)
    digest = hashlib.sha256(content).hexdigest()
    assert not files.is_whole(path, size, digest)
    path.write_bytes(content)
    assert files.is_whole(path, size, digest)
    assert files.sha256(path) == digest
    assert not files.is_whole(path, size + 1, digest)
    assert not files.is_whole(path, size, digest[::-1])
    assert not files.is_whole(tmp_path, tmp_path.stat().st_size, digest)


def test_trials_stored_before_are_whole(filled: Store) -> None:
    for seed in range(3):
        path = filled.folder(trial(seed)) / "trial.json"
        path.write_text(json.dumps(files.seal(files.read_sealed(path)), indent=1) + "\n")
    again = Store(filled.path)
    assert again.audit() == []
    assert again.record(trial(1)) == filled.record(trial(1))


def test_a_record_holds_the_stored_trial_whatever_has_been_read_before(filled: Store) -> None:
    again = Store(filled.path)
    again.audit()
    assert again.record(trial(2)).trial == trial(2)
    path = filled.folder(trial(2)) / "trial.json"
    content = files.read_sealed(path)
    content["trial"]["beta"] = 2.0
    path.write_bytes(files.sealed(content))
    with pytest.raises(StoreError, match="foreign"):
        Store(filled.path).record(trial(2))


def test_a_foreign_or_renamed_folder_is_found(filled: Store) -> None:
    foreign = filled.path / "trials" / "notes"
    foreign.mkdir()
    (foreign / "readme.txt").write_text("not a trial")
    shutil.copytree(filled.folder(trial(0)), filled.path / "trials" / ("0" * 20))
    messages = Store(filled.path).audit()
    assert len(messages) == 2
    assert any("renamed or copied" in message for message in messages)
    assert any("notes" in message and "missing" in message for message in messages)


def test_half_written_folders_are_not_trials(filled: Store) -> None:
    (filled.path / "trials" / ".abc.123").mkdir()
    assert Store(filled.path).audit() == []


def test_schemas(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = filled.path / "store.json"
    marker.write_text(json.dumps({"schema": 99, "numerics": NUMERICS}))
    with pytest.raises(StoreError, match="schema 99"):
        Store(filled.path)
    marker.write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        Store(filled.path)
    marker.write_text(json.dumps({"schema": store.SCHEMA, "numerics": NUMERICS}))
    monkeypatch.setattr(trials, "SCHEMA", store.SCHEMA + 1)
    with pytest.raises(StoreError, match=f"no way to {trials.SCHEMA}"):
        Store(filled.path).record(trial())
    monkeypatch.setitem(trials.UPGRADES, store.SCHEMA, lambda content: {**content, "status": "upgraded"})
    assert Store(filled.path).record(trial()).status == "upgraded"


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run folder"):
        Store(tmp_path / "nothing", "read")
    assert not Store(tmp_path / "nothing", "peek").has(trial())
    assert not (tmp_path / "nothing").exists()


def test_an_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "file" / "run")


def test_a_full_disk_is_said_and_leaves_nothing_behind(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(ResourceError, match="no space is left"):
        put(filled, 7)
    monkeypatch.undo()
    assert not filled.has(trial(7))
    assert Store(filled.path).audit() == []
    assert [p.name for p in (filled.path / "trials").iterdir() if p.name.startswith(".")] == []


def _write_all(path: Path, barrier: Any) -> None:
    made = Store(path)
    barrier.wait()
    for seed in range(20):
        put(made, seed)


def test_two_processes_write_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    writers = [context.Process(target=_write_all, args=(tmp_path, barrier)) for _ in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    again = Store(tmp_path)
    assert again.audit() == []
    assert all(again.has(trial(seed)) for seed in range(20))
    assert len(list((tmp_path / "trials").iterdir())) == 20


def _splits(digest: str) -> Splits:
    parts = [TensorSplit(DeviceCache(torch.zeros(4, 2)), torch.arange(4), torch.arange(4) % 2) for _ in range(4)]
    return Splits(*parts, InputSpec("vector", (2,)), 2, ("a", "<b>"), "here", digest, {})


def test_labels_are_kept_once_and_other_data_is_refused(tmp_path: Path) -> None:
    made = Store(tmp_path)
    data = made.write_splits(trial(), _splits("sha256:1"))
    assert data == {"source": "here", "digest": "sha256:1", "preparation": ""}
    assert made.write_splits(trial(5), _splits("sha256:1")) == data
    assert torch.equal(made.labels(trial())["test"], torch.arange(4) % 2)
    assert made.split_info(trial())["class_names"] == ["a", "<b>"]
    with pytest.raises(DataError, match="do not mix"):
        made.write_splits(trial(), _splits("sha256:2"))
    path = made.splits.of(trial()) / "labels.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(StoreError, match="labels"):
        made.labels(trial())
    assert len(made.audit()) == 1
    made.write_splits(trial(), _splits("sha256:1"))
    assert torch.equal(made.labels(trial())["test"], torch.arange(4) % 2)


def test_data_carved_otherwise_does_not_mix(tmp_path: Path) -> None:
    made, one = Store(tmp_path), _splits("sha256:1")
    made.write_splits(trial(), one)
    for other in (
        replace(one, preparation="else"),
        replace(
            one,
            test=one.test.__class__(DeviceCache(torch.zeros(4, 2)), torch.arange(4), torch.zeros(4, dtype=torch.int64)),
        ),
    ):
        with pytest.raises(DataError, match="do not mix"):
            made.write_splits(trial(), other)


def test_stores_of_other_numerics_are_read_but_not_added_to(filled: Store) -> None:
    (filled.path / "store.json").write_text(json.dumps({"schema": 1, "numerics": NUMERICS + 1}))
    with pytest.raises(StoreError, match="train to other results"):
        Store(filled.path)
    assert Store(filled.path, "read").has(trial())


def test_a_group_under_way_is_remembered(tmp_path: Path) -> None:
    made = Store(tmp_path)
    group = (trial(0), trial(1))
    path = made.checkpoints.begin(group)
    assert made.checkpoints.unfinished() == []
    path.write_bytes(b"a checkpoint")
    assert made.checkpoints.unfinished() == [[t.key for t in group]]
    made.checkpoints.finish(path)
    assert made.checkpoints.unfinished() == []
