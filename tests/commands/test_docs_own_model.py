"""The code and the commands of docs/own-model.md run, one after another."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import driver
import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from synthetic import sketched

from calib_bench.cli import main
from calib_bench.store.store import Store

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text()
QUICK = (
    "wandb=disabled",
    "workers=1",
    "interventions=no",
    "objective=cross_entropy",
    "limit=60",
    "calibrator=temperature_scaling",
)


@pytest.mark.slow
@sketched("separation")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    file = Path(code.splitlines()[0].removeprefix("# "))
    file.parent.mkdir(parents=True)
    file.write_text(code)
    x, y = load_digits(return_X_y=True)
    np.savez("new.npz", inputs=(x[:40] / 16).astype("float32").reshape(-1, 1, 8, 8), labels=y[:40])
    lines = [line.split() for line in re.findall(r"^python -m calib_bench (.*)$", PAGE, re.M)]
    assert [line[0] for line in lines] == ["run"] * 4 + ["predict"] * 2 + ["evaluate", "apply"]
    key = ""
    for line in lines:
        quick = [word for word in QUICK if word.split("=")[0] not in " ".join(line)] if line[0] == "run" else []
        if line[-1] in ("out=layers", "out=head"):  # without a report, which takes longer than the training
            driver.main([*line[1:], *quick])
            (split,) = Store(Path(line[-1][4:]) / "digits-separation", "read").splits.every()
            assert "starts from the weights of mine.safetensors" in split["notes"]["weights"]
            continue
        assert main([*(word.replace("KEY", key) for word in line), *quick]) == 0
        if line[-1] == "out=first":
            kept = sorted(Path("first").glob("*/trials/*/weights.safetensors"))
            key = kept[0].parent.name
            shutil.copy(kept[0], "mine.safetensors")
    report = Path("as-it-is/digits-separation/report/report.html").read_text()
    assert "starts from the weights of mine.safetensors" in report
    assert len(Path("calibrated.csv").read_text().splitlines()) == 41
    assert load_file("mine.safetensors")["head.weight"].shape == (10, 32)
