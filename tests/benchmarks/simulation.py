"""`python -m tests.benchmarks.simulation [--out reports/scaling]`: 5,000 to 100,000 made-up trials, as a page.

Every size is a process of its own on one growing run folder, so that its peak is its own.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from calib_bench.system.files import write_bytes

SEEDS = (1, 5, 20)
"""5,000 trials each."""

PAGE = """\
# A study of 100,000 trials, but for the training

Made by `{command}`, Python {python}, one thread. Each row is a process of its own, on one run folder that
grows. Only logits are made up: every trial is planned, grouped, written with its checksums, found and checked again,
chosen among 250 rates, calibrated and reported by the engine itself. Seconds are of the processor, not of the clock.

| trials | to store one | to find and plan all | to report | MB at first | MB at the end | most MB | kB a trial |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

{verdict}

MB at first are Python's with PyTorch and pandas imported; figures and statistics then take the same for any study. What
grows with the trials is the plan, since a driver knows every trial that it wants: settings, key and selection scores.
The last column is all that was held at most, less what was held at first, over the trials. Nothing is dropped: the
report counts every trial, and every arm stands in its tables at the rate that was chosen.
"""


def run(folder: Path) -> list[dict[str, Any]]:
    """What every size took."""
    stages = []
    for seeds in SEEDS:
        command = [sys.executable, "-m", "tests.benchmarks.bench_simulation", str(folder / "run"), str(seeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        stages.append(json.loads(done.stdout.splitlines()[-1]))
        print(stages[-1], flush=True)
    return stages


def row(stage: dict[str, Any]) -> str:
    over = 1000 * (stage["peak"] - stage["start"]) / stage["trials"]
    return (
        f"| {stage['trials']:,} | {1000 * stage['train'] / stage['new']:.2g} ms | {stage['plan']:.2g} s | "
        f"{stage['analyse']:.2g} s | {stage['start']:.0f} MB | {stage['memory']:.0f} MB | {stage['peak']:.0f} MB | "
        f"{over:.1f} kB |"
    )


def verdict(stages: list[dict[str, Any]]) -> str:
    """How time and memory grow from the first size to the last."""
    first, last = stages[0], stages[-1]
    times = last["trials"] / first["trials"]
    more = last["trials"] - first["trials"]
    grown = last["peak"] - first["peak"]
    return (
        f"{times:g} times the trials took {last['plan'] / first['plan']:.3g} times as long to find and plan, "
        f"{last['analyse'] / first['analyse']:.3g} times to report, and {last['peak'] / first['peak']:.2f} times the "
        f"memory: {1000 * grown / more:.1f} kB a trial more."
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.simulation", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/scaling"), help="folder of simulation.md")
    parser.add_argument("--scratch", type=Path, help="where the run folder is made: 4 GB; a memory disk is fast")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="calib_bench-", dir=args.scratch))
    try:
        stages = run(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    command = shlex.join(["python", "-m", "tests.benchmarks.simulation", "--out", str(args.out)])
    text = PAGE.format(
        command=command, python=platform.python_version(), rows="\n".join(map(row, stages)), verdict=verdict(stages)
    )
    write_bytes(args.out / "simulation.md", text.encode())
    print(f"written: {args.out / 'simulation.md'}")


if __name__ == "__main__":
    main()
