"""The separation under shift: against independent computations, the theory's zeros, and a run from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from sklearn.metrics import roc_auc_score
from synthetic import make, shape, sketched

from calib_bench import metrics, registry
from calib_bench.cli import main
from calib_bench.core.corruption import ShiftedSplit
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis
from calib_bench.core.trial import Trial
from calib_bench.inference import crossed_interval
from calib_bench.store.store import Store
from calib_bench.studies.separation import shift, shift_page
from calib_bench.studies.separation.study import STUDY
from calib_bench.system.random import stream

Run = tuple[Store, Settings, Analysis]
SPLITS = tuple(f"{name}/{severity}" for name in ("blur", "noise") for severity in range(1, 6))


def shifted_shape(trial: Trial, truth: dict[str, Any], labels: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As `synthetic.shape`; a trial on shifted data has logits that are sharper and noisier with each severity."""
    Z = shape(trial, truth, labels)
    for name in SPLITS if trial.shift else ():
        severity = ShiftedSplit.of(name).severity or 0
        noise = torch.randn(Z["test"].shape, generator=stream("shift", name, trial.seed, trial.beta))
        Z[name] = (1 + 0.2 * severity) * (Z["test"] + 0.4 * severity * trial.beta**0.2 * noise)
    return Z


def analysed(path: Path, *words: str) -> Run:
    fixed = (
        "calibrator=temperature_scaling,histogram_binning",
        "lr=0.1",
        "beta=0.1,1,10",
        "seed=0..3",
        "objective=cross_entropy",
    )
    store, settings = make(path / "run", *fixed, *words, shape=shifted_shape, test=300)
    return store, settings, STUDY.analyse(settings, store)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return analysed(tmp_path_factory.mktemp("shift"), "shift=noise,blur")


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return run[2].tables["shift"].frame


