"""Ensembles over stored seeds: numbers by hand with numpy and scipy, intervals that cover, reversals as built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import t as student
from synthetic import make

from calib_bench import registry
from calib_bench.analysis.measure import measure_arm
from calib_bench.core.trial import Trial
from calib_bench.inference import score_interval
from calib_bench.planning import tuning
from calib_bench.store.store import Store
from calib_bench.studies.separation import ensembles, reversals
from calib_bench.studies.separation.study import STUDY
from calib_bench.system.random import stream

Split = dict[str, torch.Tensor]
WORDS = ("calibrator=temperature_scaling", "objective=cross_entropy", "tune_seeds=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Any, dict[str, Any]]:
    path = tmp_path_factory.mktemp("ensembles") / "run"
    store, settings = make(path, *WORDS, "beta=1,10", "seed=0..4", diverged={(10.0, 4)}, test=300)
    return store, settings, dict(STUDY.analyse(settings, store).tables)


def fit(logp_MK: np.ndarray, y_M: np.ndarray) -> float:
    """The temperature of least log loss, by a search on its own."""

    def loss(log_T: float) -> float:
        return -float(log_softmax(logp_MK / np.exp(log_T), axis=-1)[np.arange(len(y_M)), y_M].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10}).x))


def by_hand(Z: list[np.ndarray], Z_cal: list[np.ndarray], y_cal: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities [N, K] of each kind of ensemble."""
    p = np.mean([softmax(z, axis=-1) for z in Z], axis=0)
    p_cal = np.mean([softmax(z, axis=-1) for z in Z_cal], axis=0)
    repaired = [softmax(z / fit(c, y_cal), axis=-1) for z, c in zip(Z, Z_cal, strict=True)]
    after = softmax(np.log(p) / fit(np.log(p_cal), y_cal), axis=-1)
    return {
        ensembles.POOLED: p,
        ensembles.REPAIRED_POOLED: np.mean(repaired, axis=0),
        ensembles.POOLED_REPAIRED: after,
    }


