"""The table of a run of benchmarks, and its files."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

HEAD = ("case", "against", "ours", "peer", "ratio (spread)", "at least", "met", "share of limit")
PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "netcal", "probmetrics", "torchmetrics")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    if not row["ours_s"]:
        target = _target(row)
        return (row["title"], row["peer"] or "", row["note"] or "not measured", "", "", target, "", "")
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.1f} ({row['ratio_low']:.1f}-{row['ratio_high']:.1f})"
    ours = _seconds(row["ours_s"]) + (f", {row['rate']}" if row["rate"] else "")
    met = {True: "yes", False: "no", None: ""}[row["met"]]
    share = "" if row["share"] is None else f"{row['share']:.0%} of {row['limit']}"
    return (row["title"], row["peer"] or "", ours, _seconds(row["peer_s"]), ratio, _target(row), met, share)


def _target(row: dict[str, Any]) -> str:
    parts = [f"{row['target']:g}x"] if row["target"] is not None else []
    return ", ".join(parts + ([f"{row['seconds']:g} s"] if row["seconds"] is not None else []))


def _seconds(times: list[float]) -> str:
    if not times:
        return ""
    middle = statistics.median(times)
    return f"{middle * 1e3:.3g} ms" if middle < 1 else f"{middle:.3g} s"


def show(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """Device, cores and versions."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": gpu,
        "python": platform.python_version(),
        "versions": versions,
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write(rows: Sequence[dict[str, Any]], folder: Path, words: Sequence[str]) -> Path:
    """`benchmarks.json` and `benchmarks.md` in the folder; the path of the first.

    Rows of other cases that are there from the same machine and versions stay, each with the command that made it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found, path = machine(), folder / "benchmarks.json"
    command = " ".join(["python -m tests.benchmarks", *words])
    rows = [{**row, "command": command} for row in rows]
    before = json.loads(path.read_text()) if path.exists() else {}
    if before.get("machine") == found:
        made = {row["case"] for row in rows}
        rows = [row for row in before["rows"] if row["case"] not in made] + rows
    path.write_text(json.dumps({"machine": found, "rows": rows}, indent=1) + "\n")
    commands = "; ".join(f"`{one}`" for one in dict.fromkeys(row["command"] for row in rows))
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    device = f"{found['gpu']}, " if found["gpu"] else ""
    notes = [f"- {row['title']}: {row['check']}" for row in rows if row["check"]]
    text = [
        show(rows),
        f"{device}{found['cpu']}, {found['cores']} cores; Python {found['python']}, {versions}. {commands}",
        "\n".join(dict.fromkeys(notes)),
    ]
    (folder / "benchmarks.md").write_text("\n\n".join(text) + "\n")
    return folder / "benchmarks.json"
