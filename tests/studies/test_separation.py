"""The separation study: identities, controls, and sentences that follow from the numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import Shape, make, shape

from calib_bench import registry
from calib_bench.analysis import controls, interventions
from calib_bench.analysis.calibration_variance import fitted_to
from calib_bench.analysis.contrast import contrast, kappa
from calib_bench.analysis.format import number
from calib_bench.analysis.measure import measure_arm
from calib_bench.commands.console import open_console, print_results
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import Analysis
from calib_bench.core.trial import Trial
from calib_bench.inference import crossed_interval
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.report import figures
from calib_bench.store.store import Store
from calib_bench.studies.separation import page
from calib_bench.studies.separation.findings import share
from calib_bench.studies.separation.study import STUDY
from calib_bench.system.random import stream

Split = dict[str, torch.Tensor]
Run = tuple[Store, Settings, Analysis]


def analysed(path: Path, *words: str, **made: object) -> Run:
    store, settings = make(path / "run", "calibrator=temperature_scaling", *words, **made)  # type: ignore[arg-type]
    return store, settings, STUDY.analyse(settings, store)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("beta=0.1,1,10", "objective=cross_entropy,label_smoothing:0.1", "seed=0..4", "tune_seeds=3")
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
    repair = registry.calibrators(("temperature_scaling",))
    arms = {(a.trial.beta, a.trial.objective): a for a in tuning.arms(settings, store.scores(settings.select))}
    arm, reference = (measure_arm(store, arms[beta, "cross_entropy"], repair) for beta in (10.0, 1.0))
    row = table.loc[(10.0, "cross_entropy")]
    assert (row["seeds"], row["dropped"]) == (4, 1)
    d_SN = arm.examples["temperature_scaling"]["log_loss"] - reference.examples["temperature_scaling"]["log_loss"][:4]
    fit = fitted_to("log_loss", (1, arm, range(4)), (-1, reference, range(4)))
    assert fit is not None
    total_SN = arm.examples["raw"]["log_loss"] - reference.examples["raw"]["log_loss"][:4]
    parts = ("dyn", d_SN, fit), ("conf", total_SN - d_SN, fit.negative()), ("total", total_SN, None)
    for part, values, added in parts:
        oracle = crossed_interval(values, fit=added)
        ends = row[f"log_loss_{part}_low"], row[f"log_loss_{part}"], row[f"log_loss_{part}_high"]
        assert ends == pytest.approx((oracle.low, oracle.mean, oracle.high), abs=1e-14)
    bare = crossed_interval(d_SN)
    assert row["log_loss_dyn_low"] < bare.low < bare.high < row["log_loss_dyn_high"]


def test_confidence_and_dynamics_go_where_they_were_put(table: pd.DataFrame) -> None:
    sharper, noisier = table.loc[(0.1, "cross_entropy")], table.loc[(10.0, "cross_entropy")]
    assert sharper["log_loss_conf_low"] > 0.05
    assert abs(sharper["log_loss_dyn"]) < 0.02
    assert noisier["log_loss_dyn_low"] > 0.02
    assert noisier["accuracy_high"] < 0
    assert sharper["kappa"] > 2


def test_negative_control_is_zero(run: Run) -> None:
    control = run[2].tables["controls"].frame.set_index("control").loc[controls.RESCALED]
    assert abs(control["log_loss_dyn"]) < 1e-8
    assert control["accuracy"] == 0
    assert control["log_loss_total"] == pytest.approx(control["log_loss_conf"], abs=1e-8)
    assert control["log_loss_conf"] > 0.05
    assert any("Negative control" in sentence and "as expected" in sentence for sentence in run[2].verdict)


def test_an_arm_against_itself_is_zero_throughout(run: Run) -> None:
    store, settings, _ = run
    arm = tuning.arms(settings, store.scores(settings.select))[0]
    measures = measure_arm(store, arm, registry.calibrators(("temperature_scaling",)))
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
    assert any("diverged" in warning and "4 of 35 trials" in warning for warning in run[2].warnings)


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
    ("low", "high", "words"),
    [
        (0.3, 0.7, "50% [30%, 70%] of it confidence, the rest dynamics"),
        (-0.2, 1.2, "inconclusive"),
        (float("nan"), float("nan"), "inconclusive"),
        (1.2, 1.9, "opposite directions"),
        (-0.9, -0.1, "opposite directions"),
    ],
)
def test_a_share_is_said_as_far_as_its_interval_goes(low: float, high: float, words: str) -> None:
    row = {"log_loss_conf_share": (low + high) / 2, "log_loss_conf_share_low": low, "log_loss_conf_share_high": high}
    row |= {f"log_loss_{part}": 0.1 for part in ("conf", "dyn")}
    assert words in share(row)


def test_the_verdict_says_so_when_the_data_are_inconclusive(tmp_path: Path) -> None:
    words = ("beta=0.9,1", "objective=cross_entropy", "seed=0..1", "lr=0.1")
    _, _, analysis = analysed(tmp_path, *words, test=30)
    assert "inconclusive" in analysis.verdict[0]
    assert not any("% [" in sentence for sentence in analysis.verdict)
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
    repair = registry.calibrators(("temperature_scaling",))
    arm, reference = (measure_arm(store, a, repair) for a in tuning.arms(settings, store.scores(settings.select)))
    by_seed = (arm.examples["raw"]["log_loss"] - reference.examples["raw"]["log_loss"]).mean(1)
    half = 4.302652729911275 * by_seed.std().item() / np.sqrt(3)
    row = analysis.tables["separation"].frame.iloc[0]
    assert row["log_loss_total_high"] - row["log_loss_total"] == pytest.approx(half)


def test_without_a_reference_nothing_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, analysis = analysed(tmp_path, "beta=0.1,1", "objective=label_smoothing:0.1", "seed=0..1", "lr=0.1")
    assert analysis.verdict[0].startswith("There is nothing to compare")
    assert any(w.startswith("No reference") for w in analysis.warnings)
    assert "separation" not in figures.existing(STUDY, analysis)
    assert len(analysis.tables["baselines"].frame) == 4
    print_results(analysis, tmp_path, open_console())
    printed = capsys.readouterr().out
    assert "Every arm under every post-hoc method" in printed
    assert "No reference" in printed
    print_results(analysis, tmp_path, open_console(), printed=["no arm has beta=1"])
    assert "No reference" not in capsys.readouterr().out
    for draw in STUDY.figures.values():
        draw(analysis)


def test_golden_numbers(table: pd.DataFrame) -> None:
    row = table.loc[(10.0, "cross_entropy")]
    found = [row[f"log_loss_{part}"] for part in ("total", "conf", "dyn")]
    assert found == pytest.approx([0.5067804, 0.4005312, 0.1062493], rel=1e-5)


def test_kappa_at_a_bound_has_no_interval(tmp_path: Path) -> None:
    store, settings = make(tmp_path, "beta=1", "objective=cross_entropy", "seed=0..1", "lr=0.1")
    (arm,) = tuning.arms(settings, store.scores(settings.select))
    free = measure_arm(store, arm, registry.calibrators(("temperature_scaling",)))
    assert set(kappa(free, [0, 1])) == {"kappa", "kappa_low", "kappa_high"}
    assert set(kappa(replace(free, at_bound=(1,)), [0, 1])) == {"kappa"}
    assert set(kappa(replace(free, at_bound=(1,)), [0])) == {"kappa", "kappa_low", "kappa_high"}


def sharpened(trial: Trial, truth: Split, labels: Split) -> Split:
    """Beta changes confidence alone: the same noisy logits, three times as large."""
    return {name: (1 + 2 * (trial.beta != 1)) * noisy(u, trial, name, 0.5) for name, u in truth.items()}


def blurred(trial: Trial, truth: Split, labels: Split) -> Split:
    """Beta changes dynamics alone: noisier logits, each arm at its own best temperature."""
    Z = {name: noisy(u, trial, name, 0.5 + (trial.beta != 1)) for name, u in truth.items()}
    fit = registry.calibrators(("temperature_scaling",))["temperature_scaling"].fit
    T = float(fit(Z["calibration"].double(), labels["calibration"])["temperature"])
    return {name: values / T for name, values in Z.items()}


def noisy(u: torch.Tensor, trial: Trial, split: str, noise: float) -> torch.Tensor:
    return u + noise * torch.randn(u.shape, generator=stream("noise", split, trial.seed))


@pytest.mark.parametrize(("shape", "expected", "words"), [(sharpened, 1.0, "of it confidence"), (blurred, 0.0, "0% [")])
def test_the_share_of_confidence_is_the_one_built_in(tmp_path: Path, shape: Shape, expected: float, words: str) -> None:
    made = ("beta=1,3", "objective=cross_entropy", "seed=0..3", "lr=0.1")
    _, _, analysis = analysed(tmp_path, *made, shape=shape, test=600)
    row = analysis.tables["separation"].frame.iloc[0]
    assert row["log_loss_total_low"] > 0.01
    for score in ("log_loss", "brier"):
        frame = analysis.tables["separation" if score == "log_loss" else "separation_brier"].frame.iloc[0]
        assert frame[f"{score}_conf_share"] == pytest.approx(expected, abs=1e-4)
        assert frame[f"{score}_conf_share_low"] - 1e-4 <= expected <= frame[f"{score}_conf_share_high"] + 1e-4
    assert any(words in sentence for sentence in analysis.verdict)
    accuracy = analysis.verdict[0]
    if expected:
        assert "equivalent within 0.01 at beta=3" in accuracy
        assert row["accuracy"] == 0
    else:
        assert "changed by −" in accuracy


@pytest.fixture(scope="module")
def intervened(tmp_path_factory: pytest.TempPathFactory) -> Run:
    words = ("beta=0.1,1,10", "objective=cross_entropy", "seed=0..3", "tune_seeds=3", "interventions=yes")
    return analysed(tmp_path_factory.mktemp("intervened"), *words, test=600)


def test_the_2x2_gives_each_factor_what_it_made(intervened: Run) -> None:
    """In made-up logits the head's rate makes the noise, above 1 alone, and the initial magnitude the sharpness."""
    frame = intervened[2].tables["two_by_two"].frame.set_index(["beta", "metric"])
    assert len(frame) == 2 * 3
    np.testing.assert_allclose(frame["total"], frame["head_rate"] + frame["initial_magnitude"], atol=1e-14)
    for metric in ("accuracy", "repaired log loss"):
        row = frame.loc[(10.0, metric)]
        assert (row["head_rate_low"] > 0) if metric == "repaired log loss" else (row["head_rate_high"] < 0)
        assert abs(row["initial_magnitude"]) < 0.1 * abs(row["head_rate"])
    assert frame.loc[(0.1, "log loss")]["initial_magnitude_low"] > 0.05
    assert abs(frame.loc[(0.1, "log loss")]["head_rate"]) < 0.05
    (said,) = (text for text in intervened[2].verdict if text.startswith("Beta split"))
    assert "accuracy changed by −" in said


