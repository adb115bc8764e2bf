"""Plans: what is wanted, what is done, and who trains together."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

import pytest

from calib_bench import registry
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import Role
from calib_bench.core.trial import Trial
from calib_bench.planning import plan as planning
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from tests.store.test_store import DATA, outcome, put
from tests.store.test_store import trial as stored_trial

STUDY = registry.study("separation")


def settings(*words: str) -> Settings:
    tune = [] if any(word.startswith("tune_seeds") for word in words) else ["tune_seeds=10"]
    return resolve(
        parse(
            ["beta=0.1,1", "objective=cross_entropy", "lr=0.01,0.1,1", "seed=0..9", "interventions=no", *tune, *words]
        )
    )


def test_groups_are_stacks_of_what_differs_in_numbers_alone(tmp_path: Path) -> None:
    plan = planning.make(settings("model=mlp_8,mlp_16"), STUDY, Store(tmp_path, "peek"), workers=2)
    assert len(plan.trials) == plan.pending == 2 * 2 * 3 * 10
    assert len(plan.groups) == 4
    assert all(len({trial.model for trial in group}) == 1 for group in plan.groups)
    assert sorted(trial.key for group in plan.groups for trial in group) == sorted(trial.key for trial in plan.trials)


def test_stack_bounds_the_size_and_one_means_alone(tmp_path: Path) -> None:
    for size in (1, 7, 128):
        plan = planning.make(settings(f"stack={size}"), STUDY, Store(tmp_path, "peek"), workers=2)
        assert max(map(len, plan.groups)) <= size


def test_few_among_many_stay_together_and_many_are_spread_over_workers(tmp_path: Path) -> None:
    models = [f"mlp_{width}" for width in range(4, 16)]
    plan = planning.make(settings(f"model={','.join(models)}"), STUDY, Store(tmp_path, "peek"), workers=2)
    few = [trial for trial in plan.trials if trial.model != models[0]]
    assert {len(group) for group in planning.group(few, 128, 2)} == {60}
    many = [trial for trial in plan.trials if trial.model in models[:2]]
    assert {len(group) for group in planning.group(many, 128, 2)} == {30}


def test_split_seeds_do_not_share_a_stack(tmp_path: Path) -> None:
    plan = planning.make(settings("split=seed"), STUDY, Store(tmp_path, "peek"))
    assert all(len({trial.split for trial in group}) == 1 for group in plan.groups)


def test_convolutions_train_alone_on_a_cpu_and_together_on_a_gpu(tmp_path: Path) -> None:
    chosen = settings("model=cnn_4")
    assert {len(g) for g in planning.make(chosen, STUDY, Store(tmp_path, "peek"), 2, "cpu").groups} == {1}
    assert {len(g) for g in planning.make(chosen, STUDY, Store(tmp_path, "peek"), 1, "cuda").groups} == {60}


def test_a_begun_group_is_kept_together(tmp_path: Path) -> None:
    chosen, store = settings(), Store(tmp_path)
    trials = planning.make(chosen, STUDY, store).trials
    store.checkpoints.begin(trials[3:8]).write_bytes(b"")
    groups = planning.make(chosen, STUDY, store, workers=2).groups
    assert groups[0] == trials[3:8]
    assert sum(map(len, groups)) == len(trials)


def test_what_is_stored_is_done(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put(store)
    study = type(STUDY)("?", lambda settings, scores: [stored_trial(0), stored_trial(1)], STUDY.analyse, {})
    plan = planning.make(settings(), study, store)
    assert (plan.done, plan.pending) == (1, 1)


def test_foresight_counts_the_seeds_and_the_control_that_follow_tuning(tmp_path: Path) -> None:
    chosen = settings("tune_seeds=2")
    assert planning.make(chosen, STUDY, Store(tmp_path, "peek")).pending == 2 * 3 * 2
    assert len(planning.foresee(chosen, STUDY, Store(tmp_path, "peek"))) == 2 * (3 * 2 + 8) + 10


def test_each_trial_is_made_once_and_shared_by_the_plans_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_held", WeakValueDictionary())
    keyed: list[Trial] = []
    canonical = Trial.canonical
    monkeypatch.setattr(Trial, "canonical", lambda self: keyed.append(self) or canonical(self))  # type: ignore[func-returns-value]
    chosen, store = settings(), Store(tmp_path, "peek")
    made, arms = planning.make(chosen, STUDY, store).trials, len(list(tuning.templates(chosen)))
    assert len(made) == 60
    assert len(keyed) == 60 + arms
    keyed.clear()
    again = planning.make(chosen, STUDY, store).trials
    assert len(keyed) == arms
    assert all(one is other for one, other in zip(made, again, strict=True))
    del made, again
    assert not tuning._held, "a plan that nobody holds is kept"


def test_a_kept_plan_is_read_until_more_is_stored(tmp_path: Path) -> None:
    class PlannedAnew(Exception):
        pass

    def refuse(*_: object) -> dict[Trial, Role]:
        raise PlannedAnew

    chosen, store = settings("tune_seeds=1"), Store(tmp_path)
    plan, other = planning.make(chosen, STUDY, store), replace(STUDY, plan=refuse)
    with pytest.raises(PlannedAnew):
        planning.read(chosen, other, store)
    planning.keep(plan, chosen, store, "command")
    assert planning.read(chosen, other, Store(tmp_path, "read")) == plan.roles
    with pytest.raises(PlannedAnew):  # another question is not answered by it
        planning.read(settings("tune_seeds=2"), other, Store(tmp_path, "read"))
    store.write(replace(outcome(0), trial=plan.trials[0]), DATA, {"selection": {"log_loss": 1.0}})
    with pytest.raises(PlannedAnew):
        planning.read(chosen, other, Store(tmp_path, "read"))


def test_every_trial_has_the_first_of_its_roles() -> None:
    """A tuning seed's trial at the chosen rate is reported; plain trials of a study's plan are too."""
    words = ["beta=0.1,1", "objective=cross_entropy", "lr=0.01,0.1,1", "seed=0..2", "tune_seeds=2", "model=mlp_8"]
    chosen = resolve(parse([*words, "interventions=yes"]))

    def prefers_the_middle(trial: Trial) -> float:
        return abs(math.log(trial.lr / 0.1))

    roles = STUDY.plan(chosen, prefers_the_middle)
    assert isinstance(roles, dict)
    counts = Counter(roles.values())
    assert counts["chosen"] == 2 * 3
    assert counts["intervention"] == 4 * 3
    assert counts["control"] == 2 * 3
    assert counts["tuning"] == (2 + 4) * 2 * 2
    assert all(trial.lr == 0.1 for trial, role in roles.items() if role == "chosen")
    plain = replace(STUDY, plan=lambda settings, scores: [*roles, *roles])
    assert planning.make(chosen, plain, Store(Path("none"), "peek")).roles == dict.fromkeys(roles, "chosen")
