"""Trials that are stored together: one file, read as folders are, damaged one by one, and made of older stores."""

from __future__ import annotations

import json
import multiprocessing
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
import synthetic
import torch
from faulty import damage, unpack
from hypothesis import HealthCheck, given, settings

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.core.trial import NUMERICS
from calib_bench.errors import StoreError
from calib_bench.evaluation.predictions import read_trial, stored
from calib_bench.store import places, upkeep
from calib_bench.store.store import SCHEMA, Store
from calib_bench.system.object_store import Bucket
from tests.store.test_damage import mutated, mutations
from tests.store.test_store import DATA, outcome, put, trial

NAMES = ("history.parquet", "logits.safetensors", "trial.json")


def parsed(files: dict[str, bytes]) -> dict[str, Any]:
    """Files by name, the record as what it says: a space of it may have become another."""
    return files | {"trial.json": json.loads(files["trial.json"])}


def put_together(where: Store, seeds: Sequence[int], diverged: Sequence[int] = ()) -> None:
    results = []
    for seed in seeds:
        lost = seed in diverged
        metadata = {} if lost else {"selection": {"log_loss": 1.0 + seed}}
        results.append((outcome(seed, "diverged" if lost else "done"), metadata))
    where.write_together(results, DATA)


def names(where: Store) -> list[str]:
    return sorted(path.name for path in (where.path / "trials").iterdir())


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    made = Store(tmp_path / "run")
    put_together(made, range(3))
    return made


def test_they_are_one_file_and_read_as_those_alone(filled: Store, tmp_path: Path) -> None:
    alone = Store(tmp_path / "alone")
    for seed in range(3):
        put(alone, seed)
    (name,) = names(filled)
    again = Store(filled.path, "read")
    assert again.stored_keys() == alone.stored_keys() == {trial(seed).key for seed in range(3)}
    with zipfile.ZipFile(filled.path / "trials" / name) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == sorted(f"{key}/{file}" for key in again.stored_keys() for file in NAMES)
    for one in map(trial, range(3)):
        assert again.has(one)
        assert again.trial(one.key) == one
        assert again.record(one) == alone.record(one)
        assert again.files(one) == alone.files(one)
        assert again.history(one).equals(alone.history(one))
        assert all(torch.equal(z, alone.logits(one)[split]) for split, z in again.logits(one).items())
        assert again.scores("log_loss")(one) == alone.scores("log_loss")(one)
    assert again.audit() == []


def test_a_diverged_one_has_no_logits(tmp_path: Path) -> None:
    made = Store(tmp_path)
    put_together(made, range(2), diverged=[1])
    assert made.logits(trial(1)) == {}
    assert [made.state(trial(seed)) for seed in range(3)] == ["done", "diverged", "missing"]


def test_whoever_has_the_folder_open_sees_what_comes_at_once(tmp_path: Path) -> None:
    one, two = Store(tmp_path), Store(tmp_path)
    for first in range(0, 40, 2):
        assert not one.has(trial(first))
        put_together(two, [first, first + 1])
        assert one.has(trial(first))
        assert one.has(trial(first + 1))


def test_what_is_stored_is_not_written_again(filled: Store) -> None:
    before = names(filled)
    put_together(filled, [0, 1, 2])
    assert names(filled) == before
    put_together(filled, [2, 3])
    assert set(names(filled)) - set(before) == {trial(3).key}, "one alone has a folder"
    put_together(Store(filled.path), [3, 4, 5])
    assert len(names(filled)) == 3
    assert filled.has(trial(5))


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_one_is_named_and_only_it_is_redone(filled: Store, name: str) -> None:
    place = filled.place(trial(1).key)
    assert place is not None
    path = damage(place, name)
    with pytest.raises(StoreError, match=r"damaged|truncated"):
        Store(filled.path, "read").has(trial(1))
    again = Store(filled.path)
    (message,) = again.audit()
    assert path in message
    assert [again.has(trial(seed)) for seed in range(3)] == [True, False, True]
    assert [Store(filled.path).has(trial(seed)) for seed in range(3)] == [True, False, True]
    assert len(list((filled.path / "damaged").iterdir())) == 1
    put(again, 1)
    assert Store(filled.path).audit() == []
    assert torch.equal(again.logits(trial(1))["test"], outcome(1).logits["test"])