def test_interventions_that_are_left_out_are_those_of_their_family_alone(tmp_path: Path) -> None:
    words = ("beta=1,10", "objective=cross_entropy", "seed=0..1", "lr=0.1", "head_init=0.1,1", "interventions=yes")
    analysis = analysed(tmp_path, *words)[2]
    (left_out,) = (text for text in analysis.warnings if text.startswith("Left out, interventions"))
    assert left_out == "Left out, interventions on mlp_128_128 head_init=0.1: its head's factors are set by hand."
    assert set(analysis.tables["interventions"].frame["variant"]) == {"head_init=1.0"}


def test_interventions_are_tuned_like_the_arms_they_are_compared_with(intervened: Run) -> None:
    store, settings, analysis = intervened
    more = interventions.more(settings)
    (family,) = tuning.tuned(settings, store.scores(settings.select), more)
    assert len(family.arms) == 3 + 2 * 4
    assert len({arm.rates for arm in family.arms}) == 1
    frame = analysis.tables["interventions"].frame
    kinds = list(interventions.KINDS)
    assert frame.groupby("beta")["intervention"].apply(list).to_dict() == {0.1: kinds, 10.0: kinds}
    tried = analysis.tables["intervention_rates"].frame.groupby(["beta", "intervention"])["rate"].nunique()
    assert set(tried) == {analysis.tables["rates"].frame.groupby("beta")["rate"].nunique().max()}


