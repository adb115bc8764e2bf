"""Every study says what it can when trials failed: which, and why, beside what the others give."""

from __future__ import annotations

import shutil
from pathlib import Path

import driver
import pytest
from faulty import unpack

from calib_bench import cli, registry
from calib_bench.planning import plan as planning
from calib_bench.store.store import Store

COMMON = ("limit=60", "workers=1", "wandb=disabled")
FIXED = {
    "sgd_temperature": ("model=linear", "epochs=20", "batch=10,30", "lr=0.1,0.3", "weight_decay=0.1", "seed=0,1"),
    "two_temperatures": ("model=mlp_8", "beta=0.1,1", "lr_eff=0.1,1,10", "epochs=2", "seed=0..2"),
    "early_learning": ("model=mlp_8", "beta=0.1,1", "seed=0"),
}
"""Studies whose plan does not depend on what was trained."""
TUNED = {
    "stability": ("beta=0.1,1", "seed=0..3"),
    "beta_switch": ("beta=0.1,1", "seed=0..2"),
    "learning_rate": ("beta=0.1,1", "seed=0..2"),
    "logit_magnitude": ("beta=0.1,1", "correlation=-1,1", "seed=0..2"),
    "width_depth": ("model=mlp_8,mlp_16", "beta=0.1,1,3", "seed=0..2"),
    "separation": ("beta=0.1,1", "seed=0..2", "calibrator=temperature_scaling"),
}
REST = [study for study in (*FIXED, *TUNED) if study not in ("sgd_temperature", "stability")]
"""The first of these is in the test of its study, which has trained it."""
OF_TUNED = ("model=mlp_8", "lr=0.1,1", "epochs=2")


@pytest.mark.slow
@pytest.mark.parametrize("study", ["stability", *(pytest.param(s, marks=pytest.mark.soak) for s in REST)])
def test_what_failed_is_named_and_the_rest_is_reported(study: str, tmp_path: Path) -> None:
    words = FIXED.get(study) or (*TUNED[study], *OF_TUNED[any("model=" in word for word in TUNED[study]) :])
    driver.main([f"study={study}", *words, *COMMON, f"out={tmp_path}"])
    failing(tmp_path / f"digits-{study}", study)


def failing(path: Path, study: str) -> None:
    """Let trials of a study that is whole have failed, and hold its reports against that."""
    unpack(path)
    store = Store(path, "read")
    settings = store.settings()
    planned = list(planning.read(settings, registry.study(study), store))
    longest = max(trial.epochs for trial in planned)  # a tuned study's plan ends with its controls, which are shorter
    whole = [trial for trial in planned if trial.epochs == longest]
    for some in (planned[:1], planned[1::2]) if study in FIXED else (whole[-1:],):
        for trial in some:
            shutil.rmtree(store.folder(trial))
            store.failures.record(trial, "raised", "ZeroDivisionError: a cause for this test")
        assert cli.main(["report", str(path)]) == 0
        assert "a cause for this test" in (path / "report" / "report.html").read_text()
        store = Store(path, "read")
