"""Parts of the separation study on planted truths: equal confidence, refinement, factorial, seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats
from synthetic import facts, labels_and_truth, make, splits_of
from torch import Tensor

from calib_bench import metrics, registry
from calib_bench.analysis import arms as arm_rows
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions, rate_choice, seed_spread
from calib_bench.analysis import warnings as warning_words
from calib_bench.analysis.calibration_variance import fitted_to
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.findings import EQUAL, Evidence, Finding, evidence, findings_of
from calib_bench.analysis.measure import Measures, measure_arm
from calib_bench.analysis.result_rows import Row, adjusted, is_significant
from calib_bench.analysis.tables import TableSpec, make_tables
from calib_bench.commands import table_ties
from calib_bench.core.baseline import Calibrator
from calib_bench.core.settings import Settings, parse
from calib_bench.core.trial import Scores, Trial, TrialResult
from calib_bench.inference import choice_variance, crossed_interval, selected_gain, variance_shares
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.report.tables import latex, markdown
from calib_bench.store.store import Store
from calib_bench.studies.separation import equal_confidence as matched
from calib_bench.studies.separation import factorial, page, refinement
from calib_bench.studies.separation import study as separation
from calib_bench.studies.stability.rows import peak_rows
from calib_bench.system.random import stream
from calib_bench.tracking import content

CLASSES = 4
REFERENCE, SHARPER, WRONGER, SKEWED, CONSTANT = 1.0, 0.1, 10.0, 3.0, 0.3
CALIBRATORS = ("temperature_scaling", "vector_scaling", "structured_matrix_scaling", "isotonic")
REPAIR = registry.calibrators(("temperature_scaling",))


def logits(beta: float, seed: int, split: str, u: Tensor, skew: Tensor) -> Tensor:
    """Z of a planted arm: the reference at SHARPER twice as steep, at WRONGER with classes swapped on some rows, so
    that the confidences are the reference's, at SKEWED with another factor for each class, at CONSTANT all zero."""
    Z = u + 0.5 * torch.randn(u.shape, generator=stream("noise", split, seed))
    if beta == SHARPER:
        return 2 * Z
    if beta == WRONGER:
        swap = torch.rand(len(u), generator=stream("swap", split, seed)) < 0.3
        top = Z.topk(2, 1).indices
        swapped = Z.scatter(1, top, Z.gather(1, top.flip(1)))
        return torch.where(swap[:, None], swapped, Z)
    if beta == SKEWED:
        return Z * skew
    return torch.zeros_like(Z) if beta == CONSTANT else Z


def planted(path: Path, betas: tuple[float, ...], seeds_: str = "0..3", test: int = 500) -> tuple[Store, Settings]:
    """A store of planted arms, 600 calibration examples."""
    words = ["task=digits", "lr=0.1", "epochs=2", "objective=cross_entropy", f"seed={seeds_}", "tune_seeds=4"]
    settings = resolve(parse([*words, f"beta={','.join(map(str, betas))}"]))
    store = Store(path)
    labels, truth = labels_and_truth(test, CLASSES)
    g = stream("more")
    truth["calibration"] = 2 * torch.randn(600, CLASSES, generator=g)
    labels["calibration"] = torch.multinomial(truth["calibration"].softmax(-1), 1, generator=g)[:, 0]
    skew = torch.tensor([0.3, 0.6, 1.5, 3.0])
    for trial in tuning.plan(settings, store.scores(settings.select)):
        data = store.write_splits(trial, splits_of(labels, CLASSES))
        Z = {s: (logits(trial.beta, trial.seed, s, u, skew) / trial.beta).float() for s, u in truth.items()}
        store.write(TrialResult(trial, "done", Z, {"epoch": [0.0]}, facts(trial)), data, {})
    store.write_study(settings, settings.command())
    return store, settings


class Measured:
    """A store and its arms measured, by beta."""

    def __init__(self, store: Store, settings: Settings, calibrators: dict[str, Calibrator]) -> None:
        self.store, self.settings, self.calibrators = store, settings, calibrators
        arms = tuning.arms(settings, store.scores(settings.select))
        self.arms = {arm.trial.beta: measure_arm(store, arm, calibrators) for arm in arms}

    def name(self, beta: float) -> Row:
        return {"model": "m", "variant": None, "beta": beta, "objective": "cross_entropy", "tuning": "tuned"}

    def matched(self, beta: float) -> pd.DataFrame:
        found = matched.rows(self.arms[REFERENCE], self.arms[beta], self.store, self.name(beta), False)
        return pd.DataFrame(found).set_index("metric")

    def refined(self, beta: float) -> refinement.Refined:
        measures = self.arms[beta]
        return refinement.refine(measures, refinement.begun(self.store, measures.arm, self.calibrators))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    store, settings = planted(tmp_path_factory.mktemp("parts") / "run", (REFERENCE, SHARPER, WRONGER, SKEWED, CONSTANT))
    return Measured(store, settings, registry.calibrators(CALIBRATORS))


# equal confidence


def test_an_arm_of_other_confidence_alone_is_the_reference_at_equal_confidence(world: Measured) -> None:
    frame = world.matched(SHARPER)
    assert frame.loc["log loss", "total"] > 0.05
    assert frame["temperature"].to_numpy() == pytest.approx(0.5, rel=1e-5)
    for metric in ("log loss", "Brier", "accuracy", "mean confidence"):
        assert abs(frame.loc[metric, "equal_confidence"]) < 1e-5
        assert abs(frame.loc[metric, "equal_confidence_reverse"]) < 1e-5
        assert frame.loc[metric, "confidence_alone"] == pytest.approx(frame.loc[metric, "total"], abs=1e-5)


def test_an_arm_of_equal_confidence_differs_by_dynamics_alone(world: Measured) -> None:
    frame = world.matched(WRONGER)
    assert frame["temperature"].to_numpy() == pytest.approx(1.0, rel=1e-5)
    assert frame.loc["log loss", "total_low"] > 0.05
    assert frame.loc["accuracy", "total_high"] < 0
    for metric in ("log loss", "Brier", "accuracy"):
        assert frame.loc[metric, "equal_confidence"] == pytest.approx(frame.loc[metric, "total"], abs=1e-5)
        assert abs(frame.loc[metric, "confidence_alone"]) < 1e-5
        assert abs(frame.loc[metric, "interaction"]) < 1e-5
    assert frame.loc["log loss", "share_low"] <= 1 <= frame.loc["log loss", "share_high"] + 1e-6


def test_parts_at_equal_confidence_add_up(world: Measured) -> None:
    frame = world.matched(SKEWED).drop(index="ECE")
    total = frame["equal_confidence"] + frame["confidence_alone"]
    np.testing.assert_allclose(frame["total"], total, atol=1e-13)
    crossed = frame["equal_confidence"] - frame["equal_confidence_reverse"]
    np.testing.assert_allclose(frame["interaction"], crossed, atol=1e-13)
    assert frame.loc["accuracy", "confidence_alone"] == 0
    assert abs(frame.loc["mean confidence", "equal_confidence"]) < abs(frame.loc["mean confidence", "total"]) / 2


def test_matched_cells_are_those_of_the_stored_logits(world: Measured) -> None:
    reference, arm = world.arms[REFERENCE], world.arms[SKEWED]
    found = matched.compare(reference, arm, world.store)
    trial, other = reference.arm.trials[2], arm.arm.trials[2]
    z, labels = world.store.logits(trial), world.store.labels(trial)
    T = math.exp(found.log_temperature[2])
    confidence = (trial.beta * z["calibration"].double() / T).softmax(-1).amax(-1).mean()
    target = (other.beta * world.store.logits(other)["calibration"].double()).softmax(-1).amax(-1).mean()
    assert float(confidence) == pytest.approx(float(target), abs=1e-11)
    Z = trial.beta * z["test"].double() / T
    loss = torch.nn.functional.cross_entropy(Z, labels["test"], reduction="none")
    torch.testing.assert_close(found.cells["log_loss"][2][2], loss)
    frame = world.matched(SKEWED)
    left = found.cells["log_loss"][3] - found.cells["log_loss"][2]
    oracle = crossed_interval(left, fit=found.fits["log_loss"]["equal_confidence"])
    assert frame.loc["log loss", "equal_confidence_low"] == oracle.low < crossed_interval(left).low

    def ece(measures: Measures) -> float:
        trials = measures.arm.trials.values()
        found = [metrics.ece(t.beta * world.store.logits(t)["test"].double(), labels["test"]) for t in trials]
        return float(torch.stack(found).mean())

    assert frame.loc["ECE", "total"] == pytest.approx(ece(arm) - ece(reference), abs=1e-12)


