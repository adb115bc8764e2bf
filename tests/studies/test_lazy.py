"""The lazy probe: zero at the start, against kernels formed whole, and only where it is asked for."""

from __future__ import annotations

import pytest
import torch

from calib_bench.core.settings import parse
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.planning.defaults import resolve
from calib_bench.studies.separation import lazy
from calib_bench.studies.separation.study import STUDY
from calib_bench.train.initialize import initial_model
from tests.train.test_train import CPU, OBJECTIVES, digits, trial
from tests.train.test_train import run as train

PROBED = trial(model="mlp_16", epochs=3, probe=lazy.NAME, precision="fp64", lr=0.3)


def test_nothing_has_moved_at_the_start_and_training_moves_both() -> None:
    history = train(PROBED).history
    assert history["kernel_drift"][0] == pytest.approx(0, abs=1e-12)
    assert history["weight_drift"][0] == 0
    for column in ("kernel_drift", "weight_drift"):
        assert 0 < history[column][1] < history[column][3]


def test_the_measure_is_that_of_whole_kernels_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "DIRECTIONS", 400)
    splits = digits("mlp_16")
    start, model = (initial_model(PROBED, splits, CPU, OBJECTIVES) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    state = torch.get_rng_state()
    got = lazy.measure(PROBED, model, splits, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    x, _ = next(iter(splits.train.train_batches(seed=0, epoch=0, batch=lazy.BATCH, device=CPU)))
    kernels = [Tangent(one, x.double()).dense() for one in (start, model)]
    exact = 1 - (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert got["kernel_drift"] == pytest.approx(exact.item(), rel=0.15)
    theta = [torch.cat([p.detach().flatten() for p in one.parameters()]) for one in (start, model)]
    assert got["weight_drift"] == pytest.approx(((theta[1] - theta[0]).norm() / theta[0].norm()).item())


def test_trials_carry_it_only_where_it_is_asked_for() -> None:
    words = ["model=mlp_8", "beta=1", "lr=0.1", "epochs=1", "seed=0", "interventions=no"]
    for word, name in (("probe=none", None), ("probe=lazy", lazy.NAME)):
        grid = resolve(parse([*words, word])).grid
        assert {one.probe for one in STUDY.plan(grid, lambda _: 1.0)} == {name}