def test_an_archive_that_lists_nothing_is_set_aside_whole(filled: Store) -> None:
    (name,) = names(filled)
    path = filled.path / "trials" / name
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(StoreError, match=name):
        Store(filled.path, "read").has(trial(0))
    again = Store(filled.path)
    (message,) = again.audit()
    assert name in message
    assert not any(again.has(trial(seed)) for seed in range(3))
    put_together(again, range(3))
    assert Store(filled.path).audit() == []


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(how=mutations)
def test_mutated_bytes_are_read_as_they_were_or_refused_by_name(filled: Store, how: Any) -> None:
    (name,) = names(filled)
    path = filled.path / "trials" / name
    content = path.read_bytes()
    expected = {seed: filled.files(trial(seed)) for seed in range(3)}
    try:
        path.write_bytes(mutated(content, how))
        found = Store(filled.path, "read")
        for seed in range(3):
            try:
                assert found.has(trial(seed)), "a trial is gone without a word"
                assert parsed(found.files(trial(seed))) == parsed(expected[seed])
            except StoreError as error:
                assert name in str(error)  # noqa: PT017
    finally:
        path.write_bytes(content)


def test_foreign_files_and_names_are_refused(filled: Store) -> None:
    folder = filled.path / "trials"
    (name,) = names(filled)
    (folder / name).rename(folder / f"{'0' * 20}.zip")
    with pytest.raises(StoreError, match="list of trials is not the one"):
        Store(filled.path, "read").has(trial(0))
    (folder / f"{'0' * 20}.zip").rename(folder / name)
    with zipfile.ZipFile(folder / name, "a") as archive:
        archive.writestr(f"{trial(0).key}/../../outside", b"")
    with pytest.raises(StoreError, match="foreign"):
        Store(filled.path, "read").has(trial(0))


def test_what_a_killed_process_left_half_written_is_no_trial_and_goes_once_it_is_stored(filled: Store) -> None:
    (name,) = names(filled)
    left, needed = (filled.path / "trials" / f".{one}.0a1b2c3d" for one in (name, f"{'0' * 20}.zip"))
    for path in (left, needed):
        path.write_bytes(b"half")
    assert Store(filled.path).audit() == []
    assert not left.exists()
    assert needed.exists(), "another driver may be at it"


def _write_all(path: Path, barrier: Any, first: int) -> None:
    made = Store(path)
    barrier.wait()
    for start in range(first, 40, 4):
        put_together(made, range(start, start + 4))


