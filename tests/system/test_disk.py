"""Disks that are full or may not be written, clocks that jump, and processes killed at any moment: nothing is lost."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import driver
import forked
import pytest
from faulty import TINY, call, logits, remount, small_disk, started, unpack
from synthetic import sketched

from calib_bench.cli import main
from calib_bench.report import reuse
from calib_bench.store.store import Store

FORMATS = ("png",)  # for which there may be no space
SHORT = [w for w in TINY if not w.startswith(("beta", "lr_rel", "epochs"))]
SHORT += ["beta=1", "lr_rel=0.5", "objective=cross_entropy"]
FEW = [*SHORT, "epochs=4"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    driver.main([*FEW, f"out={out}", "workers=1"])
    return out / "digits-separation"


@pytest.mark.slow
@sketched("over_beta", "separation")
def test_a_full_disk_stops_the_run_with_one_line_and_more_room_lets_it_go_on(
    undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, seen = logits(undisturbed), set()
    with small_disk(tmp_path / "disk", "32k") as disk:
        folder = disk / "digits-separation"
        for size in ("48k", "96k", "160k", "300k", "900k"):
            remount(disk, f"size={size}")
            code = main(["run", *FEW, f"out={disk}", "workers=1"])
            error = capfd.readouterr().err
            if code:
                assert code == 2
                assert "no space is left" in error
                assert error.count("\n") == 1, error
            stored = logits(folder)
            assert stored.items() <= whole.items()
            assert len(stored) >= len(seen), "what was stored is gone"
            seen = stored.keys()
            assert not [p for p in folder.rglob(".*") if p.name != ".gitignore"], "half a file is left"
        remount(disk, "size=64m")
        assert main(["run", *FEW, f"out={disk}", "workers=1"]) == 0
        assert logits(folder) == whole
        assert not list((folder / "damaged").glob("*"))
        (folder / reuse.KEPT).unlink()  # with it the report is known to be there, and nothing is to be written
        remount(disk, "ro")
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        capfd.readouterr()
        assert main(["run", *SHORT, "epochs=5", f"out={disk}", "workers=1"]) == 2
        assert "cannot be written" in capfd.readouterr().err
        assert main(["report", str(folder)]) == 2
        assert "cannot be written" in capfd.readouterr().err
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def limited(size: int, *words: str) -> int:
    """A command that may write no file of more bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return main(words)


@pytest.mark.slow
def test_a_file_size_limit_is_a_full_disk(undisturbed: Path, tmp_path: Path) -> None:
    """Where no file system can be mounted, this is what runs out."""
    done = forked.Run(limited, 20 << 10, "run", *FEW, f"out={tmp_path}", "workers=1")
    said, error = done.communicate()
    assert done.returncode == 2, said + error
    assert "no space is left" in error
    assert logits(tmp_path / "digits-separation").items() <= logits(undisturbed).items()
    assert Store(tmp_path / "digits-separation", "read").audit() == []


CLOCK = '''
"""Every reading of the calendar's clock is another time, most of them in the past."""
import random, time

_draw, _real = random.Random(0), time.time
time.time = lambda: _real() + _draw.choice([-1e9, -86400.0, -1.0, 0.0, 3600.0, 1e9])
time.time_ns = lambda: int(time.time() * 1e9)
'''


@pytest.mark.slow
@pytest.mark.soak
def test_a_clock_that_jumps_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    words = ["run", *FEW, f"out={tmp_path}", "checkpoint=0", "stall=60"]
    done = call(*words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "digits-separation"
    assert logits(folder) == logits(undisturbed)
    unpack(folder)
    for number, path in enumerate(sorted(folder.rglob("*"))):  # files of yesterday, of tomorrow, and of 1970
        os.utime(path, (0, 0) if number % 3 == 0 else (2**32 * (number % 3), 2**32 * (number % 3)))
    shutil.rmtree(next(iter(sorted(folder.glob("trials/*")))))
    done = call(*words, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "1 to run" in done.stdout
    assert logits(folder) == logits(undisturbed)
    assert Store(folder, "read").audit() == []


MOMENTS = ("", "claims/", "checkpoints/", "trials/", "report/")
"""What must be new in the run folder before a kill's clock starts: else, on a busy machine, all fall on imports."""


def seen(folder: Path) -> set[tuple[str, int]]:
    """Every file in the run folder, and its version."""
    found = set()
    for where, folders, names in os.walk(folder):  # which passes over what is removed meanwhile
        for path in (Path(where, name) for name in [*folders, *names]):
            with suppress(FileNotFoundError):
                found.add((path.relative_to(folder).as_posix(), path.stat().st_mtime_ns))
    return found


def kill_until_done(words: list[str], out: Path, kills: int, draw: random.Random, longest: float) -> Counter[str]:
    """Start the command over and over, each time killed with all its workers at a random moment; how often at which."""
    folder, done = out / "digits-separation", Counter[str]()
    for _ in range(kills):
        moment, before = draw.choice(MOMENTS), seen(folder)
        with started("run", *words, f"out={out}") as run:
            while run.poll() is None and moment and not any(moment in name for name, _ in seen(folder) - before):
                time.sleep(0.02)
            try:
                run.wait(draw.uniform(0, longest / 4 if moment else longest))
                assert run.returncode == 0, run.communicate()[1]
                return done
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                done[moment] += 1
        stored = logits(folder)
        if (folder / "store.json").exists():
            store = Store(folder, "read")
            assert all(store.has(store.trial(key)) for key in stored)
    return done


@pytest.mark.slow
@pytest.mark.soak
def test_killed_at_random_moments_fifty_times_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Two workers, several stacks, a checkpoint at every step, and every part of a run under the knife."""
    words = [w for w in TINY if not w.startswith(("model", "epochs"))]
    words += ["model=mlp_16,mlp_12", "epochs=12", "workers=2", "checkpoint=0", "stack=4"]
    start = time.monotonic()
    whole = call("run", *words, f"out={tmp_path / 'whole'}", timeout=1200)
    assert whole.returncode == 0, whole.stderr
    longest = time.monotonic() - start
    draw, kills, rounds = random.Random(0), Counter[str](), 0
    expected = logits(tmp_path / "whole" / "digits-separation")
    while kills.total() < 50:
        out = tmp_path / f"killed-{rounds}"
        kills += kill_until_done(words, out, 50 - kills.total(), draw, longest)
        done = call("run", *words, f"out={out}", timeout=1200)
        assert done.returncode == 0, done.stderr
        assert logits(out / "digits-separation") == expected
        assert not list((out / "digits-separation").glob("damaged/*"))
        assert not list((out / "digits-separation").glob("failed/*"))
        rounds += 1
    assert set(kills) == set(MOMENTS), kills
    same = [(tmp_path / name / "digits-separation" / "report" / "tables") for name in ("whole", "killed-0")]
    for table in same[0].glob("*.csv"):
        assert table.read_bytes() == (same[1] / table.name).read_bytes(), table.name
