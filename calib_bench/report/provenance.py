"""Where a report's numbers come from: what was trained, on what, for how long, read from the store alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from calib_bench.settings import Settings
    from calib_bench.store import Store
    from calib_bench.trial import Trial


def provenance(store: Store, settings: Settings, trials: Iterable[Trial]) -> dict[str, Any]:
    """Command, training, data, environment; the same store gives the same.

    Args:
        trials: those of the study; what is not stored is not counted.
    """
    known = store.provenance()
    seeds = ", ".join(map(str, settings.seed or ()))
    return {
        "command": known["command"],
        "seeds": seeds,
        "training": training(store, trials),
        "data": known["splits"],
        "environment": known["environment"],
    }


def training(store: Store, trials: Iterable[Trial]) -> dict[str, Any]:
    """How many trials were trained, where, and the device time that it took, members of a stack sharing theirs."""
    records = [store.record(trial) for trial in trials if store.has(trial)]
    facts = [record.facts for record in records]
    seconds = math.fsum(f["seconds"] * f.get("world", 1) / f.get("stack", 1) for f in facts)
    return {
        "trials": len(records),
        "diverged": sum(record.status == "diverged" for record in records),
        "device time": duration(seconds),
        "device": _count(str(f.get("device_name", f.get("device", "unknown"))) for f in facts),
        "mode": _count(str(f.get("mode", "unknown")) for f in facts),
        "precision": _count(str(f.get("precision", "fp32")) for f in facts),
    }


def duration(seconds: float) -> str:
    """A span of time in the unit that fits it.

    >>> duration(87.4), duration(5400), duration(9000)
    ('87 s', '90 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"


def _count(values: Iterable[str]) -> str:
    """What there is; how often, where there are several."""
    counted = Counter(values)
    return next(iter(counted)) if len(counted) == 1 else ", ".join(f"{v} ({n:,})" for v, n in sorted(counted.items()))
