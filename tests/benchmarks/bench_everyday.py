"""Everyday commands against an earlier version: $CALIB_BENCH_EARLIER is the Python that has it installed.

    git worktree add --detach /tmp/earlier COMMIT && python -m venv /tmp/earlier/.venv
    /tmp/earlier/.venv/bin/python -m pip install -e /tmp/earlier -c /tmp/earlier/constraints.txt
    CALIB_BENCH_EARLIER=/tmp/earlier/.venv/bin/python make bench ARGS="everyday_cite everyday_plan everyday_tiny"

Each version reads a run of its own, of the same settings; nothing is asked of the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psutil

from tests.benchmarks.harness import OURS, Bench, Case, Unavailable

EARLIER = "the version of $CALIB_BENCH_EARLIER"
TINY = ("task=digits", "beta=0.1,1", "objective=cross_entropy", "lr=0.1,0.3", "seed=0..2", "epochs=2", "extend=0",
        "interventions=no", "limit=200", "wandb=disabled", "out=runs")  # fmt: skip
RUN = "runs/digits-separation"
SMALL = ("run", "task=digits", "model=mlp_16", "beta=0.3,1", "objective=cross_entropy", "lr_rel=0.25,0.5", "seed=0,1",
         "epochs=4", "extend=0", "interventions=no")  # fmt: skip
"""Eleven trials that train for less than a second; it starts the processes that a long run starts."""
NOTEBOOK = """
import numpy as np, calib_bench
rng = np.random.default_rng(0)
(z, y), (u, v) = [(rng.normal(size=(500, 3)), rng.integers(0, 3, 500)) for _ in range(2)]
print(calib_bench.evaluate(z, y, calibration=(u, v), calibrators=["temperature_scaling"]))
"""
MEMORY = 0.75
"""Most memory that `SMALL` may take, of what it took before."""


def pythons() -> dict[str, str]:
    """The interpreter of each side."""
    if not os.environ.get("CALIB_BENCH_EARLIER"):
        raise Unavailable("CALIB_BENCH_EARLIER is not set")
    return {OURS: sys.executable, EARLIER: os.environ["CALIB_BENCH_EARLIER"]}


def environment() -> dict[str, str]:
    """That of every command: no data, no network, one thread."""
    hidden = ("PYTHONDONTWRITEBYTECODE", "CALIB_BENCH_DATA")  # without the first, every process compiles torch anew
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return kept | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def program(python: str, folder: Path, *words: str) -> Callable[[], str]:
    """A job: Python in a folder, its output."""

    def run() -> str:
        line = [python, *words]
        return subprocess.run(line, cwd=folder, env=environment(), check=True, capture_output=True, text=True).stdout

    return run


def command(python: str, folder: Path, *words: str) -> Callable[[], str]:
    """A job: the command line in a folder, its output."""
    return program(python, folder, "-m", "calib_bench", *words)


def against_earlier(*words: str, has: str, run: bool = True) -> Bench:
    """A command of both versions, each in a folder of its own, which holds a tiny run if it reads one."""
    jobs = {}
    for side, python in pythons().items():
        folder = new_folder()
        if run:
            command(python, folder, "run", *TINY)()
        jobs[side] = command(python, folder, *(word.replace("KEY", a_key(folder)) for word in words))

    def check(results: Mapping[str, Any]) -> str:
        assert all(has in text for text in results.values()), f"not both say {has!r}"
        return f"both print {has!r}"

    return Bench(jobs.pop(OURS), jobs, check=check)


def new_folder() -> Path:
    """An empty folder, for as long as this process lasts."""
    _kept.append(tempfile.TemporaryDirectory(prefix="calib_bench-"))
    return Path(_kept[-1].name)


def a_key(folder: Path) -> str:
    """The key of a trial of the tiny run, which is a folder or in an archive; empty where there was no run."""
    path = min((folder / RUN / "trials").glob("*"), default=None)
    if path is None or path.is_dir():
        return path.name if path else ""
    return ZipFile(path).namelist()[0].partition("/")[0]


def small(python: str) -> Callable[[], float]:
    """A job: `SMALL` in an empty folder; the most memory in MB that its processes shared out among them (PSS)."""

    def run() -> float:
        line = [python, "-m", "calib_bench", *SMALL]
        done = subprocess.Popen(line, cwd=new_folder(), env=environment(), stdout=subprocess.DEVNULL)
        top, most = psutil.Process(done.pid), 0.0
        while done.poll() is None:
            with suppress(psutil.NoSuchProcess):
                most = max(most, sum(map(share, [top, *top.children(recursive=True)])))
            time.sleep(0.2)
        assert done.returncode == 0
        return most

    return run


def share(process: psutil.Process) -> float:
    """MB of a process, those that it shares divided by how many share them; 0 once it has ended."""
    with suppress(psutil.Error, OSError):
        return process.memory_full_info().pss / 1e6
    return 0.0


def small_against_earlier() -> Bench:
    """`SMALL` of both versions."""
    jobs: dict[str, Callable[[], Any]] = {side: small(python) for side, python in pythons().items()}

    def check(results: Mapping[str, Any]) -> str:
        ours, before = results[OURS], results[EARLIER]
        assert ours <= MEMORY * before, f"{ours:,.0f} MB against {before:,.0f} MB"
        return f"the most memory of all processes together: {ours:,.0f} MB against {before:,.0f} MB"

    return Bench(jobs.pop(OURS), jobs, check=check, warm=False)


def notebook() -> Bench:
    """The package's import and its first call, in a fresh Python."""
    jobs: dict[str, Callable[[], Any]] = {
        side: program(python, new_folder(), "-c", NOTEBOOK) for side, python in pythons().items()
    }

    def check(results: Mapping[str, Any]) -> str:
        assert all("temperature_scaling" in text for text in results.values())
        return "both print a table with temperature_scaling"

    return Bench(jobs.pop(OURS), jobs, check=check)


_kept: list[tempfile.TemporaryDirectory[str]] = []

CASES = [
    Case(
        "everyday_list",
        "list",
        lambda: against_earlier("list", has="temperature_scaling", run=False),
        least={EARLIER: 3},
        seconds=1,
    ),
    Case(
        "everyday_export",
        "export of a trial",
        lambda: against_earlier("export", f"{RUN}:KEY", "out=exported", has="written"),
        least={EARLIER: 3},
        seconds=1,
    ),
    Case(
        "everyday_plan_imagenet",
        "plan task=imagenet without the data",
        lambda: against_earlier("plan", "task=imagenet", has="groups", run=False),
        least={EARLIER: 1},
        seconds=4,
    ),
    Case(
        "everyday_tiny",
        "run of 11 tiny trials, W&B offline",
        small_against_earlier,
        least={EARLIER: 1.5},
        seconds=8,
    ),
    Case("everyday_notebook", "import of the API and its first call", notebook, least={EARLIER: 0.9}),
    Case(
        "everyday_cite",
        "cite of a run",
        lambda: against_earlier("cite", RUN, has="% study separation"),
        least={EARLIER: 3},
    ),
    Case(
        "everyday_plan",
        "plan task=cifar10 without the data",
        lambda: against_earlier("plan", "task=cifar10", has="groups", run=False),
        least={EARLIER: 1.3},
    ),
    Case(
        "everyday_table",
        "table of a run, the second time",
        lambda: against_earlier("table", RUN, "format=csv", has="log_loss_best"),
        least={EARLIER: 1.2},
    ),
]