def test_factors_of_the_optimizer() -> None:
    def factors(*words: str) -> dict[str, Trial]:
        settings = resolve(parse(["beta=1,10", "objective=cross_entropy", "interventions=yes", *words]))
        grid = list(tuning.templates(settings))
        return {part.kind: part.template for part in interventions.parts(settings, grid)}

    sgd, adam = factors("reference=1"), factors("optimizer=adam", "lr=0.1", "weight_decay=0.1")
    assert (sgd["head rate"].head_lr, sgd["initial magnitude"].head_init) == (100, 10)
    assert (adam["head rate"].head_lr, adam["head rate"].head_decay) == (10, 0.1)
    assert (sgd["switch to beta"].beta, sgd["switch to beta"].switch_from) == (10, 1)
    assert (sgd["switch from beta"].beta, sgd["switch from beta"].switch_from) == (1, 10)
    for words in ("clip=1", "head_lr=2", "epochs=0", "interventions=no", "objective=label_smoothing:0.1"):
        on = [] if words.startswith("interventions") else ["interventions=yes"]
        settings = resolve(parse(["beta=1,10", *on, words]))
        assert not interventions.parts(settings, list(tuning.templates(settings))), words


def test_controls_must_be_told_apart_from_the_reference_or_not(intervened: Run) -> None:
    frame = intervened[2].tables["controls"].frame.set_index("control")
    assert frame["passed"].all()
    assert list(frame.index) == [controls.RESCALED, controls.UNDERTRAINED, controls.IDENTITY]
    assert frame.loc[controls.UNDERTRAINED, "log_loss_dyn_low"] > 0
    assert abs(frame.loc[controls.IDENTITY, "log_loss_total"]) < 1e-6
    said = " ".join(intervened[2].verdict)
    assert said.count("as expected") == 3


