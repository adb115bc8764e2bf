"""The plane of the two temperatures: cells, shares of variance, and the study through the real loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import sketched

from calib_bench import cli, registry
from calib_bench.analysis.result_rows import adjusted
from calib_bench.core.settings import Settings, parse
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.inference.grouped import explained
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.store.store import Store
from calib_bench.studies.two_temperatures import findings, plane, rows

FORMATS = ("svg",)
WORDS = (
    "study=two_temperatures", "model=mlp_8", "beta=0.1,1,10", "lr_eff=0.1,1,10,100,1e6", "epochs=16", "seed=0..2",
    "limit=100", "workers=1", "wandb=disabled",
)  # fmt: skip


def settings(*words: str) -> Settings:
    own = {word.partition("=")[0] for word in words}
    return resolve(parse([*(word for word in WORDS if word.partition("=")[0] not in own), *words]))


def test_a_grouping_explains_what_lies_between_its_groups() -> None:
    rng = np.random.default_rng(0)
    A, B, S = 30, 20, 4
    first, second = rng.normal(size=A), 0.5 * rng.normal(size=B)
    noise = rng.normal(size=(A * B, S))
    y = (first[:, None] + second).reshape(-1, 1) + noise
    rows, columns = np.repeat(np.arange(A), B), np.tile(np.arange(B), A)
    total = first.var(ddof=1) + second.var(ddof=1)
    assert explained(y, rows.tolist()).mean == pytest.approx(first.var(ddof=1) / total, abs=0.05)
    assert explained(y, columns.tolist()).mean == pytest.approx(second.var(ddof=1) / total, abs=0.05)
    found = explained(y, rows.tolist())
    assert found.low < found.mean < found.high
    assert abs(explained(y, rng.integers(30, size=A * B).tolist()).mean) < 0.05
    assert math.isnan(explained(y[:3], [0, 1, 2]).mean)
    assert math.isnan(explained(y[:9, :1], rows[:9].tolist()).mean)


def test_adding_groups_at_random_explains_nothing_more() -> None:
    rng = np.random.default_rng(1)
    shares = [explained(rng.normal(size=(40, 1)) + np.zeros((40, 3)), rng.integers(20, size=40).tolist()).mean
              for _ in range(200)]  # fmt: skip
    assert abs(np.mean(shares)) < 0.15  # what is below 0 is cut at noise: plain R squared would be near .5


def test_cells_know_their_temperatures_and_the_largest_block_is_found() -> None:
    def cell(beta: float, effective: float, whole: bool = True) -> plane.Cell:
        (family,) = plane.families(settings(f"beta={beta}", f"reference={beta}", "lr_eff=1"))
        return plane.Cell(family[0], effective / beta**2, {}, {}, 0.0 if whole else 0.5)

    cells = [cell(b, e, whole=not (b == 10 and e > 1)) for b in (0.1, 1.0, 10.0) for e in (0.5, 1.0, 2.0, 4.0)]
    assert [one.effective for one in cells[:4]] == [0.5, 1.0, 2.0, 4.0]
    found = plane.block(cells)
    assert [[(c.beta, c.effective) for c in line] for line in found] == [
        [(0.1, e), (1.0, e)] for e in (0.5, 1.0, 2.0, 4.0)
    ]
    assert plane.block(cells[:4]) == []


def test_a_pair_with_a_cell_of_two_kinds_does_not_count_as_different() -> None:
    own = settings("beta=1,10", "lr_eff=1", "seed=0..9")
    (family,) = plane.families(own)
    rng = np.random.default_rng(0)

    def cell(trials: tuple[Trial, ...], level: float, lost: int) -> plane.Cell:
        wrong = (rng.random((10, 400)) < np.where(np.arange(10) < lost, 0.9, level)[:, None]).astype(float)
        errors = [{"error": float(row.mean()), "repaired_log_loss": 0.5} for row in wrong]
        examples = {"error": wrong, "repaired_log_loss": np.full_like(wrong, 0.5)}
        values = {name: np.full(10, 0.5) for name in plane.METRICS}
        return plane.Cell(
            trials, 1 / trials[0].beta ** 2, values, examples, 0.0, plane._lost(errors, [lost == 10] * 10, 10)
        )

    def said(lost: int) -> tuple[str, plane.Cell]:
        cells = [cell(family[0], 0.05, 0), cell(family[1], 0.2, lost)]
        frame = adjusted(pd.DataFrame(rows.at_equal_rows(cells, own)))
        return findings._differ(frame.to_dict("records")), cells[1]

    assert "a difference is established in 1." in said(0)[0]
    text, mixed = said(2)
    assert (mixed.lost, mixed.mixed) == (2, True)
    assert "a difference is established in 0 (not established at" in text
    assert not said(10)[1].mixed


def test_pairs_count_the_calibration_examples_of_both_temperatures() -> None:
    own = settings("beta=1,10", "lr_eff=1", "seed=0..3")
    (family,) = plane.families(own)
    rng = np.random.default_rng(0)
    examples = {name: rng.random((4, 200)) for name in ("error", "repaired_log_loss")}
    slopes = np.array([[0.1] * 4, [0.5] * 4])
    cells = [
        plane.Cell(trials, 1 / trials[0].beta ** 2, {}, examples | {"repaired_log_loss": rng.random((4, 200))}, 0.0, 0,
                   (rng.standard_normal((4, 60)), slopes))
        for trials in family
    ]  # fmt: skip
    (counted,) = rows.at_equal_rows(cells, own)
    (bare,) = rows.at_equal_rows([replace(one, temperatures=None) for one in cells], own)
    assert counted["repaired_log_loss"] == bare["repaired_log_loss"]
    assert counted["repaired_log_loss_high"] > bare["repaired_log_loss_high"]
    assert counted["error_high"] == bare["error_high"]


def test_relative_rates_have_no_temperature() -> None:
    for unit in ("lr_rel", "lr_hom"):
        with pytest.raises(SettingsError, match=f"not {unit}"):
            plane.families(resolve(parse(["study=two_temperatures", f"{unit}=0.1"])))


@pytest.mark.slow
def test_the_study_is_run_reported_and_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", *WORDS, f"out={tmp_path}"]) == 0
    folder = tmp_path / "digits-two_temperatures"
    own = settings(f"out={tmp_path}")
    store, study = Store(folder), registry.study("two_temperatures")
    plan = make(own, study, store)
    assert plan.pending == 0
    short = [trial for trial in plan.trials if trial.epochs < 16]
    assert len(plan.trials) == 3 * 5 * 3 + len(short)
    assert [(trial.beta, trial.epochs, trial.seed) for trial in short] == [(1, 2, seed) for seed in range(3)]
    assert {trial.lr for trial in short} <= {0.1, 1.0, 10.0, 100.0}
    analysis = study.analyse(own, store)
    cells = analysis.tables["cells"].frame
    assert len(cells) == 15
    known = analysis.tables["controls"].frame
    assert known["passed"][0]
    assert known["log_loss_dyn"][1] > 0
    assert any(
        said.startswith("Positive control (mlp_8): training the reference for 2 of 16") for said in analysis.verdict
    )
    assert (cells["effective"] / cells["beta"] ** 2).to_numpy() == pytest.approx(cells["eta0"].to_numpy())
    shares = analysis.tables["shares"].frame
    assert set(shares["metric"]) == set(plane.METRICS)
    whole = cells[cells["failed"] == 0]
    assert (shares["cells"][shares["of"] == "all that finished"] == len(whole)).all()
    error = whole.set_index(["beta", "effective"])["error"]
    assert error.between(0, 1).all()
    paired = analysis.tables["at_equal"].frame
    one = paired.iloc[0]
    at = float(one["effective"])
    assert one["error"] == pytest.approx(error[one["beta"], at] - error[1.0, at])
    before = {path.name: path.read_bytes() for path in (folder / "report" / "tables").glob("*.csv")}
    capsys.readouterr()
    with sketched("plane", study="two_temperatures"):
        assert cli.main(["report", str(folder)]) == 0
    assert "adjusted R^2 of cells given beta^2 eta0 alone" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in (folder / "report" / "tables").glob("*.csv")} == before
