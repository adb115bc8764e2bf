"""The separation study: identities, controls, and sentences that follow from the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import make

from calib_bench import discover, tuning
from calib_bench.inference import crossed_interval
from calib_bench.measure import measure_arm
from calib_bench.settings import Settings
from calib_bench.store import Store
from calib_bench.studies._separation_words import share
from calib_bench.studies.separation import STUDY, _kappa, contrast
from calib_bench.study import Analysis

Run = tuple[Store, Settings, Analysis]


def analysed(path: Path, *words: str, **made: object) -> Run:
    store, settings = make(path / "run", "calibrator=temperature_scaling", *words, **made)  # type: ignore[arg-type]
    return store, settings, STUDY.analyse(settings, store)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("beta=0.1,1,10", "objective=cross_entropy,label_smoothing:0.1", "seed=0..4", "tune_seeds=2")
    return analysed(tmp_path_factory.mktemp("separation"), *words, diverged={(10.0, 4), (0.1, 3)}, test=400)


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return run[2].tables["separation"].frame.set_index(["beta", "objective"])


@pytest.mark.parametrize(("score", "name"), [("log_loss", "separation"), ("brier", "separation_brier")])
def test_total_is_confidence_plus_dynamics(run: Run, score: str, name: str) -> None:
    frame = run[2].tables[name].frame
    total, conf, dyn = (frame[f"{score}_{part}"].to_numpy() for part in ("total", "conf", "dyn"))
    np.testing.assert_allclose(total, conf + dyn, rtol=0, atol=1e-14)
    assert len(frame) == 5
    assert (np.abs(total) > 1e-3).any()


def test_a_contrast_is_the_paired_difference_of_the_seeds_both_have(run: Run, table: pd.DataFrame) -> None:
    store, settings, _ = run
    repair = discover.calibrators(("temperature_scaling",))
    arms = {(a.trial.beta, a.trial.objective): a for a in tuning.arms(settings, store.scores(settings.select))}
    arm, reference = (measure_arm(store, arms[beta, "cross_entropy"], repair) for beta in (10.0, 1.0))
    row = table.loc[(10.0, "cross_entropy")]
    assert (row["seeds"], row["dropped"]) == (4, 1)
    d_SN = arm.examples["temperature_scaling"]["log_loss"] - reference.examples["temperature_scaling"]["log_loss"][:4]
    oracle = crossed_interval(d_SN)
    assert row["log_loss_dyn"] == pytest.approx(oracle.mean, abs=1e-14)
    assert (row["log_loss_dyn_low"], row["log_loss_dyn_high"]) == pytest.approx((oracle.low, oracle.high), abs=1e-14)


def test_confidence_and_dynamics_go_where_they_were_put(table: pd.DataFrame) -> None:
    sharper, noisier = table.loc[(0.1, "cross_entropy")], table.loc[(10.0, "cross_entropy")]
    assert sharper["log_loss_conf_low"] > 0.05
    assert abs(sharper["log_loss_dyn"]) < 0.02
    assert noisier["log_loss_dyn_low"] > 0.02
    assert noisier["accuracy_high"] < 0
    assert sharper["kappa"] > 2


def test_negative_control_is_zero(run: Run) -> None:
    (control,) = run[2].tables["controls"].frame.to_dict("records")
    assert abs(control["log_loss_dyn"]) < 1e-8
    assert control["accuracy"] == 0
    assert control["log_loss_total"] == pytest.approx(control["log_loss_conf"], abs=1e-8)
    assert control["log_loss_conf"] > 0.05
    assert any("Negative control" in sentence and "as it must" in sentence for sentence in run[2].verdict)


def test_an_arm_against_itself_is_zero_throughout(run: Run) -> None:
    store, settings, _ = run
    arm = tuning.arms(settings, store.scores(settings.select))[0]
    measures = measure_arm(store, arm, discover.calibrators(("temperature_scaling",)))
    row = contrast(measures, measures, nested=False)
    assert {v for k, v in row.items() if k.endswith(("_total", "_conf", "_dyn")) or k == "accuracy"} == {0.0}


def test_diverged_trials_are_dropped_in_pairs_and_said(run: Run, table: pd.DataFrame) -> None:
    assert table["dropped"].to_dict() == {
        (0.1, "cross_entropy"): 1,
        (0.1, "label_smoothing:0.1"): 1,
        (1.0, "label_smoothing:0.1"): 0,
        (10.0, "cross_entropy"): 1,
        (10.0, "label_smoothing:0.1"): 1,
    }
    assert any("diverged" in warning and "4 of 30 trials" in warning for warning in run[2].warnings)


def test_holm_is_over_the_arms(run: Run, table: pd.DataFrame) -> None:
    p, adjusted = table["log_loss_dyn_p"].to_numpy(), table["log_loss_dyn_holm"].to_numpy()
    assert adjusted.min() == pytest.approx(min(1, 5 * p.min()))
    assert (adjusted >= p).all()


def test_baselines_cover_every_arm_and_method(run: Run) -> None:
    frame = run[2].tables["baselines"].frame
    assert len(frame) == 6 * 2
    assert set(frame["method"]) == {"raw", "temperature_scaling"}
    for metric in ("accuracy", "log_loss", "brier", "ece", "classwise_ece"):
        assert (frame[f"{metric}_low"] < frame[metric]).all()
    raw, repaired = (frame[frame.method == m].reset_index() for m in ("raw", "temperature_scaling"))
    assert (raw.accuracy == repaired.accuracy).all()
    assert (repaired.log_loss < raw.log_loss + 0.01).all()


def test_rates_say_what_was_tried_and_chosen(run: Run) -> None:
    frame = run[2].tables["rates"].frame
    chosen = frame[frame.chosen]
    assert (chosen.rate == 0.1).all()
    assert len(chosen) == 6
    assert (frame.groupby(["beta", "objective"]).score.idxmin().sort_values() == chosen.index).all()


@pytest.mark.parametrize(
    ("total", "conf", "dyn", "expected"),
    [
        ((2, 1, 3), (1, 0.5, 1.5), (1, 0.5, 1.5), 0.5),
        ((-2, -3, -1), (-1.5, -2, -1), (-0.5, -0.6, -0.4), 0.25),
        ((0.1, -1, 1.2), (0.05, -1, 1), (0.05, -1, 1), None),
        ((2, 1, 3), (2.5, 2, 3), (-0.5, -0.6, -0.4), None),
        ((2, 1, 3), (1.9, 1, 2), (0.1, -0.1, 0.3), None),
    ],
)
def test_no_share_of_what_may_be_zero(total: tuple, conf: tuple, dyn: tuple, expected: float | None) -> None:
    row = {}
    for part, values in (("total", total), ("conf", conf), ("dyn", dyn)):
        row |= dict(zip((f"log_loss_{part}{end}" for end in ("", "_low", "_high")), values, strict=True))
        row[f"log_loss_{part}_holm"] = 0.01
    assert share(row) == expected
    assert share({**row, "log_loss_dyn_holm": 0.2}) is None


def test_the_verdict_says_so_when_the_data_cannot(tmp_path: Path) -> None:
    words = ("beta=0.9,1", "objective=cross_entropy", "seed=0..1", "lr=0.1")
    _, _, analysis = analysed(tmp_path, *words, test=30)
    assert "the data cannot say" in analysis.verdict[0]
    assert not any("of the change is dynamics" in sentence for sentence in analysis.verdict)
    assert any(w.startswith("Fixed: every arm") for w in analysis.warnings)


def test_one_seed_and_smoke_mode_are_said(tmp_path: Path) -> None:
    _, _, analysis = analysed(tmp_path, "beta=0.1,1", "objective=cross_entropy", "seed=0", "limit=20", "lr=0.1")
    assert any(w.startswith("Smoke mode") for w in analysis.warnings)
    assert any(w.startswith("One seed") for w in analysis.warnings)
    row = analysis.tables["separation"].frame.iloc[0]
    assert row["log_loss_total_low"] < row["log_loss_total"] < row["log_loss_total_high"]
    assert "examples only" in analysis.tables["separation"].note


def test_a_split_for_each_seed_takes_the_seed_level_interval(tmp_path: Path) -> None:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0..2", "split=seed", "lr=0.1")
    store, settings, analysis = analysed(tmp_path, *words)
    repair = discover.calibrators(("temperature_scaling",))
    arm, reference = (measure_arm(store, a, repair) for a in tuning.arms(settings, store.scores(settings.select)))
    by_seed = (arm.examples["raw"]["log_loss"] - reference.examples["raw"]["log_loss"]).mean(1)
    half = 4.302652729911275 * by_seed.std().item() / np.sqrt(3)
    row = analysis.tables["separation"].frame.iloc[0]
    assert row["log_loss_total_high"] - row["log_loss_total"] == pytest.approx(half)


def test_without_a_reference_nothing_is_compared(tmp_path: Path) -> None:
    _, _, analysis = analysed(tmp_path, "beta=0.1,1", "objective=label_smoothing:0.1", "seed=0..1", "lr=0.1")
    assert analysis.verdict[0].startswith("There is nothing to compare")
    assert any(w.startswith("No reference") for w in analysis.warnings)
    assert len(analysis.tables["baselines"].frame) == 4
    for draw in STUDY.figures.values():
        draw(analysis)


def test_golden_numbers(table: pd.DataFrame) -> None:
    row = table.loc[(10.0, "cross_entropy")]
    found = [row[f"log_loss_{part}"] for part in ("total", "conf", "dyn")]
    assert found == pytest.approx([0.5067804, 0.4005312, 0.1062493], rel=1e-5)


def test_kappa_at_a_bound_has_no_interval(tmp_path: Path) -> None:
    store, settings = make(tmp_path, "beta=1", "objective=cross_entropy", "seed=0..1", "lr=0.1")
    (arm,) = tuning.arms(settings, store.scores(settings.select))
    free = measure_arm(store, arm, discover.calibrators(("temperature_scaling",)))
    assert set(_kappa(free, [0, 1])) == {"kappa", "kappa_low", "kappa_high"}
    assert set(_kappa(replace(free, at_bound=(1,)), [0, 1])) == {"kappa"}
    assert set(_kappa(replace(free, at_bound=(1,)), [0])) == {"kappa", "kappa_low", "kappa_high"}