def test_a_matched_temperature_moves_as_its_influences_say() -> None:
    """Matched again without one calibration example, which both models lose: an oracle of the derivative."""
    g = stream("influence")
    Z, other = (3 * torch.randn(400, 3, generator=g, dtype=torch.float64) for _ in range(2))
    T = matched.temperature_for(Z, matched.doubt(other))
    assert T is not None
    log_T = matched._log_T_n(Z, T, other)
    assert float(log_T.mean()) == pytest.approx(math.log(T), abs=1e-12)
    for n in range(0, 400, 50):
        kept = torch.arange(400) != n
        again = matched.temperature_for(Z[kept], matched.doubt(other[kept]))
        assert again is not None
        assert math.log(again / T) == pytest.approx(-(float(log_T[n]) - math.log(T)) / 399, rel=0.02, abs=1e-6)
    y, h = torch.randint(3, (400,), generator=g), 1e-4
    slopes = matched._slopes(Z / T, y)
    for score in ("log_loss", "brier", "confidence"):
        up, here, down = (float(matched._scores(Z / (T * math.exp(k * h)), y)[score].mean()) for k in (1, 0, -1))
        assert slopes[score][0] == pytest.approx((up - down) / (2 * h), rel=1e-5)
        if score != "confidence":
            assert slopes[score][1] == pytest.approx((up - 2 * here + down) / h**2, rel=1e-3)


def test_seeds_with_tests_of_their_own_are_the_only_units(world: Measured) -> None:
    found = matched.rows(world.arms[REFERENCE], world.arms[WRONGER], world.store, world.name(WRONGER), True)
    frame = pd.DataFrame(found).set_index("metric")
    arm, reference = (world.arms[beta].examples["raw"]["log_loss"].mean(1) for beta in (WRONGER, REFERENCE))
    oracle = stats.ttest_1samp(arm - reference, 0).confidence_interval()
    assert frame.loc["log loss", "total_low"] == pytest.approx(oracle.low)
    assert (
        "t intervals over seeds, each with its own test"
        in matched.TABLE.table(frame.reset_index(), world.settings).note
    )


def test_what_no_temperature_reaches_is_left_out_and_said(world: Measured) -> None:
    found = matched.rows(world.arms[REFERENCE], world.arms[CONSTANT], world.store, world.name(CONSTANT), False)
    assert {(row["seeds"], row["unmatched"]) for row in found} == {(0, 4)}
    frame = pd.DataFrame(found)
    (said,) = matched.words(frame, world.settings)
    assert "4 of 4 seeds could not be compared" in said
    assert markdown(matched.TABLE.table(frame, world.settings))


def test_the_reference_is_at_its_own_confidence(world: Measured) -> None:
    reference = world.arms[REFERENCE]
    found = matched.compare(reference, reference, world.store)
    assert found.log_temperature == (0.0,) * 4
    points = pd.DataFrame(matched.points(found, world.name(REFERENCE)))
    raw = reference.frame[reference.frame["method"] == "raw"]
    for metric in ("accuracy", "log_loss", "brier"):
        np.testing.assert_allclose(points[metric], raw[metric], rtol=1e-12)


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.005, 0.995), st.sampled_from([1e-3, 1.0, 1e4]), st.integers(2, 6))
def test_a_temperature_gives_the_mean_confidence_asked_for(seed: int, share: float, scale: float, K: int) -> None:
    Z = scale * torch.randn(30, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = share * (1 - 1 / K)
    T = matched.temperature_for(Z, target)
    assert T is not None
    assert 1 - float((Z / T).softmax(-1).amax(-1).mean()) == pytest.approx(target, abs=1e-10)


def test_tiny_doubt_is_matched_to_its_digits() -> None:
    Z = torch.tensor([[60.0, 0.0, 0.0]], dtype=torch.float64)
    assert matched.doubt(Z) == pytest.approx(2 * math.exp(-60), rel=1e-12)
    T = matched.temperature_for(Z, 2 * math.exp(-200))
    assert pytest.approx(60 / 200, rel=1e-9) == T


@pytest.mark.parametrize(
    ("Z", "target"),
    [
        (torch.zeros(5, 4), 0.5),
        (torch.tensor([[1.0, 1.0, 0.0]]), 0.4),  # two classes tie: never more than 1/2 confident
        (torch.tensor([[1.0, 0.0, 0.0]]), 2 / 3),
        (torch.tensor([[1.0, 0.0, 0.0]]), 0.0),
    ],
)
def test_no_temperature_where_none_exists(Z: Tensor, target: float) -> None:
    assert matched.temperature_for(Z, target) is None


def test_words_on_equal_confidence_say_which_differ(world: Measured) -> None:
    frame = pd.concat([world.matched(beta).reset_index() for beta in (SHARPER, WRONGER)], ignore_index=True)
    first, second = matched.words(frame, world.settings)
    assert "as confident as the arm, log loss: established at beta=10" in first
    assert "Accuracy: established at beta=10; inconclusive at beta=0.1" in first
    assert "beta=" in second
    for table in (matched.TABLE.table(frame, world.settings), matched.OTHER_METRICS.table(frame, world.settings)):
        assert "4 seeds, 500 test examples; 95% intervals over seeds and test examples together" in table.note
        assert latex(table)
    assert set(matched.OTHER_METRICS.table(frame, world.settings).frame["metric"]) == {
        "Brier",
        "ECE",
        "mean confidence",
    }


# refinement


def test_the_row_of_temperature_scaling_is_confidence_and_dynamics(world: Measured) -> None:
    reference, arm = world.arms[REFERENCE], world.arms[SKEWED]
    found = refinement.rows(world.refined(REFERENCE), world.refined(SKEWED), world.name(SKEWED), False)
    (row,) = (r for r in found if (r["score"], r["family"]) == ("Brier", "temperature_scaling"))
    dyn = arm.examples["temperature_scaling"]["brier"] - reference.examples["temperature_scaling"]["brier"]
    total = arm.examples["raw"]["brier"] - reference.examples["raw"]["brier"]
    fit = fitted_to("brier", (1, arm, range(4)), (-1, reference, range(4)))
    assert fit is not None
    parts = (("refinement", dyn, fit), ("calibration", total - dyn, fit.negative()), ("total", total, None))
    for part, d_SN, how in parts:
        oracle = crossed_interval(d_SN, fit=how)
        assert row[f"{part}_change"] == oracle.mean
        assert (row[f"{part}_change_low"], row[f"{part}_change_high"]) == (oracle.low, oracle.high)


def test_calibration_and_refinement_add_up_for_every_family(world: Measured) -> None:
    frame = pd.DataFrame(refinement.rows(world.refined(REFERENCE), world.refined(WRONGER), world.name(WRONGER), False))
    assert len(frame) == 2 * 5
    np.testing.assert_allclose(
        frame["total_change"], frame["calibration_change"] + frame["refinement_change"], atol=1e-13
    )
    assert (frame["refinement_change_low"] > 0).all()
    raw = world.arms[WRONGER].examples["raw"]
    for score, column in refinement.SCORES.items():
        own = frame[frame["score"] == score]
        np.testing.assert_allclose(own["calibration"] + own["refinement"], float(raw[column].mean()), atol=1e-13)


def test_richer_families_repair_what_a_temperature_cannot(world: Measured) -> None:
    found = world.refined(SKEWED)
    frame = pd.DataFrame(refinement.rows(world.refined(REFERENCE), found, world.name(SKEWED), False))
    own = frame[frame["score"] == "log loss"].set_index("family")
    assert "temperature_scaling" not in found.choices["log_loss"]
    assert own.loc["temperature_scaling", "refinement_change_low"] > 0.02
    assert abs(own.loc["vector_scaling", "refinement_change"]) < 0.01
    assert own.loc[refinement.CHOSEN, "refinement_change"] < own.loc["temperature_scaling", "refinement_change"] / 2


def test_a_calibration_error_may_be_negative(world: Measured) -> None:
    """The truth itself, recalibrated on 80 examples by the richest family, gets worse."""
    truth = 2 * torch.randn(2000, CLASSES, generator=stream("truth"), dtype=torch.float64)
    y = torch.multinomial(truth.softmax(-1), 1, generator=stream("labels"))[:, 0]
    isotonic = world.calibrators["isotonic"]
    repaired = metrics.log_loss_n(isotonic.apply(isotonic.fit(truth[:80], y[:80]), truth), y)[None]
    trials = world.arms[REFERENCE].arm.trials
    arm = refinement.Refined((0,), {0: trials[0]}, *_risks(metrics.log_loss_n(truth, y)[None], repaired))
    row = next(row for row in refinement.rows(None, arm, {}, False) if row["family"] == "isotonic")
    assert row["calibration_high"] < 0
    assert "total_change" not in row


def _risks(raw: Tensor, repaired: Tensor) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, tuple]]:
    scores = ("log_loss", "brier")
    after = {name: dict.fromkeys(scores, repaired) for name in ("isotonic", refinement.CHOSEN)}
    return dict.fromkeys(scores, raw), after, dict.fromkeys(scores, ("isotonic",))


