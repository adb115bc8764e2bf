"""What a result was made with: versions, machine, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from functools import cache
from pathlib import Path

VERSION = "0.2.0"
PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "datasets", "tokenizers", "transformers",
    "netcal", "wandb",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """Installed versions of what can change a number."""
    version_of = {"calib_bench": VERSION, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            version_of[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version_of[package] = "absent"
    return version_of


@cache
def processor() -> str:
    """The CPU's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """Versions, platform, processor and cores; no host name, user or path."""
    return {
        "versions": versions(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
    }
