"""Where a report's numbers come from: what was trained, on what, for how long, read from the store alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from calib_bench.core.fate import FAILED
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.store.store import Store


def provenance(store: Store, grid: Grid, trials: Iterable[Trial]) -> dict[str, Any]:
    """Command, training, data, environment; the same store gives the same.

    Args:
        trials: those of the study; what is not stored is not counted.
    """
    stored = store.provenance()
    seeds = ", ".join(map(str, grid.seed))
    return {
        "command": stored["command"],
        "seeds": seeds,
        "training": training(store, trials),
        "data": stored["splits"],
        "environment": stored["environment"],
    }


def training(store: Store, trials: Iterable[Trial]) -> dict[str, Any]:
    """How many trials were trained, where, and the device time that it took, members of a stack sharing theirs; the
    Euler degrees that rates followed beta by."""
    devices, modes, precisions = (Counter[str]() for _ in range(3))
    seconds = []
    degrees = set()
    failed = 0
    for trial in trials:
        if not store.has(trial):
            continue
        f = store.record(trial).metadata
        failed += store.fate(trial) in FAILED
        degrees |= {f"{trial.model}: {f['euler_degree']:.4g}"} if f.get("euler_degree") else set()
        seconds.append(f["seconds"] * f.get("world", 1) / f.get("stack", 1))
        devices[str(f.get("device_name", f.get("device", "unknown")))] += 1
        modes[str(f.get("mode", "unknown"))] += 1
        precisions[str(f.get("precision", "fp32"))] += 1
    measured = {"Euler degree": ", ".join(sorted(degrees))} if degrees else {}
    return measured | {
        "trials": len(seconds),
        "failed": failed,
        "device time": duration(math.fsum(seconds)),
        "device": _count(devices),
        "mode": _count(modes),
        "precision": _count(precisions),
    }


def duration(seconds: float) -> str:
    """A span of time in the unit that fits it.

    >>> duration(87.4), duration(5400), duration(9000)
    ('87 s', '90 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _count(counted: Counter[str]) -> str:
    """Text of the only value counted, or of each value with its count."""
    return next(iter(counted)) if len(counted) == 1 else ", ".join(f"{v} ({n:,})" for v, n in sorted(counted.items()))
