"""A Hub that is down, mute, slow, out of order, or serves half a file: an error within a bounded time, or the data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import ROOT


@pytest.mark.slow
def test_whatever_the_hub_does_the_data_is_whole_or_an_error_says_what_was_tried(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "hub.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    found = {line["mode"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert list(found) == ["well", "truncated", "shorter", "corrupt", "error", "mute", "drip", "down"]
    assert found.pop("well")["came"].startswith("300 rows of https://huggingface.co/datasets/own/small")
    for mode, line in found.items():
        assert line["came"].startswith("DataError: "), mode
        assert "Traceback" not in line["came"]
        assert line["seconds"] < 90, mode
    for mode in ("truncated", "error", "mute", "drip", "down"):
        assert "own/small at 0123456789ab" in found[mode]["came"], mode
        assert "data=PATH" in found[mode]["came"], mode
    assert "fewer than 100,000 bytes came" in found["drip"]["came"]
    assert ".parquet" in found["corrupt"]["came"]
