"""The search over beta and rate: a function of known scores, within its budget, and better than guessing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from calib_bench.core.trial import Trial
from calib_bench.planning.search import Search, lengths, search, shortened
from tests.core.test_trial import BASE

pytest.importorskip("optuna")

TEMPLATE = Trial(**{**BASE, "epochs": 30, "warmup": 3.0})
Truth = Callable[[Trial], float]


def bowl(trial: Trial) -> float:
    """Best at beta = 0.2 and rate 0.05; too large a rate diverges."""
    if trial.lr > 5:
        return math.inf
    return 0.1 * abs(math.log(trial.beta / 0.2)) + 0.2 * abs(math.log(trial.lr / 0.05)) + 1 / trial.epochs


def seeded(trial: Trial) -> list[Trial]:
    return [trial.model_copy(update={"seed": seed}) for seed in (0, 1)]


def run(truth: Truth = bowl, budget: int = 24, betas: tuple[float, float] | None = (1e-2, 10.0)) -> Search:
    known: dict[str, float] = {}

    def scores(trial: Trial) -> float | None:
        return known.get(trial.key)

    while True:
        found = search(TEMPLATE, (1e-3, 10.0), betas, budget, seeded, scores)
        if not found.wanted:
            return found
        assert not {trial.key for trial in found.wanted} & known.keys()
        known |= {trial.key: truth(trial) for trial in found.wanted}


@pytest.fixture(scope="module")
def found() -> Search:
    return run()


def test_a_search_keeps_its_budget_and_finds_the_bowl(found: Search) -> None:
    assert len(found.tried) == 24
    assert found.best is not None
    assert found.best.trial.epochs == 30
    median = sorted(bowl(t.trial) for t in found.tried)[12]
    assert found.best.scores[-1] < median / 2


def test_the_worse_are_stopped_early(found: Search) -> None:
    assert {t.epochs for t in found.tried} <= {(10,), (10, 30)}
    full = [t for t in found.tried if t.finished]
    assert 1 <= len(full) <= 24 / 3
    for start in range(0, 24, 8):
        batch = found.tried[start : start + 8]
        furthest = max(len(t.epochs) for t in batch)
        assert min(batch, key=lambda t: t.scores[0]).epochs == lengths(TEMPLATE)[:furthest]
    assert found.cost == 2 * sum(sum(t.epochs) for t in found.tried) < 2 * 24 * 30 * 3 / 4


def test_no_configuration_is_given_up_before_a_quarter_of_its_epochs() -> None:
    for epochs in range(1, 201):
        rungs = lengths(TEMPLATE.model_copy(update={"epochs": epochs}))
        assert rungs[0] >= epochs / 4
        assert rungs[-1] == epochs
        assert list(rungs) == sorted(set(rungs))


def test_a_configuration_that_begins_slowly_is_not_lost() -> None:
    """Small rates are the best at the end, and behind until a fifth of the epochs."""

    def slow(trial: Trial) -> float:
        begun = trial.epochs / TEMPLATE.epochs > 0.2
        return bowl(trial) if begun else -math.log(trial.lr)

    assert run(slow).best == run().best


def test_a_replay_is_the_same_search(found: Search) -> None:
    assert run() == found


def test_the_reference_search_keeps_its_beta() -> None:
    assert {t.trial.beta for t in run(budget=8, betas=None).tried} == {1.0}


def test_all_diverged_is_no_winner() -> None:
    assert run(lambda trial: math.inf, budget=8).best is None


def test_a_shortened_trial_keeps_its_warm_up_in_proportion() -> None:
    short = shortened(TEMPLATE, 10)
    assert (short.epochs, short.warmup) == (10, 1.0)
