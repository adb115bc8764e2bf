"""Twice the trials take twice the time and little more memory: planner, store and report, training made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.bench_simulation import SMALL, described, simulate


@pytest.mark.soak
def test_twice_the_trials_take_twice_the_time_and_little_more_memory(tmp_path: Path) -> None:
    small, large = simulate(tmp_path / "run", SMALL, (10, 20))
    said = f"{described(small)}; {described(large)}"
    assert [(stage.trials, stage.new) for stage in (small, large)] == [(2000, 2000), (4000, 2000)]
    assert large.train < 1.8 * small.train, said  # as many new ones each
    assert large.plan < 3.5 * max(small.plan, 0.1), said
    assert large.analyse < 3 * small.analyse, said
    assert large.memory - small.memory < 30, said  # MB: 2 kB a trial are the plan, and noise is 20
