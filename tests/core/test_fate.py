"""When a training failed: not finite, or in the end no better than the best constant prediction; said alike."""

from __future__ import annotations

import math
from pathlib import Path

import driver
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from synthetic import labels_and_truth, splits_of

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis import seed_spread as sown
from calib_bench.analysis.measure import measure_arm
from calib_bench.analysis.warnings import warnings
from calib_bench.core import fate
from calib_bench.core.settings import Settings, parse
from calib_bench.core.trial import Score, Trial, TrialResult
from calib_bench.execute.worker import selection_scores
from calib_bench.planning import search, tuning
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import Arm, templates, trial_at
from calib_bench.report import provenance
from calib_bench.store.store import Store

CLASSES = 4


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_label_entropy_is_the_loss_of_the_best_constant_prediction(counts: list[int]) -> None:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    best = torch.tensor(counts).double().log().expand(len(y), -1)
    assert fate.label_entropy(y, len(counts)) == pytest.approx(F.cross_entropy(best, y).item(), abs=1e-12)
    assert fate.label_entropy(y, len(counts)) <= math.log(len(counts)) + 1e-12


@pytest.mark.parametrize(
    ("raw", "repaired", "train", "failed"),
    [
        (1.386, 1.386, 1.386, True),  # dead
        (90.0, 1.2, 90.0, True),  # saturated: large logits, wrong on the training examples too
        (3.0, 0.6, 0.01, False),  # overconfident: fitted, and right once repaired
        (3.0, 0.6, None, False),
        (1.386, 1.386, 0.7, True),  # died in its last epoch, whose mean loss is still low
        (0.5, 0.5, 1.386, False),  # learned late
        (1.38, 0.5, 1.37, False),  # underconfident: its logits are small, and right once repaired
        (math.nan, math.nan, math.nan, True),
    ],
)
def test_a_training_that_failed_is_told_from_one_with_the_wrong_confidence(
    raw: float, repaired: float, train: float | None, failed: bool
) -> None:
    selection = {"log_loss": raw, "repaired_log_loss": repaired}
    assert fate.is_dead(selection, math.log(CLASSES), lambda: CLASSES, lambda: train) is failed


LOSSES = st.floats(0, 10) | st.sampled_from([math.nan, math.inf])


@given(raw=LOSSES, repaired=LOSSES, train=LOSSES)
def test_what_fails_once_repaired_fails_whatever_its_training_loss(raw: float, repaired: float, train: float) -> None:
    selection = {"log_loss": raw, "repaired_log_loss": repaired}
    without = fate.is_dead(selection, math.log(CLASSES), lambda: CLASSES, lambda: None)
    assert fate.is_dead(selection, math.log(CLASSES), lambda: CLASSES, lambda: train) or not without


