"""Shared fixtures. Tests use one thread: tiny kernels slow down many-fold when oversubscribed."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")

import pytest
import torch
from hypothesis import settings as hypothesis_settings

torch.set_num_threads(1)
hypothesis_settings.register_profile("default", deadline=None, max_examples=50)
hypothesis_settings.load_profile("default")


@pytest.fixture(autouse=True)
def _denormals() -> None:
    """Undo what training sets for its process: hypothesis needs denormals."""
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data; tests that need it skip where it is absent."""
    root = os.environ.get("CALIB_BENCH_DATA")
    if not root or not Path(root).is_dir():
        pytest.skip("real data not found: set CALIB_BENCH_DATA")
    return Path(root).resolve()
