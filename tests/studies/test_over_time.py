"""The separation over time: rows and best epochs against a computation of their own, and what is said of them."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from synthetic import sketched

from calib_bench import cli
from calib_bench.analysis import format as numbers
from calib_bench.store.store import Store
from calib_bench.studies.separation import over_time

EPOCHS = [0, 1, 4, 8]
RAW = [[2.3, 1.0, 0.6, 0.9], [2.4, 1.1, 0.5, 0.8], [2.3, 0.6, 0.7, 1.2]]
REPAIRED = [[2.3, 0.8, 0.5, 0.4], [2.3, 0.9, 0.4, 0.3], [2.3, 0.8, 0.6, 0.5]]
KAPPA = [[math.nan, 0.5, 1.0, 2.0], [math.nan, 0.5, 1.0, 4.0], [9.0, 0.5, 1.0, 1.0]]
NAME = {"model": "mlp_8", "variant": None, "beta": 0.1, "objective": "cross_entropy", "tuning": "tuned"}


def history(seed: int) -> pd.DataFrame:
    columns = {"epoch": EPOCHS, over_time.RAW: RAW[seed], over_time.REPAIRED: REPAIRED[seed]}
    return pd.DataFrame(columns | {over_time.KAPPA: KAPPA[seed], "scale_share": [math.nan, 0.1, 0.2, 0.3 + 0.1 * seed]})


def read(**changes: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
    lacking = changes.pop("lacking", [])
    trial = SimpleNamespace(objective="cross_entropy", epochs=8, **changes)
    measures = SimpleNamespace(arm=SimpleNamespace(trial=trial, trials={s: s for s in range(4)}), seeds=[0, 1, 2])
    store = SimpleNamespace(
        history=lambda seed: history(seed).drop(columns=lacking), labels=lambda _: {"selection": torch.zeros(250)}
    )
    return over_time.rows(store, measures, dict(NAME))  # type: ignore[arg-type]


def test_rows_are_means_over_seeds_with_t_intervals() -> None:
    in_time = read()
    assert in_time is not None
    frame = pd.DataFrame(in_time[0]).set_index("epoch")
    last = frame.loc[8]
    conf = np.array(RAW)[:, 3] - np.array(REPAIRED)[:, 3]
    half = stats.t.ppf(0.975, 2) * conf.std(ddof=1) / math.sqrt(3)
    limits = last["conf_low"], last["conf"], last["conf_high"]
    assert limits == pytest.approx((conf.mean() - half, conf.mean(), conf.mean() + half))
    assert last["log_loss"] == pytest.approx(last["conf"] + last["dyn"])
    assert last["kappa"] == pytest.approx(2.0)  # the geometric mean of 2, 4, 1
    assert frame.loc[0, "kappa"] == pytest.approx(9.0)  # of the only seed that has one
    assert math.isnan(frame.loc[0, "kappa_low"])
    assert last["scale_share"] == pytest.approx(0.4)
    assert 0 < last["dyn_low"] < last["dyn"] < last["dyn_high"]


def test_best_epochs_and_how_much_later_refinement_ends() -> None:
    in_time = read()
    assert in_time is not None
    best = pd.DataFrame(in_time[1])
    row = best.iloc[0]
    assert (row["raw_epoch"], row["repaired_epoch"], row["later"]) == (3, 8, 5)
    assert row["raw_gain"] == pytest.approx((0.3 + 0.3 + 0.6) / 3)
    assert row["repaired_gain"] == 0
    assert over_time.words(best) == ["The repaired loss is least after the raw loss at beta=0.1"]
    unsure = best.assign(later_low=-1.0)
    assert over_time.words(unsure)[0].startswith("At no beta do the seeds show")


def test_what_has_no_time_axis_is_left_out() -> None:
    assert read(lacking=["scale_share", over_time.KAPPA]) is None
    trial = SimpleNamespace(objective="label_smoothing:0.1", epochs=8)
    other = SimpleNamespace(arm=SimpleNamespace(trial=trial), seeds=[0])
    assert over_time.rows(SimpleNamespace(), other, {}) == ([], [])  # type: ignore[arg-type]


@sketched("over_time", "over_time_by_beta")
def test_from_the_command_line_to_the_page(tmp_path: Path) -> None:
    words = ["task=digits", "model=mlp_8", "beta=0.1,1", "lr=0.3", "epochs=6", "seed=0,1", "objective=cross_entropy"]
    words += ["calibrator=temperature_scaling", "interventions=no", "wandb=disabled", "workers=1", f"out={tmp_path}"]
    assert cli.main(["run", *words]) == 0
    report = tmp_path / "digits-separation" / "report"
    frame = pd.read_csv(report / "tables" / "over_time.csv")
    store = Store(tmp_path / "digits-separation", "read")
    end = frame[(frame["beta"] == 1) & (frame["epoch"] == 6)].iloc[0]
    grid = store.settings().grid
    trials = [trial for trial in _trials(store) if trial.beta == 1 and trial.epochs == 6]
    facts = [store.record(trial).metadata["selection"] for trial in trials]
    assert len(trials) == len(grid.seed)
    for column, name in (("log_loss", "log_loss"), ("dyn", "repaired_log_loss")):
        assert end[column] == pytest.approx(np.mean([fact[name] for fact in facts]), rel=1e-6)
    page = (report / "report.html").read_text()
    assert "Over time" in page
    assert f"{numbers.number(1 / 500)}" in page
    assert {path.stem for path in (report / "figures").glob("over_time*.svg")} == {"over_time", "over_time_by_beta"}


def _trials(store: Store) -> list[Any]:
    return [store.trial(key) for key in store.stored_keys()]
