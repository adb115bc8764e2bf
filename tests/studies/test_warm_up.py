"""Warm-up: in recipes of deep nets, as an arm that is compared, and as a control of what its lack held back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic import facts, labels_and_truth, make, outcome, shape, splits_of

from calib_bench import registry
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.measure import measure_arm
from calib_bench.core.settings import parse
from calib_bench.core.trial import Score, Trial
from calib_bench.inference import crossed_interval
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from calib_bench.studies.separation import head_start
from calib_bench.studies.separation.study import STUDY

WORDS = ("calibrator=temperature_scaling", "objective=cross_entropy", "seed=0..3", "tune_seeds=3")


@pytest.mark.parametrize(
    ("words", "warmup"),
    [
        (("task=cifar10",), 1.0),
        (("task=cifar10", "epochs=6"), 1.0),
        (("task=cifar10", "epochs=2"), 0.5),
        (("task=cifar10", "warmup=0"), 0.0),
        (("task=imagenet", "model=cnn_8_16"), 5.0),
        (("task=imagenet", "model=cnn_8_16", "epochs=1"), 0.25),
        (("task=digits",), 0.0),
        (("task=imdb",), 0.0),
    ],
)
def test_recipes_of_deep_nets_have_a_warm_up_that_short_runs_keep(words: tuple[str, ...], warmup: float) -> None:
    (space,) = resolve(parse(words)).spaces.values()
    assert space["warmup"] == (warmup,)


def test_warm_up_is_compared_with_none_at_each_beta(tmp_path: Path) -> None:
    store, settings = make(tmp_path / "run", *WORDS, "beta=1,10", "warmup=0,1")
    analysis = STUDY.analyse(settings, store)
    tables = analysis.tables
    frame = tables["warm_up"].frame.set_index("beta")
    assert list(frame.index) == [1.0, 10.0]
    assert "head_start" not in tables  # the grid has warm-up itself
    repair = registry.calibrators(("temperature_scaling",))
    arms = {(arm.trial.beta, arm.trial.warmup): arm for arm in tuning.arms(settings, store.scores(settings.select))}
    measured = {place: measure_arm(store, arm, repair) for place, arm in arms.items()}
    for beta in (1.0, 10.0):
        row = contrast(measured[beta, 1.0], measured[beta, 0.0], False)
        assert frame.loc[beta, "accuracy_low"] == row["accuracy_low"]
        assert frame.loc[beta, "log_loss_dyn_high"] == row["log_loss_dyn_high"]
        assert (frame.loc[beta, "warmup"], frame.loc[beta, "against"]) == (1.0, 0.0)
    correct = {place: measures.examples["raw"]["correct"] for place, measures in measured.items()}
    effect = (correct[10.0, 1.0] - correct[1.0, 1.0]) - (correct[10.0, 0.0] - correct[1.0, 0.0])
    assert frame.loc[10.0, "accuracy_of_beta"] == pytest.approx(crossed_interval(effect).mean, abs=1e-12)
    assert frame["accuracy_of_beta"].isna()[1.0]
    assert "Warm-up against none" in tables["warm_up"].note
    assert any(sentence.startswith("What warm-up changes of beta's effect") for sentence in analysis.verdict)


def failing_above(limit: float) -> Any:
    """Scores that are best at .1 in a grid of .03, .1, .3; seed 1 fails at rates above the limit."""

    def scores(trial: Trial) -> Score:
        return Score(facts(trial)["selection"]["log_loss"], lambda: trial.lr > limit and trial.seed == 1)

    return scores


def controls(words: tuple[str, ...] = (), limit: float = 0.2) -> list[head_start.HeadStart]:
    settings = resolve(parse(["lr=0.03,0.1,0.3,0.9", *WORDS, "beta=1,10", *words]))
    scores = failing_above(limit)
    return head_start.of_arms(settings.grid, tuning.arms(settings.grid, scores), scores)


def test_a_head_start_is_looked_for_at_the_smallest_larger_rate_that_failed_with_the_seed_that_did() -> None:
    found = controls()
    assert [control.arm.trial.beta for control in found] == [1.0, 10.0]
    for control in found:
        for trial, warmup in ((control.without, 0.0), (control.warmed, 10.0)):
            # 300 examples in batches of 60: 100 updates are 20 epochs.
            assert (trial.lr, trial.seed, trial.epochs, trial.warmup, trial.schedule) == (
                0.3,
                1,
                20,
                warmup,
                "constant",
            )
    assert [control.warmed.lr for control in controls(limit=0.5)] == [0.9, 0.9]
    assert controls(("epochs=4",))[0].warmed.epochs == 4
    assert controls(("limit=120",))[0].warmed.epochs == 50
    assert not controls(limit=1.0)  # nothing failed
    assert not controls(("warmup=1",))
    assert not controls(("warmup=0,1",))


def test_the_control_is_planned_and_a_small_part_of_the_default_run() -> None:
    settings = resolve(parse(["task=digits"]))
    scores = failing_above(0.5)
    roles = STUDY.plan(settings.grid, scores)
    added = head_start.roles(head_start.of_arms(settings.grid, tuning.arms(settings.grid, scores), scores))
    added_trials = [trial for trial, _ in added]
    assert added_trials
    assert all(roles[trial] == "control" for trial in added_trials)
    assert sum(t.epochs for t in added_trials) < 0.05 * sum(t.epochs for t in roles)
    assert len(added_trials) < 0.05 * len(roles)


@pytest.mark.parametrize(
    ("without", "warmed", "warned"), [(True, False, True), (False, False, False), (True, True, False)]
)
def test_a_head_start_is_warned_of_where_only_the_trial_with_warm_up_trains(
    tmp_path: Path, without: bool, warmed: bool, warned: bool
) -> None:
    store, settings = make(tmp_path / "run", *WORDS, "beta=1", "epochs=80", "lr=0.03,0.1,0.3", "extend=0")
    (arm,) = tuning.arms(settings, store.scores(settings.select))
    base = arm.tried[0.3][0]
    pair = [base.model_copy(update={"epochs": 20, "warmup": warmup}) for warmup in (0.0, 10.0)]
    labels, truth = labels_and_truth(120, 4)
    for trial, dead in zip(pair, (without, warmed), strict=True):
        write(store, trial, shape(trial, truth, labels), labels, dead)
    (row,) = head_start.rows(store, [head_start.HeadStart(arm, *pair)], None)
    assert (row["without_warmup"], row["with_warmup"]) == tuple(
        "fails" if dead else "trains" for dead in (without, warmed)
    )
    sentences = head_start.warnings([row])
    assert bool(sentences) is warned
    if warned:
        assert "beta=1: 0.3 lr" in sentences[0]
        assert "0.1 was chosen" in sentences[0]
        assert "warmup=0,10" in sentences[0]


def write(store: Store, trial: Trial, Z: Any, labels: Any, diverged: bool) -> None:
    store.write(outcome(trial, Z, diverged), store.write_splits(trial, splits_of(labels, 4)), {})
