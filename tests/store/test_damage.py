"""Bytes that are not what was written: whatever lies in a store, it is read as it was, or refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calib_bench import registry
from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial
from calib_bench.errors import DataError, SettingsError, StoreError
from calib_bench.evaluation import formats
from calib_bench.evaluation.predictions import read, stored
from calib_bench.store.store import SCHEMA, Store
from calib_bench.system import files
from calib_bench.train.checkpoint import Checkpoint

KINDS = ("store.json", "study.json", "split.json", "labels.safetensors", "trial.json", "history.parquet",
         "logits.safetensors", "failed.json", "begun.json")  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """A small whole store, a failure and a group under way included."""
    path = tmp_path_factory.mktemp("store") / "run"
    store, resolved = synthetic.make(path, "beta=0.3,1", "lr=0.1", "seed=0", "objective=cross_entropy", test=20)
    trials = list(registry.study("separation").plan(resolved, store.scores("log_loss")))
    other = trials[0].model_copy(update={"seed": 99})
    store.failures.record(other, "raised", "ValueError: bad")
    store.checkpoints.begin((other,)).write_bytes(b"a checkpoint")
    return path, trials


def file_of(path: Path, kind: str) -> Path:
    where = {"failed.json": "failed/*.json", "begun.json": "checkpoints/*.json"}.get(kind, f"**/{kind}")
    return sorted(path.glob(where))[0]


def everything(path: Path, trials: list[Trial]) -> dict[str, Any]:
    """All that a later stage reads of a store, after the audit that every run begins with."""
    store = Store(path, "read")
    assert all(store.has(trial) for trial in trials), "a trial is gone without a word"
    found: dict[str, Any] = {"settings": store.settings(), "provenance": store.provenance()}
    for trial in trials:
        record, logits, labels = store.record(trial), store.logits(trial), store.labels(trial)
        tensors = [(n, t.numpy().tobytes()) for d in (logits, labels) for n, t in sorted(d.items())]
        found[trial.key] = (record, tensors, store.history(trial).to_csv())
    return found


@pytest.fixture(scope="module")
def whole(filled: tuple[Path, list[Trial]]) -> dict[str, Any]:
    """What is read of the store that is undamaged."""
    return everything(*filled)


@contextmanager
def named(*names: str) -> Iterator[None]:
    """The block ends well, or with an error for people that has one of these names in it."""
    try:
        yield
    except (StoreError, DataError) as error:
        if not any(name in str(error) for name in names):
            raise AssertionError(f"the error does not name what is broken: {error}") from error


def unread(path: Path) -> None:
    """What tells nothing when it is broken: failures and groups under way."""
    store = Store(path, "read")
    store.failures.now()
    store.checkpoints.unfinished()


mutations = st.one_of(
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.just("cut"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("replace"), st.just(0.0), st.binary(max_size=200)),
    st.tuples(st.just("text"), st.just(0.0), st.sampled_from(
        ["", "null", "[]", "{}", "NaN", '{"sha256": NaN}', '{"sha256": null, "a": Infinity}', "[" * 20_000,
         '{"schema": "1", "numerics": 2}', '{"schema": -1, "numerics": 2}', '{"sha256": "\\ud800", "a": "\\ud800"}'])),
)  # fmt: skip


def mutated(content: bytes, how: tuple[str, float, Any]) -> bytes:
    kind, where, what = how
    at = int(where * len(content))
    match kind:
        case "flip":
            return content[:at] + bytes([content[at] ^ what]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "insert":
            return content[:at] + what + content[at:]
        case "text":
            return what.encode()
    return what


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(how=mutations)
def test_a_mutated_store_file_is_whole_or_refused_by_name(
    filled: tuple[Path, list[Trial]], whole: dict[str, Any], kind: str, how: tuple[str, float, Any]
) -> None:
    path, trials = filled
    file = file_of(path, kind)
    content = file.read_bytes()
    try:
        file.write_bytes(mutated(content, how))
        with named(kind, str(file.parent)):
            unread(path)
            assert everything(path, trials) == whole
    finally:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


@pytest.mark.parametrize(
    "kind", ["trial.json", "history.parquet", "logits.safetensors", "split.json", "labels.safetensors"]
)
def test_the_audit_sets_aside_only_what_is_broken(filled: tuple[Path, list[Trial]], kind: str, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(filled[0], copy)
    file = file_of(copy, kind)
    file.unlink()
    file.mkdir()
    (file / "inside").write_text("a folder where a file should be")
    messages = Store(copy).audit()
    assert len(messages) == 1
    assert kind in messages[0] or str(file.parent) in messages[0]
    assert Store(copy).audit() == []
    assert sum(Store(copy).has(trial) for trial in filled[1]) == len(filled[1]) - (
        kind not in ("split.json", "labels.safetensors")
    )


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = files.read_sealed(path)
    change(content)
    path.write_bytes(files.sealed(content))


def test_what_is_sealed_but_foreign_is_refused(filled: tuple[Path, list[Trial]], tmp_path: Path) -> None:
    """A digest proves that bytes are whole, not that they mean well."""
    copy, (first, *_) = tmp_path / "run", filled[1]
    shutil.copytree(filled[0], copy)
    record = copy / "trials" / first.key / "trial.json"
    whole = record.read_bytes()
    outside = {"../../../secret": {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}}
    resealed(record, lambda c: c["files"].update(outside))
    with pytest.raises(StoreError, match="foreign"):
        Store(copy, "read").has(first)
    record.write_bytes(whole)
    resealed(record, lambda c: c["trial"].update(beta=-1))
    with pytest.raises(StoreError, match="foreign"):
        Store(copy, "read").record(first)
    record.write_bytes(whole)
    resealed(record, lambda c: c["data"].update(digest="sha256:of something else"))
    with pytest.raises(StoreError, match="different data do not mix"):
        Store(copy, "read").labels(first)
    record.write_bytes(whole)
    resealed(copy / "study.json", lambda c: c["settings"].update(run_this="rm -rf"))
    with pytest.raises(StoreError, match="run_this"):
        Store(copy, "read").settings()


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/calib-bench-was-here"),))


def test_a_checkpoint_never_runs_code_and_is_whole_or_ignored(tmp_path: Path) -> None:
    path, mark = tmp_path / "c.pt", Path("/tmp/calib-bench-was-here")
    mark.unlink(missing_ok=True)
    saver = Checkpoint(path, "key", 0)
    for content in ({"key": "key", "state": Bomb()}, [1], {"key": "key"}, {"key": "other", "state": 1}, None):
        torch.save(content, path)
        payload = path.read_bytes()
        path.write_bytes(hashlib.sha256(payload).digest() + payload)
        assert saver.load() is None
    assert not mark.exists()
    path.write_bytes(hashlib.sha256(b"junk").digest() + b"junk")
    assert saver.load() is None
    path.write_bytes(b"")
    assert saver.load() is None
    saver.save({"step": 3})
    assert saver.load() == {"step": 3}


@settings(max_examples=100)
@given(how=mutations)
def test_a_mutated_checkpoint_is_ignored(tmp_path_factory: pytest.TempPathFactory, how: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.pt"
    saver = Checkpoint(path, "key", 0)
    saver.save({"step": 3, "x": torch.arange(5.0)})
    content = path.read_bytes()
    path.write_bytes(mutated(content, how))
    found = saver.load()
    assert found is None or mutated(content, how) == content


# words and prediction files


@settings(max_examples=300)
@given(st.lists(st.one_of(
    st.text(max_size=30),
    st.tuples(st.sampled_from(sorted(["beta", "lr", "seed", "epochs", "task", "out", "stack", "precision", "stall"])),
              st.text(alphabet="0123456789.,-+eE()logspacein.. :_naf'\"\\/;|&$\n\x00é", max_size=30)).map("=".join),
), max_size=4))  # fmt: skip
def test_any_words_are_settings_or_an_error_for_people(words: list[str]) -> None:
    with suppress(SettingsError):
        found = parse(words)
        assert parse(found.words()) == found


def _samples(folder: Path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(20, 3)), rng.integers(0, 3, 20)
    found = {kind: folder / f"test_logits.{kind}" for kind in ("npz", "csv", "tsv", "parquet", "safetensors")}
    np.savez(found["npz"], logits=z, labels=y)
    import pandas as pd
    from safetensors.numpy import save_file

    frame = pd.DataFrame(z, columns=[f"logit_{k}" for k in range(3)]).assign(label=y)
    frame.to_csv(found["csv"], index=False)
    frame.to_csv(found["tsv"], index=False, sep="\t")
    frame.to_parquet(found["parquet"])
    save_file({"logits": z, "labels": y}, found["safetensors"])
    return found


@pytest.mark.parametrize("kind", ["npz", "csv", "tsv", "parquet", "safetensors"])
@settings(max_examples=150)
@given(how=mutations)
def test_mutated_prediction_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, how: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "predictions"
    if not folder.exists():
        folder.mkdir()
        _samples(folder)
    original = (folder / f"test_logits.{kind}").read_bytes()
    path = folder / f"mutated_logits.{kind}"
    path.write_bytes(mutated(original, how))
    with named(str(path)):
        (found,) = read(str(path))
        assert found.Z_NK.shape[0] == len(found.y_N)
        assert not found.Z_NK.isnan().any()


def test_pickled_arrays_and_archives_that_point_outside_are_refused(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "objects.npz"
    np.savez(path, logits=np.array([Bomb()], dtype=object), labels=np.zeros(1, int), allow_pickle=True)
    with pytest.raises(DataError, match="never read"):
        formats.load(path)
    inside = tmp_path / "outside.npz"
    np.savez(tmp_path / "a.npz", logits=np.zeros((2, 2)), labels=np.zeros(2, int))
    with zipfile.ZipFile(tmp_path / "a.npz") as source, zipfile.ZipFile(inside, "w") as target:
        for name in source.namelist():
            target.writestr(f"../../{name}", source.read(name))
    before = sorted(p.name for p in tmp_path.parent.iterdir())
    with pytest.raises(DataError, match="no labels"):
        formats.load(inside)
    assert sorted(p.name for p in tmp_path.parent.iterdir()) == before


@pytest.mark.parametrize("key", ["../../KEY", "..", ".", "/etc/passwd", "", "*", "a/../b"])
def test_keys_that_point_outside_a_store_are_refused(filled: tuple[Path, list[Trial]], key: str) -> None:
    with pytest.raises(StoreError, match="holds no trial"):
        stored(f"{filled[0]}:{key}")


def test_a_task_named_like_a_path_stays_in_the_store(filled: tuple[Path, list[Trial]]) -> None:
    store = Store(filled[0], "read")
    trial = filled[1][0].model_copy(update={"task": "../../outside"})
    assert store.splits.of(trial).resolve().parent == (filled[0] / "splits").resolve()
    assert json.loads((filled[0] / "store.json").read_text())["schema"] == SCHEMA