@given(kappa=st.floats(1, 1e6), seed=st.integers(0, 99), classes=st.sampled_from([2, 10]))
def test_no_network_is_dead_for_too_little_confidence_alone(kappa: float, seed: int, classes: int) -> None:
    """Logits that repair makes larger lose less than equal probabilities, also where classes are rare."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(200, generator=generator) < 0.1).long()
    z = torch.randn(200, classes, generator=generator, dtype=torch.float64) + 4 * F.one_hot(y, classes)
    raw, repaired = F.cross_entropy(z / kappa, y).item(), F.cross_entropy(z, y).item()
    entropy = fate.label_entropy(y, classes)
    dead = fate.is_dead({"log_loss": raw, "repaired_log_loss": repaired}, entropy, lambda: classes, lambda: raw)
    assert dead is (repaired >= fate.GUESS * entropy)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Store, Settings, Arm]:
    """Five seeds: 0 and 1 learned, 2 is dead, 3 diverged, 4 is overconfident; at lr=0.1. At lr=0.4 all are dead."""
    words = ("task=digits", "objective=cross_entropy", "beta=1", "lr=0.1,0.4", "seed=0..4", "tune_seeds=1", "extend=0")
    settings = resolve(parse([*words, "epochs=2", "interventions=no"]))
    store = Store(tmp_path / "run")
    labels, truth = labels_and_truth(200, CLASSES)
    splits = splits_of(labels, CLASSES)
    template = next(iter(templates(settings)))
    for rate in (0.1, 0.4):
        for seed in range(5):
            trial = trial_at(settings, template, rate, seed)
            kind = "dead" if rate == 0.4 else ("fine", "fine", "dead", "diverged", "overconfident")[seed]
            data = store.write_splits(trial, splits)
            loss = {"dead": 1.386, "overconfident": 0.01}.get(kind, 0.5)
            history = {"epoch": [0, 1, 2], "train_loss": [math.nan, 1.0, loss]}
            if kind == "diverged":
                store.write(TrialResult(trial, kind, {}, history, {"seconds": 1.0}), data, {})
                continue
            z = {name: {"dead": 0.0, "overconfident": 20.0}.get(kind, 1.0) * u.float() for name, u in truth.items()}
            outcome = TrialResult(trial, "done", z, history, {"seconds": 1.0})
            store.write(outcome, data, {"selection": selection_scores(outcome, splits)})
    store.write_study(settings, settings.command())
    (arm,) = tuning.arms(settings, store.scores(settings.select))
    return store, settings, arm


def test_one_definition_for_status_rates_of_failure_and_frontier(planted: tuple[Store, Settings, Arm]) -> None:
    store, settings, arm = planted
    assert [store.fate(arm.trials[seed]) for seed in range(5)] == ["done", "done", "dead", "diverged", "done"]
    assert [store.state(arm.trials[seed]) for seed in range(5)] == ["done", "done", "done", "diverged", "done"]
    scores = store.scores(settings.select)
    failed = beta_rate_plane.is_failed(settings)
    assert [failed(scores(arm.trials[seed])) for seed in range(5)] == [False, False, True, True, False]  # type: ignore[arg-type]
    assert scores(arm.trials[4]) > math.log(CLASSES)  # type: ignore[operator]  # large, and yet no failure

    measures = measure_arm(store, arm, registry.calibrators(("temperature_scaling",)))
    assert (measures.seeds, measures.diverged, measures.dead) == ((0, 1, 2, 4), (3,), (2,))
    rows = [each.methods(measures, False)[0], sown._failures(sown.read(measures, store, settings, {}))]
    assert rows[0]["failed"] == 2
    assert rows[1]["failed_chosen_trials"] == "2 of 4"  # seed 0 chose the rate
    assert rows[1]["failed_trials"] == "7 of 10"
    assert provenance.training(store, [*arm.trials.values()])["failed"] == 2

    found = beta_rate_plane.failure_brackets(settings, arm, scores)
    assert (found[0].best, found[0].failing) == (0.1, 0.4)
    assert math.isnan(found[2].best)


def test_dead_trials_are_named_in_the_warnings(planted: tuple[Store, Settings, Arm]) -> None:
    import pandas as pd

    store, settings, arm = planted
    rows = [
        {"model": "mlp", "variant": "batch=32", "beta": 1.0, "objective": "cross_entropy", "switch": "10 to 1 at 0.5"}
        | {"seed": seed, "status": store.fate(trial)}
        for seed, trial in arm.trials.items()
    ]
    told = " ".join(warnings(settings, [arm], (), {"trials": pd.DataFrame(rows)}, store.provenance()))
    assert "diverged at the chosen rate: 1 of 5 trials" in told
    assert "Dead at the chosen rate, and part of every mean: 1 of 5 trials" in told
    assert "(mlp batch=32 beta=1 cross_entropy 10 to 1 at 0.5 seed 2)" in told


def test_imbalanced_labels_are_judged_by_their_entropy(tmp_path: Path) -> None:
    """A classifier that always says 2% has a small loss, and has learnt nothing."""
    y = (torch.arange(500) % 50 == 0).long()
    labels = {name: y.clone() for name in ("selection", "calibration", "test")}
    settings, store = resolve(parse(["task=digits", "beta=1", "lr=0.1", "epochs=1"])), Store(tmp_path / "run")
    trial = trial_at(settings, next(iter(templates(settings))), 0.1, 0)
    splits = splits_of(labels, 2)
    prior = torch.tensor([0.98, 0.02]).log().expand(500, 2).contiguous()
    outcome = TrialResult(trial, "done", {name: prior.clone() for name in labels}, {"epoch": [0, 1]}, {})
    store.write(outcome, store.write_splits(trial, splits), {"selection": selection_scores(outcome, splits)})
    assert store.scores("log_loss")(trial) == pytest.approx(0.098, abs=1e-3)
    assert store.fate(trial) == "dead"


def test_a_search_chooses_no_configuration_that_failed() -> None:
    settings = resolve(parse(["task=digits", "beta=1", "lr=0.1", "epochs=3"]))
    template = next(iter(templates(settings)))

    def scores(trial: Trial) -> Score:
        return Score(trial.lr, lambda: trial.lr < 0.05)  # the lowest scores are those of failed trainings

    found = search.search(template, (1e-3, 1.0), None, 12, lambda trial: [trial], scores)
    assert found.best is None or found.best.trial.lr >= 0.05
    everything = search.search(template, (1e-3, 1.0), None, 12, lambda t: [t], lambda t: Score(t.lr, lambda: True))
    assert everything.best is None


def test_real_trainings_are_told_apart(tmp_path: Path) -> None:
    """Cautious rates learn, enormous ones kill or saturate with finite logits; what is not trained cannot fail."""
    shared = ["model=mlp_8", "beta=1", "seed=0", "limit=240", "interventions=no", "wandb=disabled", "workers=1"]
    words = [*shared, "lr=0.3,1e4", "clip=1", "extend=0", "epochs=20", f"out={tmp_path}"]
    driver.main(words)
    settings = resolve(parse(words))
    store, template = Store(settings.folder), next(iter(templates(settings)))
    fine, dead = (trial_at(settings, template, rate, 0) for rate in (0.3, 1e4))
    assert store.state(dead) == "done"
    assert (store.fate(fine), store.fate(dead)) == ("done", "dead")
    entropy = store.record(dead).metadata["label_entropy"]
    assert 0.95 * math.log(10) < entropy <= math.log(10)

    words = [*shared, "lr=1", "epochs=0", f"out={tmp_path / 'untrained'}"]
    driver.main(words)
    settings = resolve(parse(words))
    store, template = Store(settings.folder), next(iter(templates(settings)))
    untrained = trial_at(settings, template, 1.0, 0)
    assert store.scores("log_loss")(untrained) > 0.95 * math.log(10)  # type: ignore[operator]
    assert store.fate(untrained) == "done"
