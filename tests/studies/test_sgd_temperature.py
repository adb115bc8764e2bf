"""The study of SGD's temperature: planned, trained, measured and reported, at a tiny size through the real loops."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calib_bench import cli, registry
from calib_bench.analysis.warnings import data_notes
from calib_bench.core.settings import Settings, parse
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.store.store import Store
from calib_bench.studies.sgd_temperature import arms, findings
from calib_bench.studies.sgd_temperature import rows as measured_rows
from tests.execute.test_failed_trials import failing

WORDS = (
    "study=sgd_temperature", "model=linear,mlp_8", "epochs=60", "batch=10,30", "lr=0.1,0.3", "momentum=0,0.5",
    "weight_decay=0.1", "seed=0,1", "limit=60", "workers=1", "wandb=disabled",
)  # fmt: skip


def settings(*words: str) -> Settings:
    own = {word.partition("=")[0].replace("lr_rel", "lr").replace("lr_hom", "lr") for word in words}
    return resolve(parse([*(word for word in WORDS if word.partition("=")[0] not in own), *words]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("temperature")
    assert cli.main(["run", *WORDS, f"out={out}"]) == 0
    return out / "digits-sgd_temperature"


def test_equal_temperatures_whatever_the_batch_and_momentum() -> None:
    linear, mlp = arms.families(settings())
    heats = {arm.temperature for arm in linear.part(arms.HEAT)}
    assert heats == {0.01, 0.03}
    for arm in linear.part(arms.HEAT, arms.BATCHES, arms.MOMENTA, arms.SHUFFLED):
        trial = arm.trial
        assert trial.lr / ((1 - trial.momentum) * trial.batch) == pytest.approx(arm.temperature)
        assert arm.temperature in heats
        assert {t.seed for t in arm.trials} == {0, 1}
    assert {arm.trial.batch for arm in linear.part(arms.BATCHES)} == {30}
    assert {arm.trial.sampling for arm in linear.part(arms.SHUFFLED)} == {"shuffled"}
    assert linear.minimum.epochs == 0
    assert {arm.part for arm in mlp.arms} == {arms.HEAT, arms.COOLED, arms.UNCOOLED}
    roots = {(a.trial.batch, a.trial.lr) for a in linear.part(arms.ADAM) if a.rule == "square root"}
    assert (40, 0.002) in roots
    plain = arms.families(settings("weight_decay=0"))
    assert [family.minimum.weight_decay for family in plain] == [arms.DECAY, 0.0]


def test_what_cannot_be_judged_is_refused() -> None:
    for words, said in (
        (("lr_rel=0.1", "optimizer=sgd"), "not lr_rel"),
        (("lr_hom=0.1", "optimizer=sgd"), "not lr_hom"),
        (("carry=all",), "leave carry=all out"),
        (("split=seed",), "leave split at shared"),
        (("epochs=5",), "epochs=16 or more"),
        (("optimizer=adam",), "optimizer=sgd"),
    ):
        with pytest.raises(SettingsError, match=said):
            arms.families(settings("model=linear", *words))


@pytest.mark.slow
def test_the_study_is_run_reported_and_over(folder: Path) -> None:
    own = settings(f"out={folder.parent}")
    store, study = Store(folder), registry.study("sgd_temperature")
    assert make(own, study, store).pending == 0
    analysis = study.analyse(own, store)
    rows = analysis.tables["acceptance"].frame.set_index(["model", "claim"])
    assert set(rows["verdict"]) <= {measured_rows.MET, measured_rows.NOT_MET, measured_rows.OPEN}
    heat = analysis.tables["heat"].frame
    independent = heat[(heat["model"] == "linear") & (heat["part"] == arms.HEAT)]
    assert (independent["ratio"] - 1).abs().max() < 0.4  # two seeds, 300 samples each: a sanity check, not the result
    shuffled = heat[heat["sampling"] == "shuffled"]
    assert (shuffled["excess"].to_numpy() < independent["excess"].to_numpy()).all()
    cooled = analysis.tables["cooling"].frame.set_index("model").loc["linear"]
    assert cooled["cold"] < cooled["hot"]
    assert len(analysis.tables["gibbs"].frame) == len(arms.GIBBS)
    minima = analysis.tables["minima"].frame.set_index("model")
    assert minima.loc["linear", "state"] == "found"
    assert minima.loc["linear", "capacity"] == pytest.approx(minima.loc["linear", "mean_square"] / 4)
    assert set(analysis.tables) == {path.stem for path in (folder / "report" / "tables").glob("*.csv")}
    assert "What theory claims" in (folder / "report" / "report.html").read_text()
    for name in study.figures:
        assert (folder / "report" / "figures" / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_failed_is_named_and_the_rest_is_reported(folder: Path, tmp_path: Path) -> None:
    failing(shutil.copytree(folder, tmp_path / folder.name), "sgd_temperature")


def test_the_slope_leaves_out_what_drifts_and_rules_are_told_apart() -> None:
    from calib_bench.dynamics import stationary
    from calib_bench.studies.sgd_temperature.read import Minimum, Reading

    linear, _ = arms.families(settings("lr=0.1,0.2,0.4"))
    minimum = Minimum({"mean_square": 8.0, "loss": 1.0, "accuracy": 0.5, "noise_curvature": 0.1, "converged": 1.0})
    found = measured_rows.FamilyResult(linear, minimum)
    for arm in linear.arms:
        scale = arm.temperature
        if arm.part == arms.ADAM:
            scale *= (arm.trial.batch / 10) ** (0.5 if arm.rule == "linear" else 0.1)
        state = stationary.DRIFTS if arm.part == arms.HEAT and scale == 0.01 else stationary.FLAT
        excess = (9.0 if state == stationary.DRIFTS else 2.0) * scale * np.array([0.9, 1.1])
        heat = stationary.eta0(arm.trial.lr, arm.trial.batch, arm.trial.momentum)
        found.readings.append(Reading(arm, heat, arm.trial.batch, np.zeros(0), np.zeros((0, 0)), excess, None, state))
    slope = measured_rows.slope(found)
    assert slope is not None
    assert slope.mean == pytest.approx(2.0)
    spread = measured_rows.rule_spread(found)
    assert spread["square root"] < spread["linear"]
    assert spread["linear"] == pytest.approx(math.sqrt(np.mean(np.square(0.5 * np.log([4, 16])))))
    accepted = measured_rows.acceptance([found], [])
    claims = {row["claim"].split(":")[0].split(" of ")[0]: row["verdict"] for row in accepted}
    assert claims["collapse over momenta"] == measured_rows.MET
    assert claims["Adam"] == measured_rows.MET
    # Seeds of two kinds leave undecided what they made, and nothing else.
    heat = next(i for i, one in enumerate(found.readings) if one.arm.part == arms.MOMENTA)
    found.readings[heat] = replace(found.readings[heat], mixed=True)
    rows = {row["claim"].split(":")[0].split(" of ")[0]: row for row in measured_rows.acceptance([found], [])}
    over = rows["collapse over momenta"]
    assert (over["verdict"], over["two_kinds"]) == (measured_rows.OPEN, "these runs")
    assert rows["Adam"]["verdict"] == measured_rows.MET
    assert [row.get("two_kinds") for row in measured_rows.stationary_rows(found, arms.MOMENTA)].count("this arm") == 1
    found.readings = [replace(one, mixed=one.arm.part == arms.ADAM) for one in found.readings]
    assert "is not established, since some seeds" in findings._adam(found)[0]


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (1.2, 1.6, findings.Says.HYSTERESIS),
        (0.98, 1.05, findings.Says.NO_HYSTERESIS),
        (0.7, 1.5, findings.Says.HYSTERESIS_WIDE),
        (1.05, 1.3, findings.Says.HYSTERESIS_WIDE),
        (math.nan, math.nan, findings.Says.HYSTERESIS_WIDE),
    ],
)
def test_no_hysteresis_is_said_of_an_interval_within_the_tolerance_alone(low: float, high: float, says: str) -> None:
    limits = {"reheated_over_control_low": low, "reheated_over_control_high": high}
    assert findings._hysteresis({"stationary": True, **limits}) == says


def test_a_limit_of_the_model_of_one_parameter_is_none_of_the_data() -> None:
    notes = {"limit": "at most 30 examples of each split", "preprocess": "pixels over 16"}
    assert data_notes({"splits": [{"notes": notes}, {}]}) == ["Data: pixels over 16."]
