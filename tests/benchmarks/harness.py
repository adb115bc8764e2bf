"""What a benchmark is, and how it is timed: this project and its peers in turn, several times over, in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Side = Callable[[], Any]
"""One whole job, timed from call to return; what it returns is kept for `Bench.check`."""

OURS = "calib_bench"


class Unavailable(Exception):
    """Raised by `Case.make` where the machine lacks what the case needs: the reason goes into the table."""


@dataclass
class Bench:
    """A case that is ready to be timed.

    Attributes:
        ours: this project's job.
        peers: the same job done as others do it. Each sets the threads and modes it needs, and so does `ours`.
        pairs: how often each side is timed, after one untimed call of each when `warm`.
        limit: (which, work): "matmul fp32", "matmul bf16" with floating-point operations of `ours`, or "memory" with
            bytes that it must read and write; None where neither is what binds.
        check: (results of the last round, by side) -> a sentence on why both sides did the same job. Raises
            AssertionError when they did not.
        unit: (amount, name): what one job processes, to print a rate such as ("examples x models", 1e6).
        scale: side -> factor on its time, for a peer that would take minutes and is timed on a part of the job whose
            time is linear in its size; the row's note says so.
    """

    ours: Side
    peers: Mapping[str, Side] = field(default_factory=dict)
    pairs: int = 3
    warm: bool = True
    limit: tuple[str, float] | None = None
    check: Callable[[Mapping[str, Any]], str] | None = None
    unit: tuple[float, str] | None = None
    scale: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A line, or one line a peer, of the table.

    Attributes:
        name: what `only=` selects.
        title: the job in words, with its size.
        make: prepares the job, untimed.
        least: peer -> how many times as fast as it this project must be; `{}` with `seconds` instead.
        seconds: the most the job may take, for jobs that have no peer.
        needs: "cpu" or "cuda".
        threads: torch threads at the start.
    """

    name: str
    title: str
    make: Callable[[], Bench]
    least: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    needs: str = "cpu"
    threads: int = 1


@dataclass
class Row:
    """One comparison. Ratios are peer over ours, a round at a time: above 1 this project is faster."""

    case: str
    title: str
    peer: str | None = None
    ours_s: list[float] = field(default_factory=list)
    peer_s: list[float] = field(default_factory=list)
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    target: float | None = None
    seconds: float | None = None
    met: bool | None = None
    rate: str = ""
    limit: str = ""
    share: float | None = None
    check: str = ""
    note: str = ""

    def record(self) -> dict[str, Any]:
        return asdict(self)


def unmeasured(case: Case, why: str) -> list[Row]:
    """The rows of a case that was not run."""
    peers: list[str | None] = [*case.least] or [None]
    return [
        Row(case.name, case.title, peer, target=case.least.get(peer or ""), seconds=case.seconds, note=why)
        for peer in peers
    ]


def measure(case: Case, limits: Callable[[str], float]) -> list[Row]:
    """Time a case: every round is one call of each side, in turn, so that a slow minute of the machine hits all alike.

    Args:
        case: the case.
        limits: name of a limit -> operations or bytes a second, measured in this process.
    """
    try:
        bench = case.make()
    except Unavailable as reason:
        return unmeasured(case, f"not measured: {reason}")
    sides: dict[str, Side] = {OURS: bench.ours, **bench.peers}
    if bench.warm:
        for run in sides.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(bench.pairs):
        for name, run in sides.items():
            results.pop(name, None)
            gc.collect()
            start = time.perf_counter()
            results[name] = run()
            times[name].append((time.perf_counter() - start) * bench.scale.get(name, 1.0))
    said = bench.check(results) if bench.check else ""
    base = Row(case.name, case.title, ours_s=times[OURS], seconds=case.seconds, check=said)
    middle = statistics.median(times[OURS])
    if bench.unit:
        base.rate = f"{_si(bench.unit[0] / middle)} {bench.unit[1]}/s"
    if bench.limit:
        base.limit, base.share = bench.limit[0], bench.limit[1] / middle / limits(bench.limit[0])
    if not bench.peers:
        base.met = case.seconds is None or middle <= case.seconds
        return [base]
    rows = [_against(base, peer, times[peer], case.least.get(peer)) for peer in bench.peers]
    for row in rows:
        if row.peer in bench.scale:
            row.note = f"{row.peer} timed on 1/{bench.scale[row.peer]:.3g} of the job and scaled"
    return rows


def _against(base: Row, peer: str, peer_s: list[float], least: float | None) -> Row:
    ratios = [theirs / ours for theirs, ours in zip(peer_s, base.ours_s, strict=True)]
    middle = statistics.median(ratios)
    met = None if least is None else middle >= least
    if base.seconds is not None:
        met = (met is not False) and statistics.median(base.ours_s) <= base.seconds
    found = {"ratio": middle, "ratio_low": min(ratios), "ratio_high": max(ratios), "target": least, "met": met}
    return Row(**{**base.record(), "peer": peer, "peer_s": peer_s, **found})


def _si(value: float) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "
