"""A factor on all initial parameters: what it multiplies, that ordinary trials keep their key, and both loops."""

from __future__ import annotations

import pytest
import torch

from calib_bench.train.initialize import initial_model
from tests.train.test_stacked_loop import assert_close, fuse
from tests.train.test_train import CPU, digits, run, trial


@pytest.mark.parametrize("model", ["mlp_8", "mlp_8_layernorm"])
def test_every_parameter_is_multiplied(model: str) -> None:
    models = [initial_model(trial(model=model, init_scale=scale), digits(), CPU) for scale in (1.0, 0.25)]
    plain, scaled = (dict(one.named_parameters()) for one in models)
    for name, parameter in plain.items():
        torch.testing.assert_close(scaled[name], 0.25 * parameter)


def test_it_is_part_of_the_key_only_where_it_is_not_one() -> None:
    assert "init_scale" not in trial().canonical()
    assert trial(init_scale=0.5).canonical()["init_scale"] == 0.5
    assert trial(init_scale=0.5).key != trial().key


def test_a_stack_of_several_scales_trains_each_as_alone() -> None:
    shared = {"model": "mlp_8", "epochs": 3, "lr": 0.1, "lr_unit": "lr_rel", "precision": "fp64"}
    trials = [trial(init_scale=scale, **shared) for scale in (1.0, 0.3, 2.0)]
    for one, stacked in zip(trials, fuse(trials), strict=True):
        assert_close(run(one), stacked)


def test_the_degree_of_a_rate_is_that_of_ordinary_weights() -> None:
    rates = [run(trial(init_scale=s, beta=0.1, lr_unit="lr_hom", epochs=0)).metadata["lr"] for s in (1.0, 0.1)]
    assert rates[0] == rates[1]
