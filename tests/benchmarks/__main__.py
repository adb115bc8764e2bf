"""`python -m tests.benchmarks [NAME ...] [--out FOLDER]`: time the cases, each in a process of its own."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def cases() -> dict[str, Any]:
    """Every case by name, in the order of the files and of their lists."""
    found: dict[str, Any] = {}
    for path in sorted(HERE.glob("bench_*.py")):
        for case in importlib.import_module(f"{__package__}.{path.stem}").CASES:
            if case.name in found:
                raise SystemExit(f"two cases are called {case.name!r}")
            found[case.name] = case
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help="cases to time; all without one")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"), help="folder of the JSON and the table")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(one(args.case)))
        return
    known = cases()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"unknown case {unknown[0]!r}; known: {', '.join(known)}")
    rows: list[dict[str, Any]] = []
    for name in args.names or known:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += in_process(name)
    from tests.benchmarks import table

    print(table.show(rows))
    print(f"written to {table.write(rows, args.out, sys.argv[1:])}", file=sys.stderr)
    if any(row["met"] is False for row in rows):
        raise SystemExit(1)


def in_process(name: str) -> list[dict[str, Any]]:
    """The rows of a case from a process that runs nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks", "--case", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = " ".join(done.stderr.strip().splitlines()[-1:])
        print(done.stderr, file=sys.stderr)
        known = cases()[name]
        from tests.benchmarks.harness import unmeasured

        return [{**row.record(), "met": False} for row in unmeasured(known, f"failed: {tail}")]
    return json.loads(done.stdout.splitlines()[-1])


def one(name: str) -> list[dict[str, Any]]:
    """Time one case here."""
    import torch

    from tests.benchmarks.harness import measure, unmeasured
    from tests.benchmarks.limits import limit

    case = cases()[name]
    if case.needs == "cuda" and not torch.cuda.is_available():
        return [row.record() for row in unmeasured(case, "not measured: no GPU here")]
    torch.set_num_threads(case.threads)
    return [row.record() for row in measure(case, limit)]


if __name__ == "__main__":
    main()
