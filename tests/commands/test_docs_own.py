"""The code and the commands of docs/own-predictions.md run, one after another."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from synthetic import make

import calib_bench
from calib_bench.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "own-predictions.md").read_text()


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    store, _ = make(Path("runs/digits-separation"), "beta=0.3", "seed=0", "calibrator=temperature_scaling")
    key = next((store.path / "trials").iterdir()).name
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, names)
    lines = re.findall(r"^python -m calib_bench (.*)$", PAGE, re.M)
    assert len(lines) == 10
    for line in lines:
        assert main(line.replace("KEY", key).split()) == 0, line
    assert {path.name for path in Path("exported").iterdir()} == {
        "predictions.npz", "predictions.h5", "selection.jsonl", "calibration.jsonl", "test.jsonl",
    }  # fmt: skip
    assert set(calib_bench.load_results("by-site", "slices")["slice"]) == {"north", "south"}
    assert set(names["by_site"]["slice"]) == {"north", "south"}
    assert set(calib_bench.load_results("runs/evaluate-benchmark", "rivals")["model"]) == {"good", "poor"}