def test_processes_that_write_overlapping_stacks_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    writers = [context.Process(target=_write_all, args=(tmp_path, barrier, first)) for first in (0, 0, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    again = Store(tmp_path)
    assert again.audit() == []
    assert all(again.has(trial(seed)) for seed in range(40))
    assert not [name for name in names(again) if name.startswith(".")]


# older stores


@pytest.fixture
def older(filled: Store) -> Path:
    """A run folder as the first versions left it: a folder a trial."""
    put_together(filled, range(3, 6))
    unpack(filled.path)
    assert len(list(filled.path.glob("trials/*/trial.json"))) == 6
    return filled.path


def test_an_older_store_is_read_and_added_to(older: Path) -> None:
    assert all(Store(older, "read").has(trial(seed)) for seed in range(6))
    assert json.loads((older / "store.json").read_text())["schema"] == 1, "reading changes nothing"
    made = Store(older)
    assert json.loads((older / "store.json").read_text()) == {"schema": SCHEMA, "numerics": NUMERICS}
    put_together(made, range(4, 8))
    assert made.audit() == []
    assert len(names(made)) == 7


def test_upgrade_packs_a_store_and_no_reader_notices(
    older: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(upkeep, "ARCHIVE_TRIALS", 4)
    reader = Store(older, "read")
    expected = [reader.files(trial(seed)) for seed in range(6)]
    late = Store(older, "read")
    assert main(["upgrade", str(older)]) == 0
    assert "6 trials" in capsys.readouterr().out
    assert len(names(reader)) == 2
    for store in (reader, late, Store(older, "read")):
        assert [store.files(trial(seed)) for seed in range(6)] == expected
        assert all(store.has(trial(seed)) for seed in range(6))
    assert main(["upgrade", str(older)]) == 0
    assert capsys.readouterr().out.startswith("0 trials")
    assert Store(older).audit() == []


def test_upgrade_leaves_what_is_broken_or_large_and_goes_on_where_it_was_stopped(
    older: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(older)
    broken = store.place(trial(0).key)
    assert broken is not None
    path = damage(broken, "logits.safetensors")
    monkeypatch.setattr(upkeep, "ARCHIVE_BYTES", 1 << 16)
    large = older / "trials" / trial(4).key
    (large / "arrays.safetensors").write_bytes(bytes(1 << 16))
    packed = {trial(seed).key: store.files(trial(seed)) for seed in (2, 3)}
    places.pack(older / "trials", list(packed), packed.__getitem__)  # as it is when stopped before folders are removed
    assert main(["upgrade", str(older)]) == 2
    done = capsys.readouterr()
    assert "4 trials" in done.out
    assert path in done.err
    again = Store(older, "read")
    assert {name for name in names(again) if not name.endswith(".zip")} == {trial(0).key, large.name}
    assert all(again.has(trial(seed)) for seed in range(1, 6))


def test_reported_tables_of_an_older_store_and_of_the_upgraded_one_are_equal(tmp_path: Path) -> None:
    words = ("beta=0.3,1", "seed=0,1", "objective=cross_entropy", "calibrator=temperature_scaling", "lr=0.1")
    store, asked = synthetic.make(tmp_path / "run", *words, test=60)
    study = registry.study("separation")
    before = study.analyse(asked, store)
    count = len(list(store.path.rglob("*")))
    packed, broken = Store(store.path, "read").upgrade()
    assert (packed, broken) == (len(store.stored_keys()), [])
    assert len(list(store.path.rglob("*"))) < count - 3 * packed
    again = Store(store.path, "read")
    after = study.analyse(asked, again)
    assert before.tables.keys() == after.tables.keys()
    for name, table in before.tables.items():
        assert _lasting(table.frame) == _lasting(after.tables[name].frame), name
    key = min(again.stored_keys())
    for place in (f"{store.path}:{key[:12]}", f"{store.path}/trials/{key}", f"{store.path}/trials/{key}/trial.json"):
        found = stored(place)
        assert found is not None
        assert found[1] == key
        (read,) = read_trial(*found, "test").sha256.items()
        assert read == next(iter(again.digests(again.trial(key)).items()))


def _lasting(frame: Any) -> str:
    return str(frame.drop(columns=[name for name in frame.columns if "seconds" in name]).to_csv())


# in an object store


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    fsspec.filesystem("memory").store.clear()
    return Path("memory://runs/packed")


def test_another_machine_reads_and_mends_archives(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, bucket = Store(memory), Bucket("memory://runs/packed")
    put_together(here, range(2))
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "another"))
    there = Store(memory)
    put_together(here, range(2, 4))
    assert [there.has(trial(seed)) for seed in range(3)] == [True, True, False]
    there.refresh()
    assert there.record(trial(2)) == here.record(trial(2))
    name = min(bucket.names("trials"))
    content = bucket.get(name)
    assert content is not None
    bucket.put(name, content[: len(content) // 2])
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "third"))
    with pytest.raises(StoreError, match="list of trials"):
        Store(memory, "read").has(trial(0))
    third = Store(memory)
    (message,) = third.audit()
    assert Path(name).name in message
    assert sum(third.has(trial(seed)) for seed in range(4)) == 2
    put_together(third, range(4))
    assert Store(memory).audit() == []


def test_what_could_not_be_sent_is_sent_when_the_folder_is_opened_again(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(self: Bucket, name: str, content: bytes) -> None:
        raise StoreError("the machine is gone")

    here = Store(memory)
    with monkeypatch.context() as broken:
        broken.setattr(Bucket, "put", dies)
        with pytest.raises(StoreError, match="gone"):
            put_together(here, range(2))
    assert Bucket("memory://runs/packed").names("trials") == set()
    assert Store(memory).has(trial(0))
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "another"))
    assert Store(memory, "read").has(trial(1))


def test_upgrade_in_an_object_store_and_a_machine_that_still_has_the_folders(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, bucket = Store(memory), Bucket("memory://runs/packed")
    for seed in range(3):
        put(here, seed)
    cache = os.environ["CALIB_BENCH_CACHE"]
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "another"))
    assert Store(memory, "read").upgrade() == (3, [])
    packed = bucket.names("trials")
    assert [name.endswith(".zip") for name in packed] == [True]
    monkeypatch.setenv("CALIB_BENCH_CACHE", cache)
    again = Store(memory)
    assert all(again.has(trial(seed)) for seed in range(3))
    assert bucket.names("trials") == packed, "what was packed is not sent again"