def test_a_study_without_power_says_so(tmp_path: Path) -> None:
    def lazy(trial: Trial, truth: Split, labels: Split) -> Split:
        return {name: noisy(u, trial, name, 0.5) for name, u in truth.items()}

    _, _, analysis = analysed(tmp_path, "beta=0.1,1", "objective=cross_entropy", "seed=0..1", "lr=0.1", shape=lazy)
    assert not analysis.tables["controls"].frame.set_index("control").loc[controls.UNDERTRAINED, "passed"]
    assert any("no power" in sentence for sentence in analysis.verdict)


def test_the_same_training_in_every_unit_of_the_rate() -> None:
    for unit, expected in (("lr", 0.2), ("lr_rel", 0.2), ("lr_eff", 0.002)):
        words = ["beta=1,10", "objective=cross_entropy", "interventions=yes", f"{unit}=0.2", "seed=0"]
        settings = resolve(parse(words))
        pair = controls.identity(settings, tuning.arms(settings, lambda trial: 1.0))
        assert pair is not None
        (trial,) = pair[1].trials.values()
        assert (trial.lr, trial.head_lr, trial.head_init, trial.beta) == (expected, 100, 10, 1)


def test_what_calibrators_say_of_their_calibration_set_is_a_warning(tmp_path: Path) -> None:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0..1", "lr=0.1")
    for place, (names, others) in enumerate((("vector_scaling,quadratic_scaling", True), (None, False))):
        chosen = () if names is None else (f"calibrator=temperature_scaling,{names}",)
        store, settings = make(tmp_path / str(place), *words, *chosen, classes=40)
        analysis = STUDY.analyse(settings, store)
        assert sum(w.startswith("vector_scaling: ") and "for 80 parameters" in w for w in analysis.warnings) == 1
        # Of all calibrators, one for two classes is no loss; one that was asked for by name is.
        assert any("quadratic_scaling" in w for w in analysis.warnings) == others


def test_a_calibrator_that_refuses_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib_bench.baselines import venn_abers

    monkeypatch.setattr(venn_abers, "LIMIT", 100)
    store, settings = make(
        tmp_path / "run", "beta=0.1,1", "objective=cross_entropy", "seed=0..1", "lr=0.1",
        "calibrator=temperature_scaling,venn_abers,platt_scaling",
    )  # fmt: skip
    analysis = STUDY.analyse(settings, store)
    assert any(w.startswith("Left out, venn_abers: ") and "limit of 100" in w for w in analysis.warnings)
    assert set(analysis.tables["baselines"].frame["method"]) == {"raw", "temperature_scaling", "platt_scaling"}


def test_one_seed_is_said_in_the_verdict(tmp_path: Path) -> None:
    _, _, analysis = analysed(tmp_path, "beta=0.1,1", "objective=cross_entropy", "seed=0", "lr=0.1")
    assert "intervals over test examples only" in analysis.verdict[0]


def test_every_trial_of_a_report_is_planned(intervened: Run) -> None:
    store, settings, analysis = intervened
    planned = {trial.key for trial in STUDY.plan(settings, store.scores(settings.select))}
    shown = set(analysis.tables["trials"].frame["key"])
    assert shown <= planned
    assert len(shown) == (3 + 8 + 2) * 4
    assert {arm.label for arm in analysis.result.arms} >= {"beta=1 head_lr=100", "beta=1 switched from 10"}  # type: ignore[attr-defined]
    for draw in STUDY.figures.values():
        draw(analysis)


