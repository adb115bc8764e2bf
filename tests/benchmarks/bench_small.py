"""Commands that do little, so that what they import counts, against an earlier version: see `bench_everyday`.

CALIB_BENCH_EARLIER=/tmp/earlier/.venv/bin/python make bench ARGS="small_list small_export small_run"
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import psutil

from tests.benchmarks.bench_everyday import EARLIER, RUN, TINY, against_earlier, command, environment, program, pythons
from tests.benchmarks.harness import OURS, Bench, Case

SMALL = ("run", "task=digits", "model=mlp_16", "beta=0.3,1", "objective=cross_entropy", "lr_rel=0.25,0.5", "seed=0,1",
         "epochs=4", "extend=0", "interventions=no")  # fmt: skip
"""Eleven trials that train for less than a second; it starts the processes that a long run starts."""
NOTEBOOK = """
import numpy as np, calib_bench
rng = np.random.default_rng(0)
(z, y), (u, v) = [(rng.normal(size=(500, 3)), rng.integers(0, 3, 500)) for _ in range(2)]
print(calib_bench.evaluate(z, y, calibration=(u, v), calibrators=["temperature_scaling"]))
"""
MEMORY = 1500
"""Most memory in MB that all processes of `SMALL` may take together."""


def new_folder() -> Path:
    """An empty folder, for as long as this process lasts."""
    _kept.append(tempfile.TemporaryDirectory(prefix="calib_bench-"))
    return Path(_kept[-1].name)


def export() -> Bench:
    """export of a trial of the tiny run, in both versions."""
    jobs: dict[str, Callable[[], Any]] = {}
    for side, python in pythons().items():
        folder = new_folder()
        command(python, folder, "run", *TINY)()
        jobs[side] = command(python, folder, "export", f"{RUN}:{a_key(folder)}", "out=exported")

    def check(results: Mapping[str, Any]) -> str:
        assert all("written" in text for text in results.values())
        return "both write three files"

    return Bench(jobs.pop(OURS), jobs, check=check)


def a_key(folder: Path) -> str:
    """The key of a trial of the tiny run, which is a folder or in an archive."""
    path = min((folder / RUN / "trials").glob("*"))
    return path.name if path.is_dir() else ZipFile(path).namelist()[0].partition("/")[0]


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
        assert ours <= MEMORY, f"{ours:,.0f} MB"
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
        "small_list",
        "list",
        lambda: against_earlier("list", has="temperature_scaling", run=()),
        least={EARLIER: 3},
        seconds=1,
    ),
    Case(
        "small_export",
        "export of a trial",
        export,
        least={EARLIER: 3},
        seconds=1,
    ),
    Case(
        "small_plan_imagenet",
        "plan task=imagenet without the data",
        lambda: against_earlier("plan", "task=imagenet", has="groups", run=()),
        least={EARLIER: 1},
        seconds=4,
    ),
    Case(
        "small_run",
        "run of 11 tiny trials, W&B offline",
        small_against_earlier,
        least={EARLIER: 1.5},
        seconds=8,
    ),
    Case("small_notebook", "import of the API and its first call", notebook, least={EARLIER: 0.9}),
]
