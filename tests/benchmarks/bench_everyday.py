"""Everyday commands against an earlier version: $CALIB_BENCH_EARLIER is the Python that has it installed.

    git worktree add --detach /tmp/earlier COMMIT && python -m venv /tmp/earlier/.venv
    /tmp/earlier/.venv/bin/python -m pip install -e /tmp/earlier -c /tmp/earlier/constraints.txt
    CALIB_BENCH_EARLIER=/tmp/earlier/.venv/bin/python make bench ARGS="everyday_cite everyday_plan everyday_table"

Each version reads a run of its own, of the same settings; nothing is asked of the network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import OURS, Bench, Case, Unavailable

EARLIER = "the version of $CALIB_BENCH_EARLIER"
TINY = ("task=digits", "beta=0.1,1", "objective=cross_entropy", "lr=0.1,0.3", "seed=0..2", "epochs=2", "extend=0",
        "interventions=no", "limit=200", "wandb=disabled", "out=runs")  # fmt: skip
DEFAULT = ("wandb=disabled", "out=runs")
"""The run of the digits task that is made without settings: 971 trials."""
RUN = "runs/digits-separation"


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


def against_earlier(*words: str, has: str, run: Sequence[str] = TINY, without: str = "", pairs: int = 3) -> Bench:
    """A command of both versions, each in a folder of its own.

    Args:
        words: of the command.
        has: what both print.
        run: words of the run that the folder holds; none without any.
        without: what is removed from the run's folder before each call.
        pairs: how often each is timed.
    """
    jobs = {}
    for side, python in pythons().items():
        kept = tempfile.TemporaryDirectory(prefix="calib_bench-")
        _kept.append(kept)
        if run:
            command(python, Path(kept.name), "run", *run)()
        jobs[side] = after_removing(Path(kept.name, RUN, without), command(python, Path(kept.name), *words))

    def check(results: Mapping[str, Any]) -> str:
        assert all(has in text for text in results.values()), f"not both say {has!r}"
        return f"both print {has!r}"

    return Bench(jobs.pop(OURS), jobs, check=check, pairs=pairs)


def after_removing(path: Path, job: Callable[[], str]) -> Callable[[], str]:
    """The job once a folder or file is gone; nothing is removed if the path is the run itself."""

    def run() -> str:
        if path.is_dir() and path.name != Path(RUN).name:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()
        return job()

    return run


_kept: list[tempfile.TemporaryDirectory[str]] = []

CASES = [
    Case(
        "everyday_cite",
        "cite of a run",
        lambda: against_earlier("cite", RUN, has="% study separation"),
        least={EARLIER: 3},
    ),
    Case(
        "everyday_plan",
        "plan task=cifar10 without the data",
        lambda: against_earlier("plan", "task=cifar10", has="groups", run=()),
        least={EARLIER: 1.3},
    ),
    Case(
        "everyday_table",
        "table of a run, the second time",
        lambda: against_earlier("table", RUN, "format=csv", has="log_loss_best"),
        least={EARLIER: 1.2},
    ),
    Case(
        "everyday_table_first",
        "table of a run, the first time",
        lambda: against_earlier("table", RUN, "format=csv", has="log_loss_best", without="report/comparisons.json"),
        least={EARLIER: 1},
    ),
    Case(
        "everyday_report",
        "report of the default run, which is made already",
        lambda: against_earlier("report", RUN, has="report.html", run=DEFAULT),
        least={EARLIER: 3},
        seconds=10,
    ),
    Case(
        "everyday_report_anew",
        "report of the default run, made anew",
        lambda: against_earlier("report", RUN, has="report.html", run=DEFAULT, without="report"),
        least={EARLIER: 1},
    ),
    Case(
        "everyday_report_tiny",
        "report of a tiny run, which is made already",
        lambda: against_earlier("report", RUN, has="report.html"),
        least={EARLIER: 3},
    ),
]
