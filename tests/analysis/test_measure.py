"""Stored logits to numbers."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import make

from calib_bench import registry
from calib_bench.analysis import calibration_variance, temperature_influence, trial_predictions
from calib_bench.analysis.measure import PER_EXAMPLE, Measures, measure_arm
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.core.settings import Settings
from calib_bench.errors import UserError
from calib_bench.metrics import accuracy, ece, log_loss
from calib_bench.planning import tuning
from calib_bench.store.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings]:
    words = ("beta=0.1,1", "objective=cross_entropy", "seed=0..3", "tune_seeds=2")
    return make(tmp_path_factory.mktemp("measure") / "run", *words, diverged={(0.1, 3)})


@pytest.fixture(scope="module")
def arms(run: tuple[Store, Settings]) -> list[tuning.Arm]:
    store, settings = run
    return tuning.arms(settings, store.scores(settings.select))


@pytest.fixture(scope="module")
def low(run: tuple[Store, Settings], arms: list[tuning.Arm]) -> Measures:
    return measure_arm(run[0], arms[0], registry.calibrators(("temperature_scaling", "isotonic")))


def test_rows_are_trials_times_methods_and_diverged_trials_are_counted(low: Measures) -> None:
    assert (low.seeds, low.diverged, low.missing) == ((0, 1, 2), (3,), ())
    assert list(low.frame[["seed", "method"]].itertuples(index=False, name=None)) == [
        (seed, method) for seed in range(3) for method in (RAW, "temperature_scaling", "isotonic")
    ]


def test_raw_probabilities_are_those_of_beta_times_the_stored_logits(
    run: tuple[Store, Settings], arms: list[tuning.Arm], low: Measures
) -> None:
    trial = arms[0].trials[1]
    Z, y = 0.1 * run[0].logits(trial)["test"].double(), run[0].labels(trial)["test"]
    row = low.frame.query("seed == 1 and method == 'raw'").iloc[0]
    for name, oracle in (("log_loss", log_loss), ("ece", ece), ("accuracy", accuracy)):
        assert row[name] == pytest.approx(float(oracle(Z, y)), abs=1e-12)


def test_examples_average_to_the_table(low: Measures) -> None:
    columns = dict(zip(PER_EXAMPLE, ("log_loss", "brier", "accuracy", "mean_confidence"), strict=True))
    for method, scores in low.examples.items():
        rows = low.frame[low.frame.method == method]
        for name, column in columns.items():
            assert scores[name].shape == (3, 120)
            np.testing.assert_allclose(scores[name].mean(1), rows[column], atol=1e-12)
        assert set(scores) == set(PER_EXAMPLE)


def test_kappa_is_the_temperature_of_beta_z(run: tuple[Store, Settings], arms: list[tuning.Arm], low: Measures) -> None:
    trial = arms[0].trials[0]
    Z, y = 0.1 * run[0].logits(trial)["calibration"].double(), run[0].labels(trial)["calibration"]
    kappa = low.frame.loc[(low.frame.seed == 0) & (low.frame.method == REPAIRED), "kappa"].item()
    grid = torch.linspace(0.9, 1.1, 201, dtype=torch.float64) * kappa
    losses = torch.stack([log_loss(Z / t, y) for t in grid])
    assert abs(grid[losses.argmin()] / kappa - 1) < 2e-3


def test_rescaled_logits_change_kappa_alone(run: tuple[Store, Settings], arms: list[tuning.Arm], low: Measures) -> None:
    doubled = measure_arm(run[0], arms[0], registry.calibrators(("temperature_scaling",)), scale=2.0)
    kappas = [m.frame.loc[m.frame.method == REPAIRED, "kappa"].to_numpy() for m in (doubled, low)]
    np.testing.assert_allclose(kappas[0], 2 * kappas[1], rtol=1e-8)
    repaired = [m.examples[REPAIRED]["log_loss"] for m in (doubled, low)]
    torch.testing.assert_close(*repaired, atol=1e-8, rtol=0)
    assert torch.equal(doubled.examples[RAW]["correct"], low.examples[RAW]["correct"])


def test_reliability_pools_seeds(low: Measures) -> None:
    bins = low.reliability[low.reliability.method == RAW]
    assert bins["count"].sum() == 3 * 120
    assert (bins["accuracy"] * bins["count"]).sum() / 360 == pytest.approx(low.examples[RAW]["correct"].mean().item())
    assert bins["confidence"].between(bins["bin"] / 15, (bins["bin"] + 1) / 15).all()


def test_the_null_beside_ece(low: Measures) -> None:
    frame = low.frame.set_index(["seed", "method"])
    assert frame["ece_null"].notna().groupby("method").all().to_dict() == {RAW: True, REPAIRED: True, "isotonic": False}
    assert (frame.xs(RAW, level="method")["ece_p"] < 0.01).all()


def test_trials_are_measured_together_as_alone(
    run: tuple[Store, Settings], arms: list[tuning.Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every number of every method, but for rounding."""
    calibrators = registry.calibrators()
    together = measure_arm(run[0], arms[1], calibrators)
    monkeypatch.setattr(trial_predictions, "TRIALS", 1)
    alone = measure_arm(run[0], arms[1], calibrators)
    pd.testing.assert_frame_equal(
        together.frame.drop(columns="fit_seconds"), alone.frame.drop(columns="fit_seconds"), rtol=1e-6, atol=1e-9
    )
    for method, scores in alone.examples.items():
        for name in PER_EXAMPLE:
            torch.testing.assert_close(together.examples[method][name], scores[name], rtol=0, atol=1e-6)
    assert together.refused == alone.refused


