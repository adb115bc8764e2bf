"""Shared fixtures. Tests use one thread: tiny kernels slow down many-fold when oversubscribed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")

import forked
import pytest
import torch
from hypothesis import settings as hypothesis_settings

from calib_bench.execute import analysis_pool
from calib_bench.report import figures

torch.set_num_threads(1)
forked.share()
analysis_pool.WORTH = float("inf")  # an analysis stays in the process of its test: the tests beside it use the others
hypothesis_settings.register_profile("default", deadline=None, max_examples=50)
hypothesis_settings.load_profile("default")


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """Undo what training sets for its process: hypothesis needs denormals."""
    torch.set_flush_denormal(False)


@pytest.fixture(autouse=True, scope="module")
def _formats(request: pytest.FixtureRequest) -> Iterator[None]:
    """What reports write of each figure, half of their work: the formats that a file of tests names, SVG where it names
    figures alone, PNG where W&B is to show them. Without any, figures are made and not written."""
    words = {"png": "png|tracking", "svg": "svg|figure", "pdf": "pdf"}
    named = tuple(name for name, pattern in words.items() if re.search(pattern, request.path.read_text()))
    with pytest.MonkeyPatch.context() as patch:
        _write(named, patch)
        yield


@pytest.fixture
def unwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of one test make figures and do not write them."""
    _write((), monkeypatch)


def _write(formats: tuple[str, ...], patch: pytest.MonkeyPatch) -> None:
    if formats:
        patch.setattr(figures.render, "__defaults__", (formats,))
    else:
        patch.setattr(figures, "render", lambda figure, suffixes=(): dict.fromkeys(suffixes, b""))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: what takes long and begins last is waited for."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; tests that need it skip where it is absent."""
    root = os.environ.get("CALIB_BENCH_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data not found: set CALIB_BENCH_DATA")
    return Path(root).resolve()