def test_folds_judge_what_they_did_not_fit() -> None:
    Z = torch.arange(60.0, dtype=torch.float64).reshape(20, 3)
    y = torch.arange(20) % 3

    def memorize(Z_NK: Tensor, y_N: Tensor) -> dict[str, Tensor]:
        return {"seen": Z_NK[:, 0]}

    def recall(params: dict[str, Tensor], Z_NK: Tensor) -> Tensor:
        assert not torch.isin(Z_NK[:, 0], params["seen"]).any()
        return torch.full_like(Z_NK, -math.log(3))

    judged: list[int] = []

    def count(params: dict[str, Tensor], Z_NK: Tensor) -> Tensor:
        judged.extend(Z_NK[:, 0].int().tolist())
        return params["prior"].expand(len(Z_NK), 3)

    def prior(Z_NK: Tensor, y_N: Tensor) -> dict[str, Tensor]:
        return {"prior": (torch.bincount(y_N, minlength=3).double() / len(y_N)).log()}

    calibrators = {
        name: Calibrator(fit, apply, keeps_argmax=False, reference="", title="")
        for name, fit, apply in (("memory", memorize, recall), ("prior", prior, count))
    }
    found = refinement.cross_validated(Z[None], y[None], calibrators)[0]
    assert found["memory"]["log_loss"] == pytest.approx(math.log(3))
    assert sorted(judged) == list(range(0, 60, 3))
    assert found["prior"]["log_loss"] > math.log(3) - 0.01
    assert [found] == refinement.cross_validated(Z[None], y[None], calibrators)


@pytest.mark.parametrize("N", [60, 63])
def test_sets_are_cross_validated_together_as_alone(N: int) -> None:
    """Also where folds differ in size."""
    g = stream("together")
    Z = 2 * torch.randn(4, N, 3, generator=g, dtype=torch.float64)
    y = torch.multinomial(Z.softmax(-1).flatten(0, 1), 1, generator=g).view(4, N)
    calibrators = registry.calibrators(refinement.FAMILIES)
    found = refinement.cross_validated(Z, y, calibrators)
    alone = [refinement.cross_validated(z[None], y_N[None], calibrators)[0] for z, y_N in zip(Z, y, strict=True)]
    slow = {name: replace(own, fit_stack=None) for name, own in calibrators.items()}
    for many, one, plain in zip(found, alone, refinement.cross_validated(Z, y, slow), strict=True):
        for name in refinement.FAMILIES:
            assert many[name] == pytest.approx(plain[name], abs=1e-9)
            assert one[name] == pytest.approx(plain[name], abs=1e-9)


def test_without_a_choice_there_are_only_the_families(world: Measured) -> None:
    kept = refinement.refine(world.arms[SHARPER], None)
    found = refinement.rows(world.refined(REFERENCE), kept, world.name(SHARPER), False)
    assert [row["family"] for row in found] == 2 * list(CALIBRATORS)


def test_words_on_refinement_compare_the_families(world: Measured) -> None:
    reference = world.refined(REFERENCE)
    found = [row for beta in (SHARPER, WRONGER) for row in
             refinement.rows(reference, world.refined(beta), world.name(beta), False)]  # fmt: skip
    found += refinement.rows(None, reference, world.name(REFERENCE), False)
    frame = pd.DataFrame(found)
    said = refinement.words(frame, world.settings)
    assert "which no recalibration repairs: established at beta=10; inconclusive at beta=0.1" in said[0]
    assert said[1].startswith("At beta=10 refinement changed after cross-validated by 0.")
    assert said[1].endswith("All families agree on its sign.")
    chosen, every = refinement.TABLE.table(frame, world.settings), refinement.EVERY_FAMILY.table(frame, world.settings)
    assert (len(chosen.frame), len(every.frame)) == (6, 30)
    assert "4 seeds, 500 test examples" in chosen.note
    assert latex(chosen)
    assert markdown(every)


# factorial


def grid(effect: Callable[[int, int], dict[str, float]], S: int = 6, noise: float = 0.01) -> list[Row]:
    """Points of 4 betas and 3 objectives: accuracy, raw and repaired log loss of `effect`, and noise, common to the
    methods."""
    rng = np.random.default_rng(0)
    found = []
    for a, beta in enumerate((0.1, 0.3, 1.0, 3.0)):
        for b, objective in enumerate(("cross_entropy", "label_smoothing:0.1", "confidence_penalty:0.1")):
            for seed in range(S):
                planted, e = effect(a, b), noise * rng.standard_normal(2)
                for method in ("raw", "temperature_scaling", "equal_confidence"):
                    loss = planted["raw" if method == "raw" else "repaired"] + e[1]
                    found.append(
                        {"model": "m", "variant": None, "beta": beta, "objective": objective, "seed": seed}
                        | {"method": method, "accuracy": planted["accuracy"] + e[0], "log_loss": loss, "brier": loss}
                    )
    return found


def confidence_only(a: int, b: int) -> dict[str, float]:
    return {"accuracy": 0.9, "repaired": 0.3, "raw": 0.3 + 0.1 * a}


def dynamic(a: int, b: int) -> dict[str, float]:
    return {"accuracy": 0.9 + 0.02 * a, "repaired": 0.3 - 0.05 * a, "raw": 0.3 + 0.2 * b}


def test_variance_goes_to_the_factor_that_was_planted() -> None:
    frame = pd.DataFrame(factorial.rows(grid(confidence_only))).set_index("result")
    assert frame.loc["raw log loss", "beta_low"] > 0.9
    for result in ("accuracy", "repaired log loss", "log loss at equal confidence"):
        assert frame.loc[result, "beta_low"] == 0
        assert frame.loc[result, "seed"] > 0.6
    frame = pd.DataFrame(factorial.rows(grid(dynamic))).set_index("result")
    assert frame.loc["accuracy", "beta_low"] > 0.6
    assert frame.loc["raw log loss", "objective_low"] > 0.9
    total = frame[["beta", "objective", "interaction", "seed"]].sum(axis=1)
    np.testing.assert_allclose(total, 1.0, atol=1e-12)


def test_beta_has_no_effect_at_equal_confidence_where_none_was_planted(settings: Settings) -> None:
    frame = pd.DataFrame(factorial.tests(grid(confidence_only)))
    assert len(frame) == 3 * 3
    assert (frame["holm"] > 0.05).all()
    (said,) = factorial.tests_words(frame, settings)
    assert "established" not in said
    assert said.count("inconclusive with cross_entropy, label_smoothing:0.1, confidence_penalty:0.1") == 3


def test_an_effect_of_beta_is_found_within_each_objective(settings: Settings) -> None:
    frame = pd.DataFrame(factorial.tests(grid(dynamic)))
    assert (frame["holm"] < 0.05).all()
    assert (frame["holm_without"] < 0.05).all()
    assert set(frame["best"]) == {3.0}
    assert frame["range"].to_numpy() == pytest.approx([0.06] * 3 + [0.15] * 6, abs=0.02)
    (said,) = factorial.tests_words(frame, settings)
    assert "accuracy (any temperature): established with cross_entropy, label_smoothing:0.1" in said
    assert "also without the most extreme beta" in said


def test_an_effect_that_rests_on_one_beta_is_said_to(settings: Settings) -> None:
    def one(a: int, b: int) -> dict[str, float]:
        return {"accuracy": 0.9 - 0.2 * (a == 3), "repaired": 0.3, "raw": 0.3}

    frame = pd.DataFrame(factorial.tests(grid(one)))
    accuracy = frame[frame["result"] == "accuracy"]
    assert (accuracy["holm"] < 0.05).all()
    assert (accuracy["holm_without"] > 0.05).all()
    assert set(accuracy["extreme"]) == {3.0}
    assert (
        "established with cross_entropy (beta=3), label_smoothing:0.1 (beta=3)"
        in factorial.tests_words(frame, settings)[0]
    )


def test_with_few_seeds_no_test_could_say_anything(settings: Settings) -> None:
    points = [p for p in grid(dynamic, S=2) if p["beta"] in (0.1, 1.0)]
    frame = pd.DataFrame(factorial.tests(points))
    assert (frame["least_p"] == 0.5).all()
    assert "inconclusive, with so few seeds" in factorial.tests_words(frame, settings)[0]
    one = [p for p in points if p["seed"] == 0]
    assert math.isnan(factorial.rows(one)[0]["beta_low"])
    assert markdown(factorial.TABLE.table(pd.DataFrame(factorial.rows(one)), settings))


def test_a_layout_is_whole() -> None:
    frame = pd.DataFrame(grid(dynamic))
    frame = frame[~((frame["beta"] == 3.0) & (frame["objective"] == "cross_entropy"))]
    frame = frame[~((frame["beta"] == 0.1) & (frame["seed"] == 2))]
    values, betas, objectives, dropped = factorial.layout(frame, "accuracy", "raw")
    assert (betas, len(objectives), values.shape, dropped) == ([0.1, 0.3, 1.0], 3, (3, 3, 5), 1)
    own = frame[(frame["method"] == "raw") & (frame["beta"] == 1.0) & (frame["objective"] == "cross_entropy")]
    np.testing.assert_array_equal(values[2, 0], own[own["seed"] != 2]["accuracy"])


def test_shares_are_those_of_the_inference(settings: Settings) -> None:
    points = grid(dynamic)
    values, *_ = factorial.layout(pd.DataFrame(points), "log_loss", "raw")
    oracle = variance_shares(values)
    row = next(row for row in factorial.rows(points) if row["result"] == "raw log loss")
    assert (row["beta"], row["beta_low"], row["objective_high"]) == (
        oracle.first.mean, oracle.first.low, oracle.second.high
    )  # fmt: skip
    frame = pd.DataFrame(factorial.rows(points))
    (said,) = factorial.words(frame, settings)
    assert said.startswith("Of the variance over beta, objective and seed, beta's share is: accuracy ")
    assert "6 seeds in the layout, 4 betas, 3 objectives" in factorial.TABLE.table(frame, settings).note
    assert latex(factorial.TABLE.table(frame, settings))
    assert markdown(factorial.TESTS_TABLE.table(pd.DataFrame(factorial.tests(points)), settings))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return resolve(parse(["task=digits", "seed=0..4", "tune_seeds=2", "beta=0.1,1,10", "lr=0.03,0.1,0.3"]))


