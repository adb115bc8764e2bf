"""Rates: equal budgets, grids that grow at their edges, and flags where they may not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_bench.core.settings import Settings, parse
from calib_bench.core.trial import Score, Scores, Trial
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import arms, plan, together

WORDS = ["beta=0.1,1", "objective=cross_entropy", "lr=0.01,0.1,1", "seed=0..2", "extend=2"]


def settings(*words: str) -> Settings:
    keys = {word.split("=")[0] for word in words}
    return resolve(parse([*(word for word in WORDS if word.split("=")[0] not in keys), *words]))


def bowl(best: dict[float, float]) -> Scores:
    """Scores with the best rate of each beta where `best` says."""
    return lambda trial: abs(math.log10(trial.lr / best[trial.beta]))


def run_out(chosen: Settings, truth: Scores) -> list[Trial]:
    """Plan round by round until nothing is added."""
    known: dict[str, float | None] = {}
    while True:
        trials = plan(chosen, lambda trial: known.get(trial.key))
        new = [trial for trial in trials if trial.key not in known]
        if not new:
            return trials
        known.update({trial.key: truth(trial) for trial in new})


def test_an_inner_optimum_needs_no_more_rates() -> None:
    chosen = settings()
    truth = bowl({0.1: 0.1, 1.0: 0.1})
    assert len(run_out(chosen, truth)) == 2 * 3 * 3
    assert [(arm.chosen, arm.status) for arm in arms(chosen, truth)] == [(0.1, "tuned")] * 2


def test_one_arm_at_an_edge_extends_the_grid_for_all_alike() -> None:
    chosen = settings()
    truth = bowl({0.1: 10.0, 1.0: 0.1})
    trials = run_out(chosen, truth)
    rates = {beta: sorted({t.lr for t in trials if t.beta == beta}) for beta in (0.1, 1.0)}
    assert rates[0.1] == rates[1.0] == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert [(arm.chosen, arm.status) for arm in arms(chosen, truth)] == [(10.0, "tuned"), (0.1, "tuned")]


def test_beyond_the_bound_the_arm_is_flagged() -> None:
    chosen = settings()
    truth = bowl({0.1: 1e6, 1.0: 0.1})
    run_out(chosen, truth)
    assert [(arm.chosen, arm.status) for arm in arms(chosen, truth)] == [(100.0, "edge"), (0.1, "tuned")]
    truth = bowl({0.1: 1.0, 1.0: 0.1})
    assert [arm.status for arm in arms(settings("extend=0"), truth)] == ["edge", "tuned"]


def test_one_rate_is_fixed_not_tuned() -> None:
    assert {arm.status for arm in arms(settings("lr=0.1"), lambda trial: 1.0)} == {"fixed"}


def test_a_rate_at_which_a_seed_diverged_is_not_chosen() -> None:
    def truth(trial: Trial) -> float:
        return math.inf if trial.lr >= 1 and trial.seed == 2 else -trial.lr

    arm = arms(settings(), truth)[0]
    assert arm.chosen == 0.1
    assert arm.scores[1.0] == math.inf
    assert {a.status for a in arms(settings("extend=1"), lambda trial: math.inf)} == {"diverged"}


def test_few_seeds_tune_and_the_others_run_at_the_chosen_rate() -> None:
    chosen = settings("tune_seeds=1")
    truth = bowl({0.1: 0.1, 1.0: 0.1})
    trials = run_out(chosen, truth)
    assert len(trials) == 2 * (3 + 2)
    assert {t.lr for t in trials if t.seed > 0} == {0.1}
    assert sorted(arms(chosen, truth)[0].trials) == [0, 1, 2]


def test_a_rate_that_few_seeds_chose_says_so() -> None:
    truth = bowl({0.1: 0.1, 1.0: 1e6})
    few, enough = (arms(settings(f"tune_seeds={n}"), truth) for n in (2, 3))
    assert [arm.tuning for arm in few] == ["few seeds", "edge, few seeds"]
    assert [arm.tuning for arm in enough] == ["tuned", "edge"]
    assert {arm.tuning for arm in arms(settings("tune_seeds=1", "lr=0.1"), truth)} == {"fixed"}
    assert {arm.tuning for arm in arms(settings("tune_seeds=1"), lambda trial: None)} == {"pending"}
    assert together([*few, *enough]) == "few seeds, edge, few seeds, edge"
    assert together(enough[:1]) == "tuned"


def test_an_arm_has_its_tuning_trials_by_rate() -> None:
    arm = arms(settings("tune_seeds=2", "select=error"), bowl({0.1: 0.1, 1.0: 0.1}))[0]
    assert {rate: [(t.lr, t.seed) for t in trials] for rate, trials in arm.tried.items()} == {
        rate: [(rate, 0), (rate, 1)] for rate in (0.01, 0.1, 1.0)
    }
    assert arm.select == "error"
    assert arm.tried[0.1] == (arm.trials[0], arm.trials[1])
    assert not arms(settings("lr=0.1"), lambda trial: 1.0)[0].tried
    assert not arms(settings("extend=1"), lambda trial: math.inf)[0].tried


def test_rates_are_chosen_by_three_seeds_unless_told_otherwise() -> None:
    for task in ("digits", "cifar10", "imdb", "imagenet"):
        chosen = resolve(parse([f"task={task}"]))
        assert chosen.tune_seeds == min(3, len(chosen.seed or ()))


# cross-fitting

FIXED = ["beta=1", "lr=0.01,0.1,1", "extend=0"]


def table(costs: list[list[float]]) -> Scores:
    """Scores by rate of FIXED, then seed; those of further seeds do not matter."""
    rows = dict(zip((0.01, 0.1, 1.0), costs, strict=True))
    return lambda trial: rows[trial.lr][trial.seed] if trial.seed < len(rows[trial.lr]) else 0.0


def test_a_tuning_seed_is_reported_at_the_rate_that_the_others_choose() -> None:
    # Seed 0 alone makes 0.1 the best of all.
    truth = table([[9.0, 9.0, 9.0], [0.0, 3.0, 3.0], [4.0, 2.5, 2.5]])
    (arm,) = arms(settings(*FIXED, "seed=0..4", "tune_seeds=3"), truth)
    assert (arm.chosen, arm.elsewhere) == (0.1, {0: 1.0})
    assert {seed: trial.lr for seed, trial in arm.trials.items()} == {0: 1.0, 1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}
    assert all(seed == trial.seed for seed, trial in arm.trials.items())


def test_fewer_than_three_tuning_seeds_keep_one_rate() -> None:
    truth = table([[9.0, 9.0], [0.0, 3.0], [4.0, 2.5]])
    (arm,) = arms(settings(*FIXED, "seed=0..3", "tune_seeds=2"), truth)
    assert (arm.chosen, arm.elsewhere, arm.tuning) == (0.1, {}, "few seeds")
    assert {trial.lr for trial in arm.trials.values()} == {0.1}


costs = st.lists(st.lists(st.floats(0, 10).map(lambda x: round(x, 3)), min_size=4, max_size=4), min_size=3, max_size=3)


@given(costs, st.integers(0, 3), st.lists(st.floats(0, 10), min_size=3, max_size=3))
def test_no_seed_has_a_part_in_the_choice_of_the_rate_it_is_reported_at(
    known: list[list[float]], seed: int, others: list[float]
) -> None:
    chosen = settings(*FIXED, "seed=0..4", "tune_seeds=4")
    changed = [
        [other if s == seed else cost for s, cost in enumerate(row)] for row, other in zip(known, others, strict=True)
    ]
    (arm,), (again,) = arms(chosen, table(known)), arms(chosen, table(changed))
    assert arm.trials[seed] == again.trials[seed]
    # It is the best of the others' means, and all trials were needed to tune.
    means = [sum(row) - row[seed] for row in known]
    assert means[(0.01, 0.1, 1.0).index(arm.trials[seed].lr)] == pytest.approx(min(means))
    assert {trial.key for s, trial in arm.trials.items() if s < 4} <= {t.key for row in arm.tried.values() for t in row}
    assert arm.trials[4].lr == arm.chosen


def test_cross_fitting_takes_no_further_trial() -> None:
    truth = table([[9.0, 9.0, 9.0], [0.0, 3.0, 3.0], [4.0, 2.5, 2.5]])
    trials = run_out(settings(*FIXED, "seed=0..4", "tune_seeds=3"), truth)
    assert len(trials) == 3 * 3 + 2


@pytest.mark.parametrize("how", ["diverged", "dead"])
def test_a_rate_at_which_a_tuning_seed_failed_is_no_seeds_choice(how: str) -> None:
    lost = math.inf if how == "diverged" else Score(9.0, lambda: True)
    truth = table([[9.0, 9.0, 9.0], [3.0, 3.0, 3.0], [lost, 2.5, 2.5]])
    (arm,) = arms(settings(*FIXED, "seed=0..4", "tune_seeds=3"), truth)
    assert (arm.chosen, arm.elsewhere) == (0.1, {})
    (arm,) = arms(settings(*FIXED, "seed=0..4", "tune_seeds=3"), table([[9.0] * 3, [3.0] * 3, [9.0, 2.5, 2.5]]))
    assert (arm.chosen, arm.elsewhere) == (0.1, {0: 1.0})


def test_pending_arms_say_so() -> None:
    assert {arm.status for arm in arms(settings(), lambda trial: None)} == {"pending"}


def test_seedwise_splits_follow_the_seed() -> None:
    assert {(t.seed, t.split) for t in plan(settings("split=seed"), lambda trial: None)} == {(0, 0), (1, 1), (2, 2)}
    assert {t.split for t in plan(settings(), lambda trial: None)} == {0}


def test_arms_of_other_models_have_their_own_grid() -> None:
    chosen = settings("model=mlp_8,mlp_16")
    truth: Scores = lambda trial: abs(math.log10(trial.lr / (10.0 if trial.model == "mlp_8" else 0.1)))  # noqa: E731
    trials = run_out(chosen, truth)
    assert {t.lr for t in trials if t.model == "mlp_16"} == {0.01, 0.1, 1.0}
    assert max(t.lr for t in trials if t.model == "mlp_8") == 100.0


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["task=cifar"], "did you mean 'cifar10'"),
        (["study=separate"], "did you mean 'separation'"),
        (["model=mpl"], "mlp"),
        (["objective=label_smoothin"], "did you mean 'label_smoothing'"),
        (["objective=label_smoothing:2"], "from 0 to 1"),
        (["objective=label_smoothing:x"], "the strength is a number"),
        (["objective=label_smoothing+label_smoothing"], "twice"),
        (["objective=cross_entropy:0.3"], "stands alone"),
        (["pretrained=true"], "timm/NAME"),
        (["calibrator=temperature"], "did you mean 'temperature_scaling'"),
        (["calibrator=label_smoothing"], "objective=label_smoothing"),
        (["optimizer=sdg"], "sgd"),
        (["schedule=cosin"], "cosine"),
        (["optimizer=adam", "lr_rel=1"], "give lr="),
        (["seed=0,1", "tune_seeds=3"], "tune_seeds=3"),
        (["plugins=/nowhere"], "not a folder"),
        (["warmup=3", "epochs=2"], "longer than a run of 2 epochs"),
    ],
)
def test_unknown_names_are_errors_that_name_the_nearest(words: list[str], hint: str) -> None:
    from calib_bench.errors import SettingsError

    with pytest.raises(SettingsError) as caught:
        resolve(parse(words))
    assert hint in str(caught.value)


def test_a_recipes_warm_up_bows_to_fewer_epochs() -> None:
    for epochs, warmup in ((90, 5.0), (0, 0.0), (18, 1.0), (180, 5.0)):
        spaces = resolve(parse(["task=imagenet", f"epochs={epochs}"])).spaces or {}
        assert spaces["timm/resnet50"]["warmup"] == (warmup,)


def test_resolving_again_changes_nothing() -> None:
    chosen = settings()
    assert resolve(chosen) == chosen
    assert Settings.model_validate(chosen.model_dump(mode="json")) == chosen


def test_the_reference_beta_joins_the_grid() -> None:
    assert settings("beta=0.1,10").beta == (0.1, 1.0, 10.0)
    assert resolve(parse(["objective=label_smoothing+confidence_penalty"])).objective == (
        "confidence_penalty:0.1+label_smoothing:0.1",
    )
