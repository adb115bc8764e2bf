"""Everyday commands against an earlier version: $CALIB_BENCH_EARLIER is the Python that has it installed.

    git worktree add --detach /tmp/earlier COMMIT && python -m venv /tmp/earlier/.venv
    /tmp/earlier/.venv/bin/python -m pip install -e /tmp/earlier -c /tmp/earlier/constraints.txt
    CALIB_BENCH_EARLIER=/tmp/earlier/.venv/bin/python make bench ARGS="everyday_cite everyday_plan everyday_table"

Each version reads a run of its own, of the same settings; nothing is asked of the network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import OURS, Bench, Case, Unavailable

EARLIER = "the version of $CALIB_BENCH_EARLIER"
TINY = ("task=digits", "beta=0.1,1", "objective=cross_entropy", "lr=0.1,0.3", "seed=0..2", "epochs=2", "extend=0",
        "interventions=no", "limit=200", "wandb=disabled", "out=runs")  # fmt: skip
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


def against_earlier(*words: str, has: str, run: bool = True) -> Bench:
    """A command of both versions, each in a folder of its own, which holds a tiny run if it reads one."""
    jobs = {}
    for side, python in pythons().items():
        kept = tempfile.TemporaryDirectory(prefix="calib_bench-")
        _kept.append(kept)
        if run:
            command(python, Path(kept.name), "run", *TINY)()
        jobs[side] = command(python, Path(kept.name), *words)

    def check(results: Mapping[str, Any]) -> str:
        assert all(has in text for text in results.values()), f"not both say {has!r}"
        return f"both print {has!r}"

    return Bench(jobs.pop(OURS), jobs, check=check)


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
