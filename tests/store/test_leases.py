"""Claims: several drivers on one store train nothing twice, and what a dead one left is taken over."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import driver
import faulty
import forked
import pytest

from calib_bench.store import leases
from calib_bench.store.leases import Leases, LostError
from calib_bench.system import files

LEASE = 0.6


def make(path: Path, owner: str = "a", lease: float = LEASE) -> Leases:
    return Leases(path, owner, lease)


def elsewhere(path: Path, name: str = "f" * 32, **content: Any) -> Path:
    """A claim as a process of another machine leaves it."""
    path = path / "claims" / f"{name}.json"
    known = {"owner": "other", "machine": "far away", "pid": 1, "start": "1", "keys": ["x", "y"]}
    files.write_bytes(path, files.sealed({**known, **content}))
    return path


def test_a_claim_excludes_every_overlap_until_it_is_released(tmp_path: Path) -> None:
    one, two = make(tmp_path), make(tmp_path, "b")
    held = one.acquire(["x", "y"])
    assert held is not None
    assert two.acquire(["y", "z"]) is None
    assert two.leased() == {"x", "y"}
    assert one.leased() == set()
    assert two.acquire(["z"]) is not None
    one.release(held)
    assert two.leased() == set()
    assert two.acquire(["y"]) is not None


def test_an_own_leftover_makes_way_at_once(tmp_path: Path) -> None:
    lost = make(tmp_path).acquire(["x"])
    assert lost is not None
    assert make(tmp_path).acquire(["x", "y"]) is not None
    lost.renew()
    assert lost.lost
    with pytest.raises(LostError, match="took over"):
        lost.check()


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_silent_claim_expires_by_the_readers_own_clock(
    tmp_path: Path, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, known = elsewhere(tmp_path), make(tmp_path)
    now = time.time()
    assert known.leased() == {"x", "y"}
    monkeypatch.setattr(time, "time", lambda: now + jump)
    os.utime(path, (now + jump, now + jump))
    for count in range(8):  # it beats: it lives for longer than a lease
        start = time.monotonic()
        path.with_suffix(".beat").write_text(str(count))
        assert known.acquire(["y"]) is None
        time.sleep(LEASE / 5)
    while known.leased():
        time.sleep(0.05)
    assert LEASE <= time.monotonic() - start < 10 * LEASE
    assert not path.exists()
    assert not path.with_suffix(".beat").exists()
    assert known.acquire(["y"]) is not None


def test_a_living_claim_beats_for_longer_than_its_lease(tmp_path: Path) -> None:
    held, other = make(tmp_path).acquire(["x"]), make(tmp_path, "b")
    end = time.monotonic() + 3 * LEASE
    while time.monotonic() < end:
        assert other.leased() == {"x"}
        time.sleep(0.05)
    assert held is not None
    assert not held.lost
    assert held.count > 6


def test_a_claim_of_a_process_that_is_gone_expires_at_once(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    own = {"machine": leases.machine(), "start": "12345"}
    elsewhere(tmp_path, "1" * 32, **own, pid=int(gone.stdout), keys=["x"])
    elsewhere(tmp_path, "2" * 32, **own, pid=os.getpid(), keys=["y"])  # the number was given to another process
    mine = {**own, "start": leases.process_start(os.getpid())}
    elsewhere(tmp_path, "3" * 32, **mine, pid=os.getpid(), keys=["z"])
    assert make(tmp_path, lease=1e6).leased() == {"z"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"keys": 3}', b"\xff\xfe", files.sealed({"keys": "a b"})])
def test_what_is_no_claim_holds_nothing_up(tmp_path: Path, content: bytes) -> None:
    files.write_bytes(tmp_path / "claims" / "x.json", content)
    files.write_bytes(tmp_path / "claims" / "x.beat", content)
    files.write_bytes(tmp_path / "claims" / "orphan.beat", b"1")
    known = make(tmp_path)
    assert known.leased() == set()
    assert known.acquire(["x"]) is not None
    assert not (tmp_path / "claims" / "orphan.beat").exists()


def _contend(path: Path, barrier: Any, rounds: int, name: int) -> None:
    """Hold each key at most once at a time: an exclusive file tells on whoever breaks that."""
    known = Leases(path, str(name), 60.0)
    for turn in range(rounds):
        barrier.wait()
        for key in ("x", "y"):
            held = known.acquire([key, f"{key}{turn}"])
            if held is not None:
                inside = path / f"inside-{key}"
                with inside.open("x"):
                    time.sleep(0.002)
                inside.unlink()
                (path / f"done-{key}-{turn}-{name}").touch()
                known.release(held)


def test_eight_processes_never_hold_one_claim_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, rounds = context.Barrier(8), 20
    processes = [context.Process(target=_contend, args=(tmp_path, barrier, rounds, i)) for i in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    for key in ("x", "y"):
        for turn in range(rounds):
            assert list(tmp_path.glob(f"done-{key}-{turn}-*")), (key, turn)
    assert not list((tmp_path / "claims").iterdir())


WORDS = ["task=digits", "model=mlp_16", "beta=0.3,1", "lr_rel=0.25,0.5", "seed=0,1", "epochs=40", "extend=0"]
WORDS += ["interventions=no", "objective=cross_entropy", "calibrator=temperature_scaling", "wandb=disabled", "stack=1"]
WORDS += ["workers=1"]


def drive(out: Path, *words: str) -> forked.Run:
    return forked.Run(driver.main, [*WORDS, f"out={out}", *words])


def ended(run: forked.Run) -> str:
    text, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    return text


def trained(text: str) -> int:
    lines = [line for line in text.splitlines() if line.startswith("trained")]
    return int(lines[0].split()[1]) if lines else 0


def logits(out: Path) -> dict[str, str]:
    return faulty.logits(next(out.iterdir()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("alone")
    assert trained(ended(drive(out))) == len(logits(out)) > 8
    return logits(out)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.soak)])
def test_drivers_share_a_store_and_train_nothing_twice(alone: dict[str, str], tmp_path: Path, count: int) -> None:
    texts = [ended(run) for run in [drive(tmp_path) for _ in range(count)]]
    assert sum(trained(text) for text in texts) == len(alone)
    assert logits(tmp_path) == alone
    (folder,) = tmp_path.iterdir()
    assert not list((folder / "claims").iterdir())
    assert not list((folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_killed_drivers_trials_are_taken_over_while_the_other_runs(alone: dict[str, str], tmp_path: Path) -> None:
    first, second = drive(tmp_path, "checkpoint=0.3"), drive(tmp_path, "checkpoint=0.3")
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*/claims/*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    text = ended(second)
    assert logits(tmp_path) == alone
    assert 0 < trained(text) <= len(alone)


def test_a_claim_names_no_machine_user_or_path(tmp_path: Path) -> None:
    held = make(tmp_path).acquire(["x"])
    assert held is not None
    path = tmp_path / "claims" / held.name
    content = json.loads(path.read_text())
    assert content.keys() == {"owner", "machine", "pid", "start", "keys", "sha256"}
    assert os.uname().nodename not in path.read_text()
