"""The short grids of the default recipes find the optimum that a dense grid finds."""

from __future__ import annotations

import math
from pathlib import Path

import driver
import pytest

from calib_bench.core.settings import parse
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import Arm, tuned
from calib_bench.store.store import Store

WORDS = (
    "model=mlp_32", "beta=0.03,0.3,1,10", "objective=cross_entropy", "interventions=no", "seed=0..2", "epochs=40",
    "workers=1", "wandb=disabled",
)  # fmt: skip
DENSE = f"lr_hom={','.join(f'{0.03 * 2 ** (k / 2):.4g}' for k in range(15))}"
"""In factors of the square root of 2, wider than the default grid at both ends."""
NOISE = 0.02
"""Nats by which mean selection losses of neighbouring rates differ by chance, with three seeds."""


def arms(*words: str) -> dict[float, tuple[Arm, float]]:
    """By beta, the tuned arm and its mean selection loss at the chosen rate."""
    driver.main(list(words))
    settings = resolve(parse(words))
    scores = Store(settings.folder, "read").scores(settings.select)
    by_beta = {arm.trial.beta: arm for family in tuned(settings.grid, scores) for arm in family.arms}
    losses = {beta: [scores(trial) for trial in arm.at_chosen().trials.values()] for beta, arm in by_beta.items()}
    return {beta: (arm, sum(losses[beta]) / len(losses[beta])) for beta, arm in by_beta.items()}


@pytest.mark.slow
def test_the_default_rates_of_digits_find_the_optimum_of_a_dense_grid(tmp_path: Path) -> None:
    short = arms(*WORDS, f"out={tmp_path / 'short'}")
    dense = arms(*WORDS, DENSE, "extend=0", f"out={tmp_path / 'dense'}")
    for beta, (arm, loss) in short.items():
        best, least = dense[beta]
        assert arm.rates[0] < arm.chosen < arm.rates[-1]
        assert len(arm.rates) <= 7
        assert abs(math.log2(arm.chosen / best.chosen)) <= 1.01
        assert loss <= least + NOISE