@pytest.mark.slow
def test_digits_end_to_end(tmp_path: Path) -> None:
    from calib_bench.cli import main

    words = ["model=mlp_64", "beta=1,10", "objective=cross_entropy", "lr_rel=0.25,0.5", "seed=0..3"]
    words += ["epochs=40", "extend=0", "calibrator=temperature_scaling", "interventions=yes"]
    words += ["wandb=disabled", "workers=1", f"out={tmp_path}"]
    assert main(["run", *words]) == 0
    tables = tmp_path / "digits-separation" / "report" / "tables"
    found = pd.read_csv(tables / "controls.csv").set_index("control")
    assert found["passed"].all()
    assert abs(found.loc[controls.IDENTITY, "log_loss_total"]) < 1e-4
    design = pd.read_csv(tables / "two_by_two.csv")
    assert len(design) == 3
    assert "Positive control" in (tables.parent / "report.html").read_text()


def known(control: str, models: dict[str, bool]) -> list[dict[str, Any]]:
    """Rows of a control whose changes are 0.1 (log loss) and -0.01 (accuracy) times the length of a model's name."""
    rows = []
    for model, passed in models.items():
        dyn = len(model) * (0.1 if control == controls.UNDERTRAINED else 1e-17)
        row = {"model": model, "control": control, "passed": passed, "trained": "1 of 8 epochs", "brier_dyn": 0.0}
        rows.append(row | {"log_loss_dyn": dyn, "log_loss_dyn_low": dyn / 2, "log_loss_dyn_high": 2 * dyn})
        rows[-1] |= {"accuracy": -dyn / 10, "accuracy_low": -dyn / 5, "accuracy_high": -dyn / 20}
    return rows


def test_controls_of_many_references_are_told_together() -> None:
    good = {"a": True, "bb": True, "ccc": True}
    kinds = (controls.RESCALED, controls.UNDERTRAINED)
    frame = pd.DataFrame([row for kind in kinds for row in known(kind, good)])
    negative, positive = controls.told(frame)
    assert negative.startswith("Negative control, 3 references: rescaling the reference's logits moves dynamics")
    assert negative.endswith("at most 3e-17, as expected.")
    span = f"{number(0.1)} to {number(0.3)} nats and accuracy by {number(-0.03)} to {number(-0.01)}, as expected."
    assert positive.endswith(f"training the reference for 1 of 8 epochs moves repaired log loss by {span}")
    assert controls.outcome(frame) == ("All 6 controls passed.",)
    frame = pd.DataFrame([*known(kinds[0], good), *known(kinds[1], {**good, "bb": False})])
    said = "which for bb may be 0: the study has no power to detect a change of this size."
    assert controls.told(frame)[1].endswith(said)
    assert controls.outcome(frame)[0].startswith("1 of 6 controls failed (the reference trained")
    few = frame[frame["model"] != "a"]
    assert controls.told(few) == controls.words(few)
    untrained = controls.told(few.replace("1 of 8 epochs", "0 of 1 epochs"))[-1]
    assert "leaving the reference untrained moves repaired log loss by" in untrained
    assert controls.told(few.iloc[:0]) == []


def test_few_tuning_seeds_and_a_collapsed_seed_are_told_everywhere(tmp_path: Path) -> None:
    def broken(trial: Trial, truth: Split, labels: Split) -> Split:
        Z = shape(trial, truth, labels)
        return {k: 1e-3 * torch.randn_like(z) for k, z in Z.items()} if (trial.beta, trial.seed) == (10.0, 3) else Z

    torch.manual_seed(0)
    words = ("beta=1,10", "objective=cross_entropy", "seed=0..4", "tune_seeds=2")
    store, settings = make(tmp_path / "run", *words, "calibrator=temperature_scaling", shape=broken)
    analysis = STUDY.analyse(settings, store)
    row = analysis.tables["separation"].frame.iloc[0]
    assert row["tuning"] == "few seeds"
    said = " ".join((*analysis.verdict, *analysis.summary))
    assert "changed by" not in said.split("Positive control")[0]
    assert "Beta changes what is learned" not in said
    assert "Collapse, mlp_128_128 beta=10 cross_entropy: 1 of 5 trials, 20% [1%, 72%]" in said
    (few,) = (text for text in analysis.warnings if text.startswith("Few seeds"))
    assert "2 seeds chose the rate of every arm" in few
    (kinds,) = (text for text in analysis.warnings if text.startswith("Trials collapsed"))
    assert "seed=0..19" in kinds
    assert row["two_kinds"] == "this arm"
    assert "two kinds: whose seeds collapsed in part" in analysis.tables["separation"].note
    assert "no effect is established" in kinds
    collapse = analysis.tables["collapse"].frame.iloc[0]
    assert collapse["accuracy_without"] > collapse["accuracy"]
    details = " ".join(text for detail in page.details(analysis) for text in detail.text)
    assert "not established" in details
