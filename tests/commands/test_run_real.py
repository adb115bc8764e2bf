"""The main job on real data, a little of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib_bench.cli import main
from tests.commands.test_run import CHEAP, logits

REAL = {
    "cifar10": ["model=cnn_4_8", "lr=0.05", "seed=0,1"],
    "imdb": ["model=bag_8", "lr=0.01", "seed=0,1"],
    "imagenet": ["model=timm/test_resnet", "lr=0.05", "batch=32", "limit=64", "seed=0"],
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("task", list(REAL))
def test_real_tasks_train_and_report(task: str, data_root: Path, tmp_path: Path) -> None:
    words = [
        f"task={task}",
        f"data={data_root / task}",
        "beta=0.3,1",
        "epochs=1",
        "objective=cross_entropy",
    ]
    limit = [] if any(w.startswith("limit") for w in REAL[task]) else ["limit=300"]
    assert main(["run", *words, *REAL[task], *limit, *CHEAP, "extend=0", f"out={tmp_path}"]) == 0
    page = (tmp_path / f"{task}-separation" / "report" / "report.html").read_text()
    assert "limit" in page
    assert len(logits(tmp_path / f"{task}-separation")) == (3 if "seed=0" in REAL[task] else 6)
