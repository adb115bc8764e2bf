"""The code and the commands of docs/take-it-home.md run, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib_bench.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "take-it-home.md").read_text()


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    assert names["probabilities"].shape == (1000, 3)
    assert 0 < float(names["ece"]) < 1
    logits, labels = names["logits"], names["labels"]
    np.savez("cal.npz", logits=logits[:800], labels=labels[:800])
    np.savez("test.npz", logits=logits[800:], labels=labels[800:])
    np.savez("new.npz", logits=logits[800:])
    lines = re.findall(r"^python -m calib_bench (.*)$", PAGE, re.M)
    assert len(lines) == 2
    for line in lines:
        assert main(line.split()) == 0
    assert len(Path("calibrated.csv").read_text().splitlines()) == 1201