def logits_of(store: Store, trials: list[Trial]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    Z, Z_cal = (
        [trial.beta * store.logits(trial)[split].double().numpy() for trial in trials]
        for split in ("test", "calibration")
    )
    labels = store.labels(trials[0])
    return Z, Z_cal, labels["test"].numpy(), labels["calibration"].numpy()


@pytest.mark.parametrize(("beta", "seeds"), [(1.0, 5), (10.0, 4)])
def test_ensembles_are_what_numpy_and_scipy_make_of_the_logits(run: Any, beta: float, seeds: int) -> None:
    store, settings, tables = run
    (arm,) = [arm for arm in tuning.arms(settings, store.scores(settings.select)) if arm.trial.beta == beta]
    trials = [trial for trial in arm.trials.values() if store.state(trial) == "done"]
    Z, Z_cal, y, y_cal = logits_of(store, trials)
    frame = tables["ensembles"].frame
    rows = frame[frame["beta"] == beta].set_index("method")
    assert set(rows["members"]) == {seeds}
    n = np.arange(len(y))
    for method, p in by_hand(Z, Z_cal, y_cal).items():
        assert rows.loc[method, "accuracy"] == pytest.approx((p.argmax(-1) == y).mean(), abs=1e-12)
        assert rows.loc[method, "log_loss"] == pytest.approx(-np.log(p[n, y]).mean(), abs=1e-6)
        assert rows.loc[method, "brier"] == pytest.approx(np.square(p - np.eye(p.shape[1])[y]).sum(-1).mean(), abs=1e-6)
        bins = np.clip(np.ceil(15 * p.max(-1)) - 1, 0, 14).astype(int)
        gaps = [abs(((p.argmax(-1) == y) - p.max(-1))[bins == b].sum()) for b in range(15)]
        assert rows.loc[method, "ece"] == pytest.approx(sum(gaps) / len(y), abs=1e-5)
    singles = [-log_softmax(z, axis=-1)[n, y].mean() for z in Z]
    assert rows.loc[ensembles.SINGLE, "log_loss"] == pytest.approx(np.mean(singles), abs=1e-12)
    gain = rows.loc[ensembles.POOLED, "pooling_log_loss"]
    assert gain == pytest.approx(rows.loc[ensembles.POOLED, "log_loss"] - np.mean(singles), abs=1e-12)
    assert gain < 0  # the mean of probabilities has less loss than the mean of losses (Jensen)
    T = rows.loc[ensembles.POOLED_REPAIRED, "kappa"]
    pooled_cal = np.log(np.mean([softmax(z, axis=-1) for z in Z_cal], axis=0))
    assert pytest.approx(fit(pooled_cal, y_cal), abs=1e-5) == T


def test_the_seeds_part_of_an_interval_is_the_jackknife(run: Any) -> None:
    store, settings, _ = run
    arm = next(iter(tuning.arms(settings, store.scores(settings.select))))
    measures = measure_arm(store, arm, registry.calibrators(("temperature_scaling",)))
    ensemble = ensembles.read(store, measures, {}, nested=False)
    assert ensemble is not None
    Z, Z_cal, y, y_cal = logits_of(store, list(arm.trials.values()))
    S, n = len(Z), np.arange(len(y))
    for method in (ensembles.POOLED, ensembles.POOLED_REPAIRED):
        values = ensemble.scores[method]["log_loss"].values
        without = []
        for s in range(S):
            kept = [i for i in range(S) if i != s]
            p = by_hand([Z[i] for i in kept], [Z_cal[i] for i in kept], y_cal)[method]
            without.append(-np.log(p[n, y]).mean())
        jackknife = (S - 1) / S * np.square(np.array(without) - np.mean(without)).sum()
        assert values.mean(1).var(ddof=1) / S == pytest.approx(jackknife, rel=1e-3)


def test_of_single_seeds_the_interval_is_that_of_their_scores(run: Any) -> None:
    store, settings, tables = run
    arm = next(iter(tuning.arms(settings, store.scores(settings.select))))
    measures = measure_arm(store, arm, registry.calibrators(("temperature_scaling",)))
    oracle = score_interval("log_loss", measures.examples["raw"]["log_loss"])
    frame = tables["ensembles"].frame
    row = frame[(frame["beta"] == arm.trial.beta) & (frame["method"] == ensembles.SINGLE)].iloc[0]
    # Logits of this store are the same at every rate, so that the choice of a rate adds nothing.
    assert (row["log_loss_low"], row["log_loss_high"]) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


def test_the_interval_of_a_pooled_loss_covers_that_of_a_new_ensemble_of_as_many_seeds() -> None:
    """Against the mean over many ensembles of fresh seeds and examples; nothing is fitted, so that truth is known."""
    draw = np.random.default_rng(0)
    S, N, runs, covered = 4, 200, 150, 0

    def scores(Z_SNK: np.ndarray) -> np.ndarray:
        return -(logsumexp(log_softmax(Z_SNK, axis=-1), axis=0) - np.log(len(Z_SNK)))[:, 0]

    def ensemble(n: int) -> np.ndarray:
        common, seeds = draw.standard_normal((1, n, 3)), 0.4 * draw.standard_normal((S, 1, 3))
        return np.array([1.0, 0.0, 0.0]) + common + seeds + 0.6 * draw.standard_normal((S, n, 3))

    truth = np.mean([scores(ensemble(2_000)).mean() for _ in range(200)])
    for _ in range(runs):
        Z = ensemble(N)
        e, without = scores(Z), np.stack([scores(np.delete(Z, s, 0)) for s in range(S)])
        values = e + (S - 1) * (without.mean(0) - without)
        interval = ensembles.Varying(values, np.zeros(ensembles.FOLDS), np.zeros(1)).interval("log_loss")
        covered += interval.low < truth < interval.high
    assert covered / runs > 0.92


def overconfident(trial: Trial, truth: Split, labels: Split) -> Split:
    """beta = 10 knows more than beta = 1, and says it four times too loudly: raw it is worse, repaired better."""
    sharp, noise = (4.0, 0.1) if trial.beta == 10 else (1.0, 1.0)
    return {
        split: sharp * (u + noise * torch.randn(u.shape, generator=stream("noise", split, trial.seed)))
        for split, u in truth.items()
    }


def test_a_reversal_that_was_built_is_established_and_named(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS, "beta=1,10", "seed=0..4", test=800, shape=overconfident)
    analysis = STUDY.analyse(settings, store)
    table = analysis.tables["reversals"]
    row = table.frame.set_index("by").loc["repairing"]
    assert (row["beta"], row["other_beta"], row["evidence"]) == (1.0, 10.0, "established")
    assert row["before_high"] < 0 < row["after_low"]
    assert "beta=1 before beta=10 (by repairing)" in table.note
    assert any(
        sentence.startswith("Orders by test log loss that are reversed: beta=1") for sentence in analysis.verdict
    )


def varying(mean: float, noise: float, seed: int) -> ensembles.Varying:
    values = mean + noise * np.random.default_rng(seed).standard_normal((5, 400))
    return ensembles.Varying(values, np.zeros(ensembles.FOLDS), np.zeros(1))


def arm(
    beta: float, before: float, after: float, seeds: tuple[int, ...] = (0, 1, 2), **more: str
) -> ensembles.Ensemble:
    name = {"model": "m", "variant": None, "beta": beta, "objective": "cross_entropy", "tuning": "tuned", **more}
    methods = {ensembles.SINGLE: before, **dict.fromkeys(reversals.WAYS.values(), after)}
    scores = {method: {"log_loss": varying(mean, 0.5, int(beta))} for method, mean in methods.items()}
    return ensembles.Ensemble(name, seeds, scores, {}, {}, {})


def test_a_reversal_is_established_only_where_both_differences_are() -> None:
    sure = reversals.rows([arm(1, 1.0, 2.0), arm(2, 2.0, 1.0)])
    assert [row["evidence"] for row in sure] == ["established"] * 3
    unsure = reversals.rows([arm(1, 1.0, 1.001), arm(2, 2.0, 1.0)])
    assert {row["evidence"] for row in unsure} <= {"inconclusive"}
    few = reversals.rows([arm(1, 1.0, 2.0, tuning="few seeds"), arm(2, 2.0, 1.0)])
    assert {row["evidence"] for row in few} == {"not established"}
    assert not reversals.rows([arm(1, 1.0, 1.0), arm(2, 2.0, 2.0)])
    assert not reversals.rows([arm(1, 1.0, 2.0, seeds=(0, 1)), arm(2, 2.0, 1.0)])


def test_the_choice_of_rates_and_the_calibration_examples_widen_an_interval() -> None:
    bare = varying(1.0, 0.5, 0)
    chosen = ensembles.Varying(bare.values, bare.folds, np.array([0.0, 0.2] * 50))
    fitted = ensembles.Varying(bare.values, np.array([1.0, 1.01, 0.99, 1.0, 1.0]), bare.moves)
    width = bare.interval("log_loss").high - bare.mean
    assert chosen.interval("log_loss").high - bare.mean == pytest.approx(
        np.hypot(width, 1.96 * np.sqrt(0.02)), rel=1e-4
    )
    variance = 4 / 5 * np.square(fitted.folds - 1).sum()
    assert fitted.interval("log_loss").high - bare.mean > student.ppf(0.975, 4) * np.sqrt(variance)