def test_one_trial_that_a_calibrator_refuses_does_not_cost_the_others(
    run: tuple[Store, Settings], arms: list[tuning.Arm]
) -> None:
    """A stack that cannot be fitted is fitted one by one; the calibrator is left out, and what it said is kept."""
    known = registry.calibrators(("temperature_scaling", "isotonic"))
    smallest = min(float(run[0].logits(trial)["calibration"].min()) for trial in arms[1].trials.values())

    def fit(Z_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, torch.Tensor]:
        if float(Z_NK.min()) <= smallest:
            raise UserError("too small")
        return known["isotonic"].fit(Z_NK, y_N)

    def fit_stack(Z_SNK: torch.Tensor, y_SN: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [fit(*one) for one in zip(Z_SNK, y_SN, strict=True)]

    wary = replace(known["isotonic"], fit=fit, fit_stack=fit_stack)
    found = measure_arm(run[0], arms[1], {**known, "wary": wary})
    assert found.refused == {"wary": "too small"}
    assert set(found.frame["method"]) == {RAW, REPAIRED, "isotonic"}


@pytest.mark.slow
@pytest.mark.plain
def test_a_default_study_is_measured_in_seconds(tmp_path: Path) -> None:
    words = ("beta=1", "objective=cross_entropy", "seed=0..4", "lr=0.1")
    store, settings = make(tmp_path / "run", *words, test=997, classes=10)
    (arm,) = tuning.arms(settings, store.scores(settings.select))
    calibrators = registry.calibrators()
    measure_arm(store, arm, calibrators)
    start = time.process_time()
    measure_arm(store, arm, calibrators)
    assert 21 * (time.process_time() - start) < 60


def test_log_kappa_intervals_cover_over_seeds_and_calibration_examples() -> None:
    """Logits whose best temperature is known: the interval of log kappa covers it, and narrows to the bootstrap's."""
    from calib_bench.analysis.temperature_influence import log_kappa_n
    from calib_bench.inference import crossed_interval
    from calib_bench.registry import load

    temperature = load("baselines", "temperature_scaling")
    covered, trials = 0, 200
    for draw in range(trials):
        generator = torch.Generator().manual_seed(draw)
        truth = 2 * torch.randn(250, 10, generator=generator, dtype=torch.float64)
        y = torch.multinomial(truth.softmax(-1), 1, generator=generator)[:, 0]
        rows = []
        for _ in range(5):
            spread = torch.exp(0.05 * torch.randn((), generator=generator, dtype=torch.float64))
            Z = 1.5 * spread * truth
            rows.append(log_kappa_n(Z, y, float(temperature.fit(Z, y)["temperature"])))
            assert float(rows[-1].mean()) == pytest.approx(np.log(float(temperature.fit(Z, y)["temperature"])))
        found = crossed_interval(torch.stack(rows))
        covered += found.low <= np.log(1.5) <= found.high
    assert covered / trials >= 0.91


def test_labels_that_are_not_offered_have_no_influence_on_log_kappa() -> None:
    """The others have that of the fit to them alone, scaled so that a mean over all rows has its variance."""
    g = torch.Generator().manual_seed(0)
    Z = 2 * torch.randn(60, 4, generator=g, dtype=torch.float64)
    y = torch.multinomial(Z.softmax(-1), 1, generator=g)[:, 0]
    Z[:20] = Z[:20].scatter(1, y[:20, None], -math.inf)
    kappa = float(registry.load("baselines", REPAIRED).fit(Z[20:], y[20:])["temperature"])
    of_all = temperature_influence.log_kappa_n(Z, y, kappa) - math.log(kappa)
    alone = temperature_influence.log_kappa_n(Z[20:], y[20:], kappa) - math.log(kappa)
    assert of_all[:20].abs().max() < 1e-6
    assert of_all[20:].numpy() == pytest.approx(60 / 40 * alone.numpy(), abs=1e-6)


def test_slopes_are_the_derivatives_in_log_temperature() -> None:
    """By central differences of the scores of softmax(Z / T); classes of probability zero included."""
    from calib_bench.metrics import brier, log_loss

    g = torch.Generator().manual_seed(0)
    Z = 3 * torch.randn(50, 4, generator=g, dtype=torch.float64)
    Z[:5, 3] = -math.inf
    y = torch.randint(3, (50,), generator=g)
    found = temperature_influence.temperature_slopes((Z / 1.3).log_softmax(-1), y)
    h = 1e-4
    for name, score in (("log_loss", log_loss), ("brier", brier)):
        low, here, high = (float(score(Z / (1.3 * math.exp(step)), y)) for step in (-h, 0.0, h))
        assert found[name] == pytest.approx(
            ((high - low) / (2 * h), (high - 2 * here + low) / h**2), rel=1e-4, abs=1e-6
        )


def test_fitted_to_is_what_refits_without_an_example_show(run: tuple[Store, Settings], arms: list[tuning.Arm]) -> None:
    """How a calibration example moves the repaired test score: fitted again without it, and with it twice."""
    found = measure_arm(run[0], arms[1], registry.calibrators((REPAIRED,)))
    fit = calibration_variance.fitted_to("log_loss", (1, found, [0]))
    assert fit is not None
    assert fit.influence_SM is not None
    trial = arms[1].trials[found.seeds[0]]
    logits, labels = run[0].logits(trial), run[0].labels(trial)
    Z, Z_test = (trial.beta * logits[split].double() for split in ("calibration", "test"))
    y, y_test = labels["calibration"], labels["test"]
    temperature = registry.calibrators((REPAIRED,))[REPAIRED]
    M = len(y)

    def repaired(keep: torch.Tensor) -> float:
        return float(log_loss(temperature.apply(temperature.fit(Z[keep], y[keep]), Z_test), y_test))

    for m in np.abs(fit.influence_SM[0]).argsort()[-3:]:
        without, twice = ([i for i in range(M) for _ in range(times if i == m else 1)] for times in (0, 2))
        moved = repaired(torch.tensor(twice)) - repaired(torch.tensor(without))
        assert M / 2 * moved == pytest.approx(fit.influence_SM[0, m], rel=0.1)
