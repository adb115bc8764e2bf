"""Run folders in an object store: in memory, in a real S3 server on the loopback, and in one that is slow or fails."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import torch

from calib_bench.core.settings import parse
from calib_bench.core.study import Table
from calib_bench.errors import SettingsError, StoreError
from calib_bench.report import tables
from calib_bench.store import mirror
from calib_bench.store.leases import Leases
from calib_bench.store.store import Store
from calib_bench.system import object_store
from calib_bench.system.object_store import Bucket
from tests.store.test_leases import WORDS, trained
from tests.store.test_store import DATA, outcome, put, trial

DRIVER = str(Path(__file__).parents[1] / "driver.py")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(object_store, "PAUSES", (0.01, 0.02, 0.04))


@pytest.fixture
def memory() -> Path:
    fsspec.filesystem("memory").store.clear()
    return Path("memory://runs/digits-separation")


def another_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "another"))


def test_addresses() -> None:
    settings = parse(["out=s3://bucket/some/runs"])
    assert object_store.url_of(settings.folder) == "s3://bucket/some/runs/digits-separation"
    assert settings.words() == ["out=s3://bucket/some/runs"]
    assert object_store.url_of(Path("/a/b")) is None
    with pytest.raises(SettingsError, match="nosuch"):
        Bucket("nosuch://x").names()


def test_a_bucket_puts_gets_lists_and_deletes(memory: Path) -> None:
    bucket = Bucket("memory://box/in")
    assert bucket.names() == set()
    assert bucket.get("a") is None
    bucket.put("a", b"1")
    bucket.put("b/c", b"2")
    bucket.put("a", b"3")
    assert bucket.names() == {"a", "b/c"}
    assert bucket.names("b") == {"b/c"}
    assert (bucket.get("a"), bucket.get("b/c")) == (b"3", b"2")
    bucket.delete("a")
    bucket.delete("a")
    assert bucket.names() == {"b/c"}


def test_another_machine_reads_what_was_written(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Store(memory)
    for seed in range(3):
        put(here, seed)
    here.failures.raised(trial(7), ValueError("no"))
    another_machine(monkeypatch, tmp_path)
    there = Store(memory, "read")
    assert there.path != here.path
    assert [there.has(trial(seed)) for seed in range(4)] == [True, True, True, False]
    assert there.record(trial(1)) == here.record(trial(1))
    assert all(torch.equal(z, outcome(1).logits[name]) for name, z in there.logits(trial(1)).items())
    assert list(there.failures.now()) == [trial(7).key]
    put(here, 3)
    assert not there.has(trial(3))
    there.refresh()
    assert there.has(trial(3))
    assert there.audit() == []


def test_trial_json_is_the_commit(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    real = Bucket.put

    def dies(self: Bucket, name: str, content: bytes) -> None:
        sent.append(name)
        if name.endswith("logits.safetensors"):
            raise StoreError("the machine is gone")
        real(self, name, content)

    here = Store(memory)
    monkeypatch.setattr(Bucket, "put", dies)
    with pytest.raises(StoreError, match="gone"):
        put(here, 0)
    monkeypatch.setattr(Bucket, "put", real)
    assert sent == [f"trials/{trial().key}/{name}" for name in ("history.parquet", "logits.safetensors")]
    cache = os.environ["CALIB_BENCH_CACHE"]
    another_machine(monkeypatch, tmp_path)
    assert not Store(memory, "read").has(trial())
    monkeypatch.setenv("CALIB_BENCH_CACHE", cache)
    assert Store(memory).has(trial())  # it was finished: opening again sends it
    another_machine(monkeypatch, tmp_path)
    assert Store(memory, "read").has(trial())


@pytest.mark.parametrize("name", ["logits.safetensors", "history.parquet", "trial.json"])
def test_a_broken_object_is_named_set_aside_and_only_its_trial_redone(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    here, bucket = Store(memory), Bucket("memory://runs/digits-separation")
    for seed in range(2):
        put(here, seed)
    content = bucket.get(f"trials/{trial(1).key}/{name}")
    assert content is not None
    bucket.put(f"trials/{trial(1).key}/{name}", content[: len(content) // 2])
    another_machine(monkeypatch, tmp_path)
    there = Store(memory)
    (message,) = there.audit()
    assert f"{trial(1).key}/{name}" in message
    there.refresh()
    assert [there.has(trial(seed)) for seed in range(2)] == [True, False]
    put(there, 1)
    assert Store(memory).audit() == []


def test_tables_of_a_report_are_read(memory: Path) -> None:
    folder = Store(memory).path / "report" / "tables"
    tables.save({"one": Table("One", pd.DataFrame({"a": [1]}))}, folder)
    assert tables.read(memory)["one"].frame["a"].tolist() == [1]


def test_a_folder_that_is_no_more_leaves_nothing_behind(memory: Path) -> None:
    put(Store(memory), 0)
    fsspec.filesystem("memory").store.clear()
    assert not Store(memory, "peek").has(trial())
    with pytest.raises(StoreError, match="memory://runs/digits-separation is not a run folder"):
        Store(memory, "read")
    assert not Store(memory).has(trial())


def test_a_checkpoint_goes_on_elsewhere(memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Store(memory)
    path = here.checkpoints.begin([trial()])
    path.write_bytes(b"state")
    here.checkpoints.keep(path)
    another_machine(monkeypatch, tmp_path)
    there = Store(memory)
    assert there.checkpoints.unfinished() == [[trial().key]]
    assert there.checkpoints.begin([trial()]).read_bytes() == b"state"
    there.write(outcome(), DATA, {})
    there.checkpoints.finish(there.checkpoints.path([trial()]))
    here.refresh()
    assert Bucket("memory://runs/digits-separation").names("checkpoints") == set()


def test_claims_in_an_object_store(memory: Path) -> None:
    one, two = Leases(memory, "a", 60.0), Leases(memory, "b", 60.0)
    held = one.acquire(["x", "y"])
    assert held is not None
    assert two.acquire(["y"]) is None
    assert two.leased() == {"x", "y"}
    one.release(held)
    assert two.acquire(["y"]) is not None
    assert Leases(memory, "c", 60.0).leased() == {"y"}


def test_what_fails_for_a_while_is_tried_again_and_then_named(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(fsspec.filesystem("memory"))
    real, left = kind.pipe_file, [3]

    def flaky(self: Any, path: str, value: bytes, **more: Any) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise ConnectionResetError("hung up")
        real(self, path, value, **more)

    monkeypatch.setattr(kind, "pipe_file", flaky)
    bucket = Bucket("memory://box")
    bucket.put("a/b", b"1")
    assert bucket.get("a/b") == b"1"
    left[0] = 4
    with pytest.raises(StoreError, match="memory://box/a/b cannot be written, after 4 attempts: ConnectionResetError"):
        bucket.put("a/b", b"2")
    assert bucket.get("a/b") == b"1"


# a real server


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("moto")
    pytest.importorskip("flask")
    code = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    address = next(line.split()[-1] for line in lines if "Running on" in line)
    threading.Thread(target=lambda: [None for _ in lines], daemon=True).start()
    urllib.request.urlopen(urllib.request.Request(f"{address}/bucket", method="PUT"), timeout=30)
    yield address
    process.kill()
    process.wait()


def point_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)


class _Slow(socketserver.BaseRequestHandler):
    """A way to a server that takes its time, and hangs up on one of five."""

    beyond: tuple[str, int]
    seconds: float
    came: Iterator[int]

    def handle(self) -> None:
        with socket.create_connection(self.beyond) as other:
            if next(self.came) % 5 == 4:
                self.request.recv(1)
                return
            threading.Thread(target=self._carry, args=(other, self.request), daemon=True).start()
            self._carry(self.request, other, self.seconds)

    @staticmethod
    def _carry(here: socket.socket, there: socket.socket, seconds: float = 0.0) -> None:
        with suppress(OSError):
            while content := here.recv(1 << 16):
                time.sleep(seconds)
                there.sendall(content)
            there.shutdown(socket.SHUT_WR)


@contextmanager
def way_to(server: str, seconds: float) -> Iterator[tuple[str, Iterator[int]]]:
    """The address of a slow way to a server, and the counter of who came that way."""
    host, _, port = server.removeprefix("http://").partition(":")
    came = itertools.count()
    own = {"beyond": (host, int(port)), "seconds": seconds, "came": came}
    slow = socketserver.ThreadingTCPServer(("127.0.0.1", 0), type("Slow", (_Slow,), own))
    slow.daemon_threads = True
    threading.Thread(target=slow.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{slow.server_address[1]}", came
    finally:
        slow.shutdown()
        slow.server_close()


@pytest.mark.slow
def test_a_slow_server_that_loses_requests_holds_what_was_written(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way_to(server, 0.1) as (address, came):
        point_to(address, monkeypatch)
        url = Path("s3://bucket/slow")
        here = Store(url)
        for seed in range(3):
            put(here, seed)
        another_machine(monkeypatch, tmp_path)
        there = Store(url, "read")
        for seed in range(3):
            assert there.has(trial(seed))
            for name, z in there.logits(trial(seed)).items():
                assert torch.equal(z, outcome(seed).logits[name])
        one, two = Leases(url, "a", 60.0), Leases(url, "b", 60.0)
        held = one.acquire(["x"])
        assert held is not None
        assert two.acquire(["x"]) is None
        assert next(came) > 10


@pytest.mark.slow
def test_s3_holds_a_store_and_its_claims(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_to(server, monkeypatch)
    url = Path("s3://bucket/runs/one")
    here = Store(url)
    put(here, 0)
    assert Bucket("s3://bucket/runs").names() == {
        "one/store.json",
        *(f"one/trials/{trial().key}/{name}" for name in ("history.parquet", "logits.safetensors", "trial.json")),
    }
    another_machine(monkeypatch, tmp_path)
    there = Store(url, "read")
    assert there.has(trial())
    assert all(torch.equal(z, outcome().logits[name]) for name, z in there.logits(trial()).items())
    one, two = Leases(url, "a", 60.0), Leases(url, "b", 60.0)
    held = one.acquire(["x"])
    assert held is not None
    assert two.acquire(["x"]) is None
    one.release(held)
    assert two.acquire(["x"]) is not None


@pytest.mark.soak
@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_two_drivers_on_s3_train_nothing_twice_and_a_third_finds_all_done(
    server: str, seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with way_to(server, seconds) if seconds else nullcontext((server, None)) as (address, _):
        point_to(address, monkeypatch)
        _two_drivers_and_a_third(f"drivers{seconds}", tmp_path)


def _two_drivers_and_a_third(folder: str, tmp_path: Path) -> None:
    url = f"s3://bucket/{folder}"
    words = [*(word for word in WORDS if not word.startswith("epochs")), "epochs=5", f"out={url}"]
    texts = []
    for wave in (2, 1):
        drivers = []
        for number in range(wave):
            own = {**os.environ, "CALIB_BENCH_CACHE": str(tmp_path / f"machine{wave}{number}")}
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            drivers.append(subprocess.Popen([sys.executable, DRIVER, *words], env=own, **pipes))
        for driver in drivers:
            text, _ = driver.communicate(timeout=200)
            assert driver.returncode == 0, text
            texts.append(text)
    names = Bucket(url).names()
    done = [name for name in names if name.endswith("/trial.json")]
    assert sum(trained(text) for text in texts[:2]) == len(done) > 8
    assert trained(texts[2]) == 0
    assert not [name for name in names if "/claims/" in name or "/checkpoints/" in name]
    local = tmp_path / "local"
    subprocess.run([sys.executable, DRIVER, *words[:-1], f"out={local}"], check=True, timeout=200)
    for path in local.glob("*/trials/[!.]*/logits.safetensors"):
        name = path.relative_to(local).as_posix()
        assert Bucket(url).get(name) == path.read_bytes(), name


class _Bad(BaseHTTPRequestHandler):
    """A server that is slow, then fails."""

    seconds = 0.0

    def _answer(self) -> None:
        time.sleep(self.seconds)
        self.send_error(503)

    do_GET = do_PUT = do_HEAD = do_POST = _answer

    def log_message(self, *_: object) -> None: ...


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 3.0])
def test_a_server_that_fails_or_hangs_is_an_error_within_bounds(
    seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = ThreadingHTTPServer(("127.0.0.1", 0), type("Bad", (_Bad,), {"seconds": seconds}))
    threading.Thread(target=bad.serve_forever, daemon=True).start()
    point_to(f"http://127.0.0.1:{bad.server_port}", monkeypatch)
    monkeypatch.setattr(object_store, "TIMEOUT", 1.0)
    monkeypatch.setattr(object_store, "PAUSES", (0.05,))
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://bucket/x/a cannot be written, after 2 attempts"):
        Bucket("s3://bucket/x").put("a", b"1")
    assert time.monotonic() - start < 60
    bad.shutdown()


def test_the_copy_is_where_it_is_told_to_be(memory: Path, tmp_path: Path) -> None:
    store = Store(memory)
    assert store.path.parent == tmp_path / "cache"
    assert mirror.cache() == tmp_path / "cache"
    shutil.rmtree(store.path)