# seeds


def sown(
    beta: float, values: np.ndarray, selection: list[float], objective: str = "cross_entropy"
) -> seed_spread.Seeds:
    """An arm whose per-example scores [S, N] are `values` for every result."""
    name = {"model": "m", "variant": None, "beta": beta, "objective": objective, "tuning": "tuned"}
    examples = {result: torch.from_numpy(values) for result in seed_spread.GAINS}
    means = {result: tuple(values.mean(1)) for result in seed_spread.GAINS}
    S = len(values)
    return seed_spread.Seeds(name, tuple(range(S)), means, examples, dict(enumerate(selection)), (20, 0), (S, 0), True)


def normal(S: int, N: int, spread: float, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 0.5 + shift + spread * rng.standard_normal((S, 1)) + 0.1 * rng.standard_normal((S, N))


def test_spread_peak_and_pick(settings: Settings) -> None:
    values = normal(6, 50, 0.01)
    arm = sown(0.1, values, [3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    reference = sown(1.0, normal(6, 50, 0.01, seed=1), [1.0] * 6)
    accuracy, loss = seed_spread.rows(reference, arm)
    means = values.mean(1)
    assert accuracy["spread"] == pytest.approx(means.std(ddof=1))
    assert (accuracy["peak"], loss["peak"]) == (means.max(), means.min())
    assert accuracy["picked"] == means[1]
    ratio = means.std(ddof=1) / np.std(reference.means["accuracy"], ddof=1)
    assert accuracy["spread_ratio"] == pytest.approx(ratio)
    assert accuracy["spread_ratio_low"] < 1 < accuracy["spread_ratio_high"]
    (own, _) = seed_spread.rows(reference, reference)
    assert "spread_ratio" not in own
    frame = pd.DataFrame([*seed_spread.rows(reference, arm), *seed_spread.rows(reference, reference)])
    said = " ".join(seed_spread.words(frame, settings))
    assert "times at beta=0.1 (inconclusive)" in said
    assert "The single best seed" in said
    assert latex(seed_spread.TABLE.table(frame, settings))


def test_a_much_larger_spread_is_said(settings: Settings) -> None:
    reference = sown(1.0, normal(12, 400, 0.01, seed=1), [1.0] * 12)
    frame = pd.DataFrame(seed_spread.rows(reference, sown(0.1, normal(12, 400, 1.0), [1.0] * 12)))
    said = " ".join(seed_spread.words(frame, settings))
    assert "How accuracy depends on the seed, its standard deviation compared with beta=1: " in said
    assert "inconclusive" not in said


def test_divergence_is_counted_in_the_store(tmp_path: Path) -> None:
    words = ("beta=1,10", "seed=0..4", "tune_seeds=2", "calibrator=temperature_scaling")
    store, settings = make(tmp_path / "run", *words, diverged={(10.0, 4), (10.0, 3)})
    found = {}
    for arm in tuning.arms(settings, store.scores(settings.select)):
        name = {"model": "m", "variant": None, "beta": arm.trial.beta, "objective": "cross_entropy", "tuning": "tuned"}
        found[arm.trial.beta] = seed_spread.read(measure_arm(store, arm, REPAIR), store, settings, name)
    # Three rates with two tuning seeds each, and three more seeds at the chosen rate.
    assert (found[1.0].tried, found[1.0].chosen) == ((9, 0), (3, 0))
    assert (found[10.0].tried, found[10.0].chosen) == ((9, 2), (3, 2))
    assert found[10.0].fresh
    assert found[10.0].seeds == (0, 1, 2)
    assert [s for s, score in found[10.0].selection.items() if math.isinf(score)] == [3, 4]
    row = seed_spread.rows(found[1.0], found[10.0])[0]
    limits = stats.binomtest(2, 9).proportion_ci(method="exact")
    assert (row["failed_low"], row["failed_high"]) == pytest.approx((limits.low, limits.high))
    frame = pd.DataFrame([row, *seed_spread.rows(None, found[1.0])])
    said = seed_spread.words(frame, settings)
    assert any("Trials failed at beta=10; at the chosen rate, 67% [9%, 99%] of trials at beta=10" in s for s in said)
    (gain, *_) = seed_spread.gain([found[1.0], found[10.0], _copy(found[1.0], 0.1)], 1.0, False)
    assert (gain["betas"], gain["left_out"]) == (2, "10")
    assert seed_spread.gain([found[1.0], found[10.0]], 1.0, False) == []


def _copy(arm: seed_spread.Seeds, beta: float) -> seed_spread.Seeds:
    return seed_spread.Seeds(arm.name | {"beta": beta}, *(getattr(arm, f) for f in list(arm.__dataclass_fields__)[1:]))


def test_the_gain_is_that_of_left_out_choices(settings: Settings) -> None:
    S, N = 6, 300
    arms = [sown(b, normal(S, N, 0.01, shift, seed=int(10 * b)), [1 + shift + 0.01 * s for s in range(S)])
            for b, shift in ((0.1, -0.2), (1.0, 0.0), (10.0, 0.3))]  # fmt: skip
    rows = seed_spread.gain(arms, 1.0, False)
    oracle = selected_gain(
        [[arm.selection[s] for s in range(S)] for arm in arms], [arm.examples["log loss"].numpy() for arm in arms], 1
    )
    row = rows[0]
    assert row["result"] == "log loss"
    assert (row["gain"], row["gain_low"], row["gain_high"]) == (oracle.gain.mean, oracle.gain.low, oracle.gain.high)
    assert row["gain"] == pytest.approx(-0.2, abs=0.03)
    assert (row["chosen"], row["choices"], row["betas"]) == (0.1, "0.1 (6)", 3)
    frame = pd.DataFrame(rows)
    (said,) = seed_spread.gain_words(frame, settings)
    assert said.startswith("Choosing beta on the selection split (3 betas, 6 seeds; all together choose beta=0.1)")
    # The same scores are a gain as a loss and a loss as an accuracy.
    assert "(a gain), accuracy by" in said
    assert "(a loss)" in said
    assert "6 seeds, 300 test examples" in seed_spread.GAIN_TABLE.table(frame, settings).note


def test_the_limits_of_a_gain_stay_in_the_range_of_a_difference() -> None:
    right = np.random.default_rng(0).random((2, 50)) < [[0.95], [0.6]]
    arms = [sown(0.1, right.astype(float), [0.0, 0.0]), sown(1.0, np.full((2, 50), 0.5), [1.0, 1.0])]
    gains = {row["result"]: row for row in seed_spread.gain(arms, 1.0, False)}
    assert gains["log loss"]["gain_high"] > 1
    assert (gains["accuracy"]["gain_low"], gains["accuracy"]["gain_high"]) == (-1, 1)


def test_no_gain_is_claimed_where_there_is_none(settings: Settings) -> None:
    """Betas that differ by luck alone: the best on the selection split is no better on the test split."""
    rng = np.random.default_rng(3)
    arms = [sown(b, normal(5, 200, 0.02, seed=10 + i), list(rng.standard_normal(5))) for i, b in
            enumerate((0.1, 0.3, 1.0, 3.0, 10.0))]  # fmt: skip
    frame = pd.DataFrame(seed_spread.gain(arms, 1.0, False))
    assert (frame["gain_low"] < 0).all()
    assert (frame["gain_high"] > 0).all()
    assert "(inconclusive" in seed_spread.gain_words(frame, settings)[0]


def test_always_choosing_the_reference_gains_exactly_nothing(settings: Settings) -> None:
    arms = [sown(1.0, normal(4, 50, 0.01), [0.0] * 4), sown(3.0, normal(4, 50, 0.01, seed=2), [1.0] * 4)]
    frame = pd.DataFrame(seed_spread.gain(arms, 1.0, False))
    assert (frame["gain"] == 0).all()
    assert "always chooses the reference, beta=1: it gains nothing." in seed_spread.gain_words(frame, settings)[0]


# seeds of two kinds


def trials(accuracy: list[float], beta: float = 1.0, **more: object) -> pd.DataFrame:
    """A frame of an arm's trials: accuracy by seed, NaN where it diverged, and a repaired loss that follows it."""
    name = {"model": "m", "variant": None, "beta": beta, "objective": "cross_entropy", **more}
    rows = [
        {
            **name,
            "seed": s,
            "status": "done" if a == a else "diverged",
            "accuracy": a,
            "repaired_log_loss": 2.3 * (1 - a),
        }
        for s, a in enumerate(accuracy)
    ]
    return pd.DataFrame(rows)


def test_collapsed_seeds_are_counted_with_a_rate_and_a_mean_without_them(settings: Settings) -> None:
    kept = [0.90, 0.91, 0.905, 0.895]
    frame = pd.concat([trials([*kept, 0.12, math.nan]), trials([0.9, 0.91, 0.92, 0.93, 0.9, 0.9], beta=0.1)])
    (row,) = collapse.rows(frame, settings)
    limits = stats.binomtest(2, 6).proportion_ci(method="exact")
    assert (row["collapsed_low"], row["collapsed_high"]) == pytest.approx((limits.low, limits.high))
    assert (row["collapsed_trials"], row["seeds"], row["beta"]) == ("2 of 6", 6, 1.0)
    assert row["accuracy"] == pytest.approx(np.mean([*kept, 0.12]))
    assert row["accuracy_without"] == pytest.approx(np.mean(kept))
    oracle = stats.ttest_1samp(kept, 0).confidence_interval()
    assert (row["accuracy_without_low"], row["accuracy_without_high"]) == pytest.approx((oracle.low, oracle.high))
    (said,) = collapse.words([row])
    assert "m beta=1 cross_entropy: 2 of 6 trials, 33% [4%, 78%]" in said
    assert "without collapsed seeds 0.9025" in said
    (warned,) = collapse.warnings([row])
    assert "do not cover further collapses" in warned
    assert "seed=0..19" in warned
    note = collapse.TABLE.table(pd.DataFrame([row]), settings).note
    assert "do not cover collapses that were not seen" in note
    assert collapse.warnings([]) == [] == collapse.rows(pd.DataFrame(), settings)
    (near_one,) = collapse.rows(trials([0.99, 1.0, 0.96, 0.12]), settings)
    assert near_one["accuracy_without_high"] == 1


def test_trials_that_guess_have_collapsed_even_if_all_do(settings: Settings) -> None:
    (row,) = collapse.rows(trials([0.1, 0.1, 0.1]).assign(status=collapse.DEAD), settings)
    assert (row["collapsed_trials"], row["collapsed"]) == ("3 of 3", 1.0)
    assert "accuracy_without" not in row
    (said,) = collapse.words([row])
    assert said.endswith("100% [29%, 100%]; mean accuracy 0.1000; mean repaired log loss 2.0700.")


def test_interventions_at_one_beta_are_arms_of_their_own(settings: Settings) -> None:
    one, other = trials([0.9, 0.91, 0.9], intervention="head rate"), trials([0.9, 0.1, 0.91], intervention="switch")
    (row,) = collapse.rows(pd.concat([one, other]), settings)
    assert (row["intervention"], row["collapsed_trials"]) == ("switch", "1 of 3")


def test_seeds_that_are_all_finite_are_no_proof_that_none_collapses(settings: Settings) -> None:
    frame = pd.DataFrame(seed_spread.rows(None, sown(1.0, normal(5, 40, 0.01), [1.0] * 5)))
    assert (
        "no collapse among 5 seeds still allows a rate of up to 52% of trials"
        in seed_spread.TABLE.table(frame, settings).note
    )


def frames_with(found: pd.DataFrame, **more: list[Row]) -> dict[str, pd.DataFrame]:
    """Frames of a study of which only some have rows."""
    rows: dict[str, list[Row]] = {key: [] for key in collapse.ESTABLISHING}
    return {name: pd.DataFrame(some) for name, some in (rows | more).items()} | {"trials": found}


def test_an_arm_with_collapsed_seeds_establishes_nothing(settings: Settings) -> None:
    name = {"model": "m", "variant": None, "objective": "cross_entropy", "tuning": "tuned"}
    sure = {"x": 1.0, "x_low": 0.5, "x_high": 1.5, "x_holm": 0.001}
    rows = [{**name, "beta": beta, **sure} for beta in (0.1, 10.0)]
    design = [
        {"model": "m", "variant": None, "beta": beta, "metric": "accuracy", "head_rate": 1.0} for beta in (0.1, 10)
    ]
    kept = [0.9, 0.91, 0.905, 0.895, 0.9]
    lone = trials([*kept[:4], 0.12], beta=10.0)
    marked = frames_with(
        pd.concat([trials(kept), trials(kept, beta=0.1), lone]),
        separation=rows,
        two_by_two=design,
        interventions=[{**row, "intervention": what} for row in rows for what in ("train at beta", "head rate")],
        best_beta=[{key: name[key] for key in ("model", "variant", "objective")}],
    )
    collapse.mark(marked, settings)
    untouched, mixed = marked["separation"].to_dict("records")
    assert (is_significant(untouched, "x"), is_significant(mixed, "x"), mixed["two_kinds"]) == (True, False, "this arm")
    reason = "some seeds of the arm or its reference collapsed"
    assert Finding.of(mixed, "x").note == f" (not established: {reason})"
    text = evidence(findings_of([untouched, mixed], "x"))
    assert text == f"established at beta=0.1; not established at beta=10 ({reason})"
    assert not is_equal(mixed | {"x_low": -0.001, "x_high": 0.001})
    assert marked["two_by_two"]["two_kinds"].fillna("").tolist() == ["", "this arm"]
    assert marked["interventions"]["two_kinds"].fillna("").tolist() == ["", "", "this arm", ""]
    assert marked["best_beta"]["two_kinds"].tolist() == ["this arm"]
    assert "two_kinds" not in marked["matched"]


def test_a_reference_with_collapsed_seeds_revokes_its_family_and_a_collapse_of_all_nothing(settings: Settings) -> None:
    name = {"variant": None, "objective": "cross_entropy", "tuning": "tuned", "beta": 0.1}
    rows = [{"model": model, **name} for model in ("m", "n")]
    reference = frames_with(trials([0.9, 0.91, 0.9, 0.12, 0.9]), separation=rows)
    collapse.mark(reference, settings)
    assert reference["separation"]["two_kinds"].fillna("").tolist() == ["reference", ""]
    dead = frames_with(trials([0.1, 0.1, 0.1]).assign(status=collapse.DEAD), separation=rows)
    collapse.mark(dead, settings)
    assert "two_kinds" not in dead["separation"]
    # An intervention that collapsed is no arm of the grid, but a cell of its 2x2.
    other = trials([0.9, 0.91, 0.9, 0.12, 0.9], beta=0.1, intervention="head rate")
    design = [{"model": "m", "variant": None, "beta": 0.1, "metric": "accuracy", "head_rate": 1.0}]
    cells = frames_with(other, separation=rows, two_by_two=design)
    collapse.mark(cells, settings)
    assert "two_kinds" not in cells["separation"]
    assert cells["two_by_two"]["two_kinds"].tolist() == ["this arm"]


# rates that were chosen


def test_what_few_seeds_chose_is_not_established() -> None:
    row = {"beta": 0.1, "x": 1.0, "x_low": 0.5, "x_high": 1.5, "x_holm": 0.001}
    few, edge = row | {"tuning": "few seeds"}, row | {"tuning": "edge, few seeds"}
    assert [is_significant(r, "x") for r in (row, few, edge, row | {"tuning": "edge"})] == [True, False, False, True]
    assert Finding.of(few, "x").note == " (not established: fewer than 3 seeds chose the rate)"
    text = "not established at beta=0.1 (few seeds) (fewer than 3 seeds chose the rate)"
    assert evidence(findings_of([few], "x")) == text
    assert not is_equal(few | {"x_low": -0.001, "x_high": 0.001})
    assert is_equal(row | {"x_low": -0.001, "x_high": 0.001})


def is_equal(row: Row) -> bool:
    return Finding.of(row, "x", expectation=EQUAL).evidence is Evidence.EQUIVALENT


def learn(store: Store, settings: Settings, plan: Callable[[Settings, Scores], list[Trial]]) -> None:
    """Stores what the plan wants, with planted logits."""
    labels, truth = labels_and_truth(300, CLASSES)
    scores = store.scores(settings.select)
    while new := [trial for trial in plan(settings, scores) if not store.has(trial)]:
        for trial in new:
            data = store.write_splits(trial, splits_of(labels, CLASSES))
            noise = 2.0 if trial.lr == 0.4 and trial.beta == 1 else 0.5
            which = (trial.seed, trial.lr, trial.beta)
            Z = {s: u + noise * torch.randn(u.shape, generator=stream("noise", s, *which)) for s, u in truth.items()}
            worse = {0.1: 1.0, 0.2: 0.0, 0.4: 0.001 if trial.beta == 1 else 1.0}[trial.lr]
            loss = 0.4 + 0.3 * worse + 0.01 * ((trial.seed + round(10 * trial.lr)) % 3)
            told = facts(trial) | {"selection": {"log_loss": loss, "repaired_log_loss": loss, "error": 0.1}}
            kept = {s: (z / trial.beta).float() for s, z in Z.items()}
            store.write(TrialResult(trial, "done", kept, {"epoch": [0.0]}, told), data, {})


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Two arms, each with three rates: at beta = 1 the second is best by little, and the third is another model."""
    words = ["task=digits", "lr=0.1,0.2,0.4", "epochs=2", "objective=cross_entropy", "seed=0..3", "beta=1,10"]
    settings = resolve(parse([*words, "tune_seeds=3", "extend=0"]))
    store = Store(tmp_path_factory.mktemp("chosen") / "run")
    learn(store, settings, tuning.plan)
    store.write_study(settings, settings.command())
    return Measured(store, settings, REPAIR)


def test_an_arm_of_which_one_rate_learnt_leaves_the_choice_of_its_reference_in(chosen: Measured) -> None:
    arm, reference = chosen.arms[10.0].arm, chosen.arms[1.0]
    assert arm.chosen is not None
    trials = arm.tried[arm.chosen]
    lost = [trial.model_copy(update={"lr": 99.0}) for trial in trials]
    measures = measure_arm(chosen.store, replace(arm, tried={arm.chosen: trials, 99.0: lost}), REPAIR)
    assert measures.redrawn_choice is not None
    assert measures.redrawn_choice.shares == {arm.chosen: 1.0}
    assert reference.redrawn_choice is not None
    moved = rate_choice.shift(measures, reference, ("raw", "correct", 1.0))
    np.testing.assert_array_equal(moved, -reference.redrawn_choice.shifts["raw"]["correct"])


def test_a_control_at_the_rates_of_several_seeds_is_not_taken_for_a_tuned_arm(chosen: Measured, tmp_path: Path) -> None:
    settings, store = chosen.settings, Store(tmp_path / "run")
    learn(store, settings, controls.plan)
    selected = content.selected(registry.study("stability"), settings, store)
    arms = tuning.arms(settings, store.scores(settings.select))
    assert {trial.lr for trial, _ in controls.positive(arms[0])} == {0.2, 0.4}
    assert {trial.key for trial in selected} == {t.key for arm in arms for t in arm.trials.values()}


def test_a_contrast_counts_rates_that_might_have_been_chosen(chosen: Measured) -> None:
    store, reference, arm = chosen.store, chosen.arms[1.0], chosen.arms[10.0]
    assert reference.redrawn_choice is not None
    assert arm.redrawn_choice is not None
    assert set(reference.redrawn_choice.shares) == {0.2, 0.4}
    # Each shift is the difference of stored trials' means, seed by seed.
    labels = store.labels(reference.arm.trials[0])["test"]
    right = {
        rate: [float((store.logits(t)["test"].argmax(1) == labels).double().mean()) for t in reference.arm.tried[rate]]
        for rate in (0.2, 0.4)
    }
    moved = np.array(right[0.4]) - right[0.2]
    shifts = reference.redrawn_choice.shifts["raw"]["correct"]
    chose = ~np.isclose(shifts[0], 0).all(1)
    assert chose.mean() == reference.redrawn_choice.shares[0.4]
    np.testing.assert_allclose(shifts[0][chose], np.repeat(moved[None], chose.sum(), 0))
    # As they are reported, seed 1 is at the other rate; of four seeds three choose, and the last changes as they do.
    assert reference.arm.elsewhere == {1: 0.4}
    rest = shifts[1] - shifts[0] / 4
    for seed, sign in enumerate((1, -1, 1)):
        went = ~np.isclose(rest[:, seed], 0)
        assert 0 < went.mean() < 1
        np.testing.assert_allclose(rest[went, seed], 3 / 4 * sign * moved[seed])
    with_choice = contrast(arm, reference, False)
    given = contrast(replace(arm, redrawn_choice=None), reference, False)
    for column in ("accuracy", "log_loss_total", "log_loss_dyn", "brier_dyn"):
        assert with_choice[column] == given[column]
        assert with_choice[f"{column}_low"] < given[f"{column}_low"] < given[f"{column}_high"]
        assert with_choice[f"{column}_p"] > given[f"{column}_p"] or given[f"{column}_p"] == 1
    half = (given["accuracy_high"] - given["accuracy_low"]) / 2
    added = choice_variance(arm.redrawn_choice.shifts["raw"]["correct"] - shifts)
    expected = math.hypot(half, stats.norm.ppf(0.975) * math.sqrt(added))
    assert (with_choice["accuracy_high"] - with_choice["accuracy_low"]) / 2 == pytest.approx(expected)


def test_the_runner_up_shows_whether_a_contrast_hangs_on_the_choice(chosen: Measured) -> None:
    store, reference, arm = chosen.store, chosen.arms[1.0], chosen.arms[10.0]
    name = arm_rows.named(arm.arm, None)

    def right(beta: float, rate: float) -> float:
        trials = chosen.arms[beta].arm.tried[rate]
        hits = [store.logits(trial)["test"].argmax(1) == store.labels(trial)["test"] for trial in trials]
        return float(torch.stack(hits).double().mean())

    (row,) = choice.rows(arm, reference, name)
    (mirrored,) = choice.rows(reference, arm, name)
    assert (row["rate"], row["pairs"], mirrored["rate"], mirrored["runner_up"]) == (0.2, 2, 0.2, 0.4)
    scores = {rate: np.mean([store.scores("log_loss")(t) for t in reference.arm.tried[rate]]) for rate in (0.2, 0.4)}
    assert mirrored["behind"] == pytest.approx(scores[0.4] - scores[0.2])
    ends = sorted(right(10.0, 0.2) - right(1.0, rate) for rate in (0.2, 0.4))
    assert row["accuracy"] == pytest.approx(right(10.0, 0.2) - right(1.0, 0.2))
    assert [row["accuracy_least"], row["accuracy_most"]] == pytest.approx(ends)
    assert row["accuracy_runner_up"] == pytest.approx(right(10.0, row["runner_up"]) - right(1.0, 0.2))
    for result in choice.RESULTS:
        assert row[result] == pytest.approx(-mirrored[result])
        assert row[f"{result}_least"] == pytest.approx(-mirrored[f"{result}_most"])
        changes = row[f"{result}_least"] < 0 < row[f"{result}_most"]
        assert (result.replace("_", " ") in (row["hangs"] or "").split(", ")) == changes
    assert choice.rows(arm, None, name) == choice.rows(replace(arm, redrawn_choice=None), reference, name) == []


def test_an_established_contrast_that_hangs_on_the_choice_is_warned_of() -> None:
    name = {"model": "m", "variant": None, "objective": "cross_entropy", "tuning": "tuned"}
    limits = {"log_loss_dyn": 1.0, "log_loss_dyn_low": 0.5, "log_loss_dyn_high": 1.5, "log_loss_dyn_holm": 0.001}
    contrasts = pd.DataFrame([{**name, "beta": beta, **limits} for beta in (0.1, 10.0)])
    found = pd.DataFrame(
        [{**name, "beta": 0.1, "hangs": "log loss dyn, accuracy"}, {**name, "beta": 10.0, "hangs": None}]
    )
    (said,) = choice.words(found, contrasts)
    assert "m beta=0.1 cross_entropy (log loss dyn)" in said
    assert "beta=10" not in said
    assert choice.words(found, contrasts.assign(log_loss_dyn_low=-0.1)) == []
    assert choice.words(found.assign(hangs=None), contrasts) == choice.words(pd.DataFrame(), contrasts) == []


def test_tables_say_at_which_rate_a_seed_is_reported(chosen: Measured) -> None:
    store, settings, measures = chosen.store, chosen.settings, chosen.arms[1.0]
    arm = measures.arm
    assert {row["rate"]: row["cross_fitted"] for row in arm_rows.rates(arm)} == {0.1: "", 0.2: "0, 2", 0.4: "1"}
    trials = {row["seed"]: row["lr"] for row in arm_rows.trials(store, measures)}
    assert trials == {0: 0.2, 1: 0.4, 2: 0.2, 3: 0.2}
    # How far seeds differ at one rate is no matter of which rates others choose.
    read = seed_spread.read(measures, store, settings, {})
    right = [store.logits(t)["test"].argmax(1) == store.labels(t)["test"] for t in arm.at_chosen().trials.values()]
    assert {trial.lr for trial in arm.at_chosen().trials.values()} == {0.2}
    assert read.means["accuracy"] == pytest.approx(tuple(float(hits.double().mean()) for hits in right))
    assert read.examples["accuracy"] is measures.examples["raw"]["correct"]
    assert (read.at_chosen[1], read.selection[1]) == (0.4, store.scores("log_loss")(arm.tried[0.4][1]))
    analysis = separation.analyse(settings, store)
    for table in ("rates", "trials"):
        assert "the rate that the other tuning seeds choose" in analysis.tables[table].note
    details = {detail.title: " ".join(detail.text) for detail in page.details(analysis)}
    assert "0.2 with cross_entropy (seed 1 at 0.4, as the others choose)" in details["beta = 1"]
    assert "seed" not in details["beta = 10"].split("Chosen rates")[1]
    assert list(analysis.tables["choice"].frame["beta"]) == [10.0]


def test_the_choice_counts_in_every_row_of_refinement(chosen: Measured) -> None:
    """The row of temperature scaling is the split into confidence and dynamics; other families count as it does."""
    both = Measured(chosen.store, chosen.settings, registry.calibrators(("temperature_scaling", "vector_scaling")))
    reference, arm = both.arms[1.0], both.arms[10.0]
    refined, fixed = (
        [refinement.refine(replace(one, redrawn_choice=again), None) for one, again in ((reference, r), (arm, a))]
        for r, a in ((reference.redrawn_choice, arm.redrawn_choice), (None, None))
    )
    with_choice, without = (refinement.rows(pair[0], pair[1], {}, False) for pair in (refined, fixed))
    split = contrast(arm, reference, False)
    parts = {"total": (1.0, 0.0), "calibration": (1.0, -1.0), "refinement": (0.0, 1.0)}
    for row, before in zip(with_choice, without, strict=True):
        score = refinement.SCORES[row["score"]]
        for part, (raw, repaired) in parts.items():
            move = rate_choice.shift(arm, reference, ("raw", score, raw), ("temperature_scaling", score, repaired))
            half = math.hypot(
                before[f"{part}_change_high"] - before[f"{part}_change"],
                stats.norm.ppf(0.975) * math.sqrt(choice_variance(move)),
            )
            assert row[f"{part}_change_high"] - row[f"{part}_change"] == pytest.approx(half)
        assert row["total_change_low"] == pytest.approx(split[f"{score}_total_low"])
    own, before = (refinement.rows(None, pair[0], {}, False)[0] for pair in (refined, fixed))
    assert own["refinement_low"] < before["refinement_low"] < before["refinement_high"] < own["refinement_high"]
    assert {row["family"] for row in with_choice} == {"temperature_scaling", "vector_scaling"}


def test_the_choice_counts_in_shares_of_variance(chosen: Measured) -> None:
    points: list[Row] = []
    moves: factorial.Moves = {}
    for measures in chosen.arms.values():
        name = arm_rows.named(measures.arm, None)
        points += factorial.points(measures, name)
        moves |= factorial.moves(measures, name)
    assert len(moves) == 2
    for row, fixed in zip(factorial.rows(points, moves), factorial.rows(points), strict=True):
        for column in ("beta", "seed"):
            assert row[column] == fixed[column]
            assert row[f"{column}_low"] <= fixed[f"{column}_low"] <= fixed[f"{column}_high"] <= row[f"{column}_high"]
        assert row["seed_high"] > fixed["seed_high"] or fixed["seed_high"] == 1
        assert (row["beta_p"], row["tuning"]) == (fixed["beta_p"], fixed["tuning"])
    few = pd.DataFrame(factorial.rows([{**point, "tuning": "few seeds"} for point in points]))
    assert "Not established: fewer than 3 seeds chose the rate" in factorial.words(few, chosen.settings)[0]
    assert factorial.rows(points, dict(list(moves.items())[:1])) == factorial.rows(points)


def test_the_choice_counts_in_the_best_and_the_worst_seed(chosen: Measured) -> None:
    reference, arm = chosen.arms[1.0], chosen.arms[10.0]
    counted = peak_rows(arm, reference, False)
    fixed = peak_rows(replace(arm, redrawn_choice=None), reference, False)
    for row, before in zip(counted, fixed, strict=True):
        move = rate_choice.shift(arm, reference, (*seed_spread.RESULTS[row["result"]], 1.0))
        added = stats.norm.ppf(0.975) * math.sqrt(choice_variance(move))
        for kind in ("best_change", "mean_change", "worst_change"):
            assert row[kind] == before[kind]
            half = math.hypot(before[f"{kind}_high"] - before[kind], added)
            assert row[f"{kind}_high"] - row[kind] == pytest.approx(half)
            assert row[f"{kind}_p"] >= before[f"{kind}_p"]
    assert added > 0


def test_the_best_of_accuracies_near_one_stays_below_it(chosen: Measured) -> None:
    arm = replace(chosen.arms[1.0], redrawn_choice=None)
    correct = torch.ones(len(arm.seeds), 20, dtype=torch.float64)
    correct[0, 0] = 0
    near = replace(arm, examples=arm.examples | {"raw": arm.examples["raw"] | {"correct": correct}})
    row = peak_rows(near, None, False)[0]
    assert row["result"] == "accuracy"
    assert max(row[f"{kind}_high"] for kind in ("best", "mean", "worst")) == 1


def test_both_sources_count_in_a_2x2_as_in_a_contrast(chosen: Measured) -> None:
    """With one factor that does nothing, the other one's effects are the contrast of two arms."""
    reference, arm = chosen.arms[1.0], chosen.arms[10.0]
    cells = {interventions.RATE: arm, interventions.MAGNITUDE: reference, interventions.TRAINED: arm}
    rows = {row["metric"]: row for row in interventions.two_by_two(cells, reference, {}, False)}
    expected = contrast(arm, reference, False)
    for metric, column in (
        ("repaired log loss", "log_loss_dyn"),
        ("accuracy", "accuracy"),
        ("log loss", "log_loss_total"),
    ):
        for effect in ("total", "head_rate", "head_rate_alone"):
            for end in ("", "_low", "_high", "_p"):
                assert rows[metric][effect + end] == pytest.approx(expected[column + end], abs=1e-12)
    bare = {key: replace(one, log_kappa=None) for key, one in cells.items()}
    without = {row["metric"]: row for row in interventions.two_by_two(bare, reference, {}, False)}
    assert without["repaired log loss"]["total_high"] < rows["repaired log loss"]["total_high"]
    assert without["log loss"] == rows["log loss"]
    assert "doubtful" not in rows["accuracy"]
    right = torch.ones_like(arm.examples["raw"]["correct"])
    right[:, :5] = 0
    few = replace(arm, examples=arm.examples | {"raw": arm.examples["raw"] | {"correct": right}})
    doubtful = {
        row["metric"]: row
        for row in interventions.two_by_two({**cells, interventions.TRAINED: few}, reference, {}, False)
    }
    assert doubtful["accuracy"]["doubtful"].startswith("few errors: total, head rate, initial magnitude")
    frames = {
        "interventions": pd.DataFrame(
            interventions.rows({interventions.TRAINED: few}, reference, {interventions.TRAINED: {"beta": 10.0}}, False)
        ),
        "two_by_two": pd.DataFrame(doubtful.values()),
    }
    tables = make_tables(interventions.TABLES, frames, chosen.settings)
    assert all("doubtful: limits that may cover less" in table.note for table in tables.values())
    assert all(table.frame["doubtful"].notna().any() for table in tables.values())
    lost = torch.ones_like(right)
    lost[0] = 0
    mixed = replace(arm, examples=arm.examples | {"raw": arm.examples["raw"] | {"correct": lost}})
    kinds = [interventions.two_by_two({**cells, kind: mixed}, reference, {}, False)[0]["two_kinds"] for kind in cells]
    assert kinds == ["this arm"] * 3
    assert interventions.two_by_two(cells, mixed, {}, False)[0]["two_kinds"] == "reference"
    assert "two_kinds" not in rows["accuracy"]


def test_both_sources_count_in_levels_over_beta(chosen: Measured) -> None:
    arm = chosen.arms[1.0]
    every = best_beta.levels(arm, False)
    fixed = best_beta.levels(replace(arm, redrawn_choice=None), False)
    bare = best_beta.levels(replace(arm, redrawn_choice=None, log_kappa=None), False)
    values = best_beta.results(arm)
    for result, own in values.items():
        scale = "share" if result == "error" else "identity"
        assert bare[result].high == pytest.approx(crossed_interval(own, scale=scale).high)
        assert bare[result].high <= fixed[result].high < every[result].high
    assert bare["repaired log loss"].high < fixed["repaired log loss"].high
    wrong = np.array([[1.0] * 19 + [0.0], [0.0] + [1.0] * 19])
    raw = arm.examples["raw"] | {"correct": torch.from_numpy(1 - wrong)}
    few = replace(arm, examples=arm.examples | {"raw": raw}, seeds=arm.seeds[:2], redrawn_choice=None, log_kappa=None)
    assert best_beta.levels(few, False)["error"].high <= 1
    raw["correct"] = torch.ones(2, 20)
    assert best_beta.levels(few, False)["error"].high == pytest.approx(1 - 0.025 ** (1 / 20))  # and not [0, 0]


def test_calibration_examples_count_in_a_best_beta(chosen: Measured) -> None:
    """Temperatures fitted anew move curves of repaired loss, by what `fitted_to` says, and no curve of errors."""
    arm = chosen.arms[1.0]
    (own,) = best_beta.refits(arm).items()
    fit = fitted_to("log_loss", (1, arm, range(len(arm.seeds))))
    assert fit is not None
    assert own[0] == "repaired log loss"
    assert own[1].mean() == pytest.approx(-fit.bias, rel=0.3)
    values = {beta: best_beta.results(arm) for beta in (0.1, 1.0, 10.0)}
    as_fitted = best_beta.curves({}, values, False)
    anew = best_beta.curves({}, values, False, None, dict.fromkeys(values, best_beta.refits(arm)))
    for before, after in zip(as_fitted, anew, strict=True):
        moved = after.found.drawn_BA - before.found.drawn_BA
        expected = own[1][:, None] if after.result == own[0] else np.zeros((1, 1))
        np.testing.assert_allclose(moved, np.broadcast_to(expected, moved.shape), atol=1e-12)
    stuck = replace(arm, at_bound=arm.seeds)
    np.testing.assert_allclose(best_beta.refits(stuck)["repaired log loss"], 0, atol=1e-15)
    assert best_beta.refits(replace(arm, log_kappa=None)) == {}


def test_calibration_examples_count_in_refinement(chosen: Measured) -> None:
    """Maps fitted without a fold, or a temperature's influence, widen every level, narrow no change and move none."""
    both = Measured(chosen.store, chosen.settings, registry.calibrators(("temperature_scaling", "vector_scaling")))
    base, arm = both.refined(1.0), both.refined(10.0)
    assert {name: tuple(parts["log_loss"].shape) for name, parts in arm.without.items()} == dict.fromkeys(
        ("temperature_scaling", "vector_scaling", refinement.CHOSEN), (4, refinement.FOLDS)
    )
    counted = refinement.rows(base, arm, {}, False)
    as_fitted = refinement.rows(replace(base, measures=None), replace(arm, measures=None), {}, False)
    for row, bare in zip(counted, as_fitted, strict=True):
        for part in ("calibration", "refinement", "calibration_change", "refinement_change"):
            assert row[part] == bare[part]
            wider = (row[f"{part}_high"] - row[f"{part}_low"]) / (bare[f"{part}_high"] - bare[f"{part}_low"])
            assert wider > 1 or (wider == 1 and part.endswith("_change"))  # what both arms share cancels in a change
        assert row["total_change_high"] == bare["total_change_high"]
    split = contrast(both.arms[10.0], both.arms[1.0], False)
    own = next(row for row in counted if (row["score"], row["family"]) == ("log loss", "temperature_scaling"))
    for end in ("", "_low", "_high"):
        assert own[f"refinement_change{end}"] == pytest.approx(split[f"log_loss_dyn{end}"])
        assert own[f"calibration_change{end}"] == pytest.approx(split[f"log_loss_conf{end}"])


def test_leaving_out_folds_tells_at_least_how_far_refits_scatter() -> None:
    g = stream("refits")
    calibrators = registry.calibrators(("temperature_scaling", "vector_scaling"))

    def draw(n: int) -> tuple[Tensor, Tensor]:
        u = 1.5 * torch.randn(n, 4, generator=g, dtype=torch.float64)
        y = torch.multinomial(u.softmax(-1), 1, generator=g)[:, 0]
        return 2 * u + torch.tensor([1.0, 0.0, 0.0, -0.5]) + 0.8 * torch.randn(
            n, 4, generator=g, dtype=torch.float64
        ), y

    test = draw(1500)
    sets = [draw(150) for _ in range(30)]
    Z, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    found = refinement.cross_validated(Z, y, calibrators, tests=[test] * len(sets))
    for name, own in calibrators.items():
        means = [float(metrics.log_loss_n(own.apply(own.fit(*one), test[0]), test[1]).mean()) for one in sets]
        told = np.mean([np.var(risks[name]["log_loss_without"]) * (refinement.FOLDS - 1) for risks in found])
        assert 0.8 < told / np.var(means) < 8


# limits in doubt, and limits within their range


def with_errors(measures: Measures, wrong: int) -> Measures:
    """The same arm with so many wrong examples in every seed."""
    correct = torch.ones_like(measures.examples["raw"]["correct"])
    correct[:, :wrong] = 0
    return replace(measures, examples={m: scores | {"correct": correct} for m, scores in measures.examples.items()})


def test_few_errors_are_marked_in_contrasts_matched_and_trials(world: Measured, settings: Settings) -> None:
    reference, arm = (with_errors(world.arms[beta], 40) for beta in (REFERENCE, WRONGER))
    few = with_errors(arm, 10)
    assert "few errors" not in contrast(arm, reference, False).get("doubtful", "")
    for pair in ((few, reference), (reference, few)):
        assert "few errors: accuracy, log loss total, log loss conf, log loss dyn" in contrast(*pair, False)["doubtful"]
        rows = matched.rows_of(matched.compare(*pair, world.store), world.name(WRONGER), False)
        by_metric = {row["metric"]: row.get("doubtful", "") for row in rows}
        assert "few errors: total" in by_metric["accuracy"]
        assert "few errors: total" in by_metric["ECE"]
        note = matched.OTHER_METRICS.table(pd.DataFrame(rows), settings).note
        assert "limits that may cover less than 95% of the time" in note
    assert {row["doubtful"] for row in arm_rows.trials(world.store, few)} == {"few errors: ece"}
    assert all("doubtful" not in row for row in arm_rows.trials(world.store, arm))
    frame = pd.DataFrame([{**world.name(WRONGER), **contrast(few, reference, False)}])
    (said,) = warning_words._doubtful(frame)
    assert said.startswith("Limits in doubt")
    assert "m beta=10 cross_entropy (few errors: accuracy" in said
    assert warning_words._doubtful(frame.drop(columns="doubtful")) == []
    (said,) = warning_words._doubtful(pd.concat([frame] * 6))
    assert "6 of 6 contrasts" in said
    assert "m beta=10" not in said


def test_differences_stay_where_they_can_be() -> None:
    """Two seeds, one of which is all right where the other arm is all wrong: t limits would pass 1."""
    y00 = torch.zeros(2, 40, dtype=torch.float64)
    y11 = torch.ones(2, 40, dtype=torch.float64)
    y11[1, :30] = 0
    assert crossed_interval(y11 - y00).high > 1
    cells = dict.fromkeys(("log_loss", "brier", "correct", "confidence"), (y00, y11, y00, y11))
    found = matched.Matched((0, 1), (), 0, (0.0, 0.0), cells)
    rows = {row["metric"]: row for row in matched.rows_of(found, {}, False)}
    assert rows["accuracy"]["total_high"] == rows["mean confidence"]["total_high"] == 1
    assert rows["Brier"]["total_high"] == min(2, rows["log loss"]["total_high"])
    risks = {score: {"log_loss": y, "brier": y} for score, y in (("raw", 2 * y11), ("after", y11))}
    refined = refinement.Refined((0, 1), {}, risks["raw"], {"temperature_scaling": risks["after"]}, {})
    for row in refinement.rows(None, refined, {}, False):
        assert row["refinement_low"] >= 0
        assert row["score"] != "Brier" or (row["refinement_high"] <= 2 and row["calibration_high"] <= 2)
    scored = [table_ties.Scored({"correct": y}, {}, (0, 1)) for y in (y11, y00)]
    assert table_ties.paired_difference(scored[0], scored[1], "accuracy", False).high == 1


def test_a_control_is_judged_at_the_rate_of_its_arm(chosen: Measured) -> None:
    reference = chosen.arms[1.0]
    row = controls.rescaled(chosen.store, reference.arm, REPAIR, reference, False)
    assert (row["accuracy_low"], row["accuracy_high"]) == (0.0, 0.0)
    assert row["passed"] is True
    assert controls.shorter(reference.arm).tuning == "tuned"


# what they share


def test_holm_counts_what_was_tested() -> None:
    frame = pd.DataFrame({"metric": ["a", "a", "a", "b"], "x_p": [0.01, 0.04, np.nan, 0.03]})
    np.testing.assert_allclose(adjusted(frame, "metric")["x_holm"], [0.02, 0.04, np.nan, 0.03])
    np.testing.assert_allclose(adjusted(frame)["x_holm"], [0.03, 0.06, np.nan, 0.06])


def test_a_sign_is_established_only_after_holm() -> None:
    rows = [
        {"beta": beta, "tuning": tuning, "x": 1.0, "x_low": low, "x_high": 2.0, "x_holm": p}
        for beta, tuning, low, p in ((0.1, "tuned", 0.5, 0.01), (0.3, "edge", 0.1, 0.2), (3.0, "tuned", -0.5, 1.0))
    ]
    findings = findings_of(rows, "x")
    hint = "suggestive at beta=0.3 (edge) (not after Holm's correction)"
    assert evidence(findings) == f"established at beta=0.1; {hint}; inconclusive at beta=3"
    assert [one.note for one in findings] == ["", " (suggestive: not after Holm's correction)", " (inconclusive)"]


@pytest.mark.parametrize("module", [matched, refinement, factorial, seed_spread])
def test_tables_and_words_of_nothing(module: object, settings: Settings) -> None:
    empty = pd.DataFrame()
    specs = {name: spec for name, spec in vars(module).items() if isinstance(spec, TableSpec)}
    assert specs
    assert make_tables(specs, {spec.of or name: empty for name, spec in specs.items()}, settings) == {}
    for name in ("words", "tests_words", "gain_words"):
        if hasattr(module, name):
            assert getattr(module, name)(empty, settings) == []


def test_a_smoke_run_is_marked(world: Measured) -> None:
    frame = world.matched(WRONGER).reset_index()
    smoke = world.settings.model_copy(update={"limit": 64})
    table = matched.TABLE.table(frame, smoke)
    assert table.note.startswith("SMOKE RUN, limit=64, not a result.")
    assert set(table.frame["limit"]) == {64}


def test_one_seed_has_intervals_over_examples_and_says_so(world: Measured) -> None:
    def first(measures: Measures) -> Measures:
        kept = {m: {k: v[:1] for k, v in scores.items()} for m, scores in measures.examples.items()}
        return Measures(**{**vars(measures), "examples": kept, "seeds": (0,), "frame": measures.frame})

    reference, arm = first(world.arms[REFERENCE]), first(world.arms[WRONGER])
    frame = pd.DataFrame(matched.rows(reference, arm, world.store, world.name(WRONGER), False))
    assert frame.set_index("metric").loc["log loss", "total_low"] > 0
    assert "95% intervals over test examples only" in matched.TABLE.table(frame, world.settings).note
    spread = seed_spread.rows(None, sown(1.0, normal(1, 20, 0.1), [1.0]))[0]
    assert math.isnan(spread["spread_low"])