def logits(run: Run, beta: float, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Z = beta z and labels of a trial on shifted data."""
    store, settings, _ = run
    trials = [t for t in STUDY.plan(settings, store.scores("log_loss")) if t.shift and (t.beta, t.seed) == (beta, seed)]
    (trial,) = trials
    label = name if name in ("calibration", "selection") else "test"
    return beta * store.logits(trial)[name].double().numpy(), store.labels(trial)[label].numpy()


def loss(Z: np.ndarray, y: np.ndarray, T: float = 1.0) -> np.ndarray:
    z = Z / T
    return np.log(np.exp(z - z.max(1, keepdims=True)).sum(1)) + z.max(1) - z[np.arange(len(y)), y]


def best(Z: np.ndarray, y: np.ndarray) -> float:
    found = minimize_scalar(lambda u: loss(Z, y, np.exp(u)).mean(), bounds=(-4, 4), method="bounded")
    return float(np.exp(found.x))


def results(run: Run, beta: float, seed: int, name: str) -> dict[str, Any]:
    """What one trial scores on one split, computed apart."""
    Z, y = logits(run, beta, seed, name)
    clean = best(*logits(run, beta, seed, "calibration"))
    refitted = np.empty(len(y))
    halves = [half.numpy() for half in shift.halves(len(y))]
    for one, other in (halves, halves[::-1]):
        refitted[other] = loss(Z[other], y[other], best(Z[one], y[one]))
    right = Z.argmax(1) == y
    confidence = np.exp(-loss(Z, Z.argmax(1), clean))
    return {
        "log_loss": loss(Z, y),
        "log_loss_repaired": loss(Z, y, clean),
        "log_loss_refitted": refitted,
        "accuracy": right.astype(float),
        "log_kappa": np.log(best(Z, y)),
        "auroc_repaired": roc_auc_score(right, confidence),
    }


def row_of(frame: pd.DataFrame, beta: float, corruption: str, severity: int) -> pd.Series:
    chosen = (frame["beta"] == beta) & (frame["corruption"] == corruption) & (frame["severity"] == severity)
    (row,) = (frame.loc[i] for i in frame.index[chosen])
    return row


def test_results_are_those_computed_apart(run: Run) -> None:
    every = run[2].tables["shift_corruptions"].frame
    row = row_of(every, 10.0, "noise", 3)
    mine = [results(run, 10.0, seed, "noise/3") for seed in range(4)]
    for column in ("log_loss", "log_loss_repaired", "log_loss_refitted", "accuracy", "auroc_repaired"):
        assert row[column] == pytest.approx(np.mean([one[column] for one in mine]), abs=2e-6), column
    assert row["kappa"] == pytest.approx(np.exp(np.mean([one["log_kappa"] for one in mine])), rel=1e-4)
    assert len(every) == 3 * len(SPLITS)


def test_changes_are_paired_and_averaged_over_corruptions_example_by_example(run: Run, table: pd.DataFrame) -> None:
    row = row_of(table, 10.0, "mean of 2 corruptions", 4)
    columns = ("log_loss", "log_loss_repaired", "log_loss_refitted")
    raw, repaired, refitted = (
        np.mean(
            [
                [
                    results(run, 10.0, seed, name)[column] - results(run, 1.0, seed, name)[column]
                    for seed in range(4)
                ]
                for name in ("blur/4", "noise/4")
            ],
            axis=0,
        )
        for column in columns
    )  # fmt: skip
    exact = {"total": raw, "conf_shifted": raw - refitted, "dyn_shifted": refitted}
    for column, d_SN in exact.items():
        oracle = crossed_interval(d_SN)
        ends = (row[f"delta_{column}_low"], row[f"delta_{column}"], row[f"delta_{column}_high"])
        assert ends == pytest.approx((oracle.low, oracle.mean, oracle.high), abs=2e-5), column
    bare = crossed_interval(repaired)
    assert row["delta_dyn"] == pytest.approx(bare.mean, abs=2e-6)
    assert row["delta_dyn_high"] - row["delta_dyn_low"] > bare.high - bare.low  # the clean calibration examples count
    assert row["delta_total"] == pytest.approx(row["delta_conf"] + row["delta_dyn"], abs=1e-12)
    assert row["delta_total"] == pytest.approx(row["delta_conf_shifted"] + row["delta_dyn_shifted"], abs=1e-12)


def test_severity_0_is_the_separation_on_the_clean_test_split(run: Run, table: pd.DataFrame) -> None:
    clean = run[2].tables["separation"].frame.set_index("beta")
    pairs = {"delta_total": "log_loss_total", "delta_conf": "log_loss_conf", "delta_dyn": "log_loss_dyn"}
    for beta in (0.1, 10.0):
        row = row_of(table, beta, "none", 0)
        for mine, theirs in {**pairs, "delta_accuracy": "accuracy"}.items():
            for end in ("", "_low", "_high"):
                assert row[f"{mine}{end}"] == pytest.approx(clean.loc[beta, f"{theirs}{end}"], abs=1e-12)
    decisions = run[2].tables["decisions"].frame
    repaired = decisions[decisions["method"] == "temperature_scaling"].set_index("beta")
    for beta in (0.1, 10.0):
        row = row_of(table, beta, "none", 0)
        for name in ("auroc", "lac_coverage", "lac_size"):
            for end in ("", "_low", "_high"):
                expected = repaired.loc[beta, f"{name}{end}"]
                assert row[f"delta_{name}{end}"] == pytest.approx(expected, abs=1e-12)


def test_every_method_on_clean_data_is_the_table_of_baselines(run: Run) -> None:
    tables = run[2].tables
    frame = tables["shift_methods"].frame
    clean = frame[frame["severity"] == 0].set_index(["beta", "method"]).sort_index()
    baselines = tables["baselines"].frame.set_index(["beta", "method"]).sort_index()
    assert set(clean.index) == set(baselines.index)
    assert len(clean) == 3 * 3  # raw and two calibrators
    apart = [f"ece{end}" for end in ("_low", "_high")]  # by bootstrap on clean data
    for column in (c for c in clean.select_dtypes("number") if c in baselines and c not in apart):
        np.testing.assert_allclose(
            clean[column].astype(float), baselines[column].astype(float), rtol=0, atol=1e-12, err_msg=column
        )
    assert {"brier", "classwise_ece", "smece", "augrc", "raps_size_low", "lac_coverage"} <= set(clean)


def test_calibrators_are_fitted_on_clean_data_and_averaged_over_corruptions(run: Run) -> None:
    frame = run[2].tables["shift_methods"].frame
    calibrator = registry.calibrators(("histogram_binning",))["histogram_binning"]
    log_loss: dict[float, Any] = {}
    ece: list[float] = []
    for beta in (1.0, 10.0):
        rows = []
        for seed in range(4):
            params = calibrator.fit(*map(torch.from_numpy, logits(run, beta, seed, "calibration")))
            shifted = [logits(run, beta, seed, f"{name}/3") for name in ("blur", "noise")]
            p = [calibrator.apply(params, torch.from_numpy(Z)).exp().numpy() for Z, _ in shifted]
            rows.append(np.mean([-np.log(q[np.arange(300), y]) for q, (_, y) in zip(p, shifted, strict=True)], axis=0))
            errors = [
                metrics.ece(torch.from_numpy(q).log(), torch.from_numpy(y))
                for q, (_, y) in zip(p, shifted, strict=True)
            ]
            ece.append(float(np.mean(errors)))
        log_loss[beta] = np.array(rows)
    row = row_of(frame[frame["method"] == "histogram_binning"], 10.0, "mean of 2 corruptions", 3)
    assert row["log_loss"] == pytest.approx(log_loss[10.0].mean(), abs=1e-9)
    oracle = crossed_interval(log_loss[10.0] - log_loss[1.0])
    ends = (row["delta_log_loss_low"], row["delta_log_loss"], row["delta_log_loss_high"])
    assert ends == pytest.approx((oracle.low, oracle.mean, oracle.high), abs=1e-9)
    assert row["ece"] == pytest.approx(np.mean(ece[4:]), abs=1e-9)


def test_changes_of_the_brier_score_add_up_and_are_those_after_each_method(run: Run, table: pd.DataFrame) -> None:
    methods = run[2].tables["shift_methods"].frame
    for severity, corruption in ((0, "none"), (5, "mean of 2 corruptions")):
        row = row_of(table, 0.1, corruption, severity)
        assert row["delta_brier_total"] == pytest.approx(row["delta_brier_conf"] + row["delta_brier_dyn"], abs=1e-12)
        for method, part in (("raw", "total"), ("temperature_scaling", "dyn")):
            after = row_of(methods[methods["method"] == method], 0.1, corruption, severity)
            for score, prefix in (("brier", "brier_"), ("log_loss", "")):
                for end in ("", "_low", "_high"):
                    expected = after[f"delta_{score}{end}"]
                    assert row[f"delta_{prefix}{part}{end}"] == pytest.approx(expected, abs=1e-12)


def test_what_a_calibrator_still_repairs_is_paired_with_the_raw_predictions(run: Run) -> None:
    note, methods = run[2].tables["shift_methods"].note, run[2].tables["shift_methods"].frame
    row = row_of(methods[methods["method"] == "histogram_binning"], 10.0, "mean of 2 corruptions", 3)
    raw = row_of(methods[methods["method"] == "raw"], 10.0, "mean of 2 corruptions", 3)
    assert row["from_raw"] == pytest.approx(row["log_loss"] - raw["log_loss"], abs=1e-12)
    assert np.isnan(raw["from_raw"])
    exact = []
    for seed in range(4):
        of = [results(run, 1.0, seed, f"{name}/5") for name in ("blur", "noise")]
        exact.append(np.mean([one["log_loss_repaired"] - one["log_loss"] for one in of], axis=0))
    bare = crossed_interval(np.array(exact))
    row = row_of(methods[methods["method"] == "temperature_scaling"], 1.0, "mean of 2 corruptions", 5)
    assert row["from_raw"] == pytest.approx(bare.mean, abs=2e-6)
    assert row["from_raw_high"] - row["from_raw_low"] > bare.high - bare.low  # the calibration examples count
    assert "Log loss after the clean temperature minus raw, beta=1: " in note
    assert "severity 5 (mean of 2 corruptions)" in note


def test_a_plan_refuses_corruptions_of_other_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "task=digits", "shift=noise,typing_errors"]) == 2
    assert "is for text inputs, and those of task digits are image: valid choices: blur, " in capsys.readouterr().err


def test_the_theorys_zeros_hold_and_are_seen_where_they_do_not(run: Run) -> None:
    controls = run[2].tables["shift_controls"].frame
    assert len(controls) == 3
    assert controls["passed"].all()
    Z_NK = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    other_NK = torch.tensor([[1.0, 2.0, 0.0], [1.0, 0.0, 2.0]])  # another answer; the same answer in another order
    assert shift._changed(Z_NK, other_NK, Z_NK / 3) == (1, 2)


def test_a_clean_temperature_repairs_less_under_shift_than_one_of_the_shifted_data(table: pd.DataFrame) -> None:
    strong = table[table["severity"] == 5]
    assert (strong["log_loss_refitted"] < strong["log_loss_repaired"] - 0.1).all()
    clean = table[table["severity"] == 0]
    np.testing.assert_allclose(clean["log_loss_refitted"], clean["log_loss_repaired"], atol=0.03)
    assert (strong["kappa"].to_numpy() > 1.5 * clean["kappa"].to_numpy()).all()
    assert (strong["lac_coverage"] < 0.9).all()


def test_without_shift_nothing_of_it_is_there_and_with_it_all_else_stays(run: Run, tmp_path: Path) -> None:
    _, settings, plain = analysed(tmp_path)
    assert not [name for name in plain.tables if name.startswith("shift")]
    for name, one in plain.tables.items():
        if name != "baselines":  # has seconds
            pd.testing.assert_frame_equal(one.frame, run[2].tables[name].frame)
    without = {trial.key for trial in STUDY.plan(settings, run[0].scores("log_loss"))}
    both = STUDY.plan(run[1], run[0].scores("log_loss"))
    assert without == {trial.key for trial in both if not trial.shift}
    assert {trial.shift for trial in both} == {"", "blur,noise"}


def test_where_rates_are_tuned_nothing_is_established(run: Run, tmp_path: Path) -> None:
    store, settings = make(
        tmp_path / "run", "calibrator=temperature_scaling", "beta=1,10", "seed=0..3", "objective=cross_entropy",
        "shift=noise", shape=shifted_shape, test=300,
    )  # fmt: skip
    tuned = STUDY.analyse(settings, store).tables["shift"].note
    assert "not established at beta=10 (intervals leave out the choice of rates)" in tuned
    fixed = run[2].tables["shift"].note
    assert "log loss after the clean temperature: established at beta=" in fixed.lower()
    assert "At severity 5 (mean of 2 corruptions) beta=1 has accuracy" in fixed


def test_a_legend_names_the_betas_that_are_drawn(run: Run) -> None:
    for draw, betas in ((shift_page.levels, ["0.1", "1", "10"]), (shift_page.change, ["0.1", "10"])):
        figure = draw(run[2])
        assert figure is not None
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"beta = {beta}" for beta in betas]


def test_names_of_splits_say_their_set_corruption_and_severity() -> None:
    rows = shift.averaged(["blur/1", "blur/2", "noise/1", "CIFAR-10-C/fog/1", "CIFAR-10-C/snow/1", "CIFAR-10.1"])
    assert [(label["corruption"], label["severity"], splits) for label, splits in rows] == [
        ("none", 0, ["test"]),
        ("mean of 2 corruptions", 1, ["blur/1", "noise/1"]),
        ("blur", 2, ["blur/2"]),
        ("CIFAR-10-C: mean of 2 corruptions", 1, ["CIFAR-10-C/fog/1", "CIFAR-10-C/snow/1"]),
        ("CIFAR-10.1", None, ["CIFAR-10.1"]),
    ]
    assert shift.apart(["CIFAR-10-C/fog/1"])[0][0] == {"corruption": "CIFAR-10-C: fog", "severity": 1}


@sketched("shift", "shift_repaired", "shift_methods", "shift_change")
def test_a_run_stores_further_logits_and_labels_and_reports_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    words = ["task=digits", "model=mlp_16", "beta=1,3", "seed=0,1", "objective=cross_entropy", "lr_rel=0.5", "epochs=4"]
    words += ["interventions=no", "calibrator=temperature_scaling", "wandb=disabled", "workers=1", f"out={tmp_path}"]
    assert main(["run", *words, "shift=noise", "yes=true"]) == 0
    folder = tmp_path / "digits-separation"
    store = Store(folder, "read")
    plan = STUDY.plan(store.settings(), store.scores("log_loss"))
    shifted = [trial for trial in plan if trial.shift]
    assert len(shifted) == 4
    for trial in shifted:
        plain, further = store.logits(trial.model_copy(update={"shift": ""})), store.logits(trial)
        assert set(further) - set(plain) == {f"noise/{severity}" for severity in range(1, 6)}
        assert all(torch.equal(plain[name], further[name]) for name in plain)
        assert set(store.labels(trial)) == {"selection", "calibration", "test"}
    table = pd.read_csv(folder / "report" / "tables" / "shift.csv")
    accuracy = table[table["beta"] == 1].set_index("severity")["accuracy"]
    assert accuracy[0] > accuracy[5]
    assert (pd.read_csv(folder / "report" / "tables" / "shift_controls.csv")["seen"] == 0).all()
    assert {"shift.png", "shift_repaired.png", "shift_methods.png", "shift_change.png"} <= {
        p.name for p in (folder / "report" / "figures").iterdir()
    }
