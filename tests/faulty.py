"""Runs that are to go wrong: commands in processes of their own, and an objective that does what it is told."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calib_bench.store.places import Member, Place
from calib_bench.store.store import Store
from calib_bench.system import files

ROOT = Path(__file__).parents[1]
TINY = [
    "task=digits", "model=mlp_16", "beta=0.3,1", "lr_rel=0.25,0.5", "seed=0,1", "epochs=4", "extend=0",
    "interventions=no", "calibrator=temperature_scaling", "wandb=disabled",
]  # fmt: skip
OBJECTIVE = '''
"""Cross-entropy, until a certain strength is met while the file `armed` lies beside this one and says what to do."""

import os
import signal
import time
from pathlib import Path

from torch.nn.functional import cross_entropy

from calib_bench.core.baseline import Objective


def faulty(Z, y, strength):
    armed = Path(__file__).with_name("armed")
    if (strength == 0.5).any() and armed.exists():
        FAULTS[armed.read_text()]()
    loss = cross_entropy(Z.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return (1 - strength) * loss


def raised():
    raise ValueError("a <b>bad</b> strength")


HELD = []


def leaked():
    """Never lets go of what it takes, in a process that may have 256 MiB more than it has."""
    import resource

    if not HELD:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + (1 << 28), resource.RLIM_INFINITY))
    HELD.append(bytearray(1 << 26))


FAULTS = {
    "leaked": leaked,
    "raised": raised,
    "memory": lambda: bytearray(1 << 46),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stalled": lambda: time.sleep(600),
}
BASELINE = Objective(faulty, strengths=(0.1,), reference="guo2017", title="Faulty", valid=(0, 0.9))
'''


def plug(folder: Path) -> Path:
    """A folder with the objective `faulty`, whose strength 0.5 does what the file `armed` says, where there is one."""
    folder.mkdir(parents=True)
    (folder / "faulty.py").write_text(OBJECTIVE)
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "calib_bench", *words]


def call(*words: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    env = {**os.environ, **environment}
    return subprocess.run(command(*words), capture_output=True, text=True, check=False, env=env, timeout=timeout)


@contextmanager
def started(*words: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A command under way, in a process group of its own, which Ctrl-C and a closing terminal reach whatever the tests
    ignore; it does not outlive the block."""
    env = {**os.environ, **environment}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command(*words), env=env, start_new_session=True, preexec_fn=_heard, **pipes)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
        run.communicate()


def _heard() -> None:
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def stored(folder: Path) -> dict[str, dict[str, bytes]]:
    """Every stored trial's files by name, by key."""
    store = Store(folder, "peek")
    return {key: store.files(store.trial(key)) for key in store.stored_keys()}


def logits(folder: Path) -> dict[str, str]:
    """Digest of every stored trial's logits, by key."""
    name = "logits.safetensors"
    return {key: hashlib.sha256(held[name]).hexdigest() for key, held in stored(folder).items() if name in held}


def unpack(folder: Path) -> None:
    """Make a run folder one of the first schema: a folder a trial."""
    for path in (folder / "trials").glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder / "trials")
        path.unlink()
    for path in (folder / "trials").glob("*/trial.json"):
        path.write_bytes(files.sealed(files.read_sealed(path) | {"schema": 1}))
    marker = json.loads((folder / "store.json").read_text())
    (folder / "store.json").write_text(json.dumps(marker | {"schema": 1}))


def damage(place: Place, name: str) -> str:
    """Flip a bit in the middle of a stored trial's file; its place, for people."""
    if isinstance(place, Member):
        path = Path(place.archive)
        start = path.read_bytes().index(place.read(name), place.spans[name][0])
        middle = start + place.spans[name][1] // 2
    else:
        path = Path(place.at(name))
        middle = path.stat().st_size // 2
    content = path.read_bytes()
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    return place.at(name)


@contextmanager
def small_disk(where: Path, size: str) -> Iterator[Path]:
    """A file system of its own of this size; the test skips where none may be mounted."""
    where.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", where], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)


def remount(where: Path, options: str) -> None:
    """Change a mounted small disk: "size=64m", "ro", "rw"."""
    subprocess.run(["mount", "-o", f"remount,{options}", where], check=True)
