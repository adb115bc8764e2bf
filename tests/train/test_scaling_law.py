"""What follows beta by the degree of a net: the exact identity in whole runs, the unit lr_hom, the setting carry."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from calib_bench.analysis.controls import _refactored
from calib_bench.analysis.table_notes import rate_unit
from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.dynamics.euler_degree import euler_degree
from calib_bench.dynamics.scaling_law import Numbers, carry, powers
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import templates
from calib_bench.train import initialize
from calib_bench.train.learning_rate import DEGREE_SEEDS, DIGITS, Rate, euler_degree_of, probe
from calib_bench.train.single_loop import train_single
from tests.train.test_stacked_loop import assert_close, fuse
from tests.train.test_train import CPU, digits, run, trial

SGD = {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05, "weight_decay": 1e-2, "decay_scale": "beta"}
CLIPPED = {**SGD, "clip": 0.5, "clip_scale": "beta"}
ADAM = {"optimizer": "adam", "lr": 0.01, "eps": 1e-3, "eps_scale": "beta", "weight_decay": 1e-2, "decay_scale": "beta"}
ADAMW = {**ADAM, "optimizer": "adamw", "weight_decay": 0.5}
PLAIN = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.2, "weight_decay": 0.0}


def fused(one: Trial) -> TrialResult:
    return fuse([one])[0]


@pytest.mark.parametrize("train", [run, fused])
@pytest.mark.parametrize("recipe", [PLAIN, SGD, CLIPPED, ADAM, ADAMW], ids=["plain", "sgd", "clip", "adam", "adamw"])
@pytest.mark.parametrize("model", ["mlp_32_nobias", "mlp_32_32_nobias"])
def test_a_run_at_beta_from_scaled_weights_is_the_run_at_one(
    model: str, recipe: dict[str, Any], train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits, float64, weights times beta^(-1/L), rate, decay, eps and clip as carried: beta z to rounding.

    But for torch's clipping, which adds 1e-6 to the gradient's norm whatever that is.
    """
    tolerance = 1e-5 if "clip" in recipe else 1e-9
    one = trial(model=model, beta=1.0, lr_unit="lr_hom", precision="fp64", epochs=5, **recipe)
    degree = model.count("_")
    expected = train(one)
    assert expected.metadata["euler_degree"] == degree
    draw = initialize.initial_model
    for beta in (0.03, 5.0):

        def scaled(*arguments: Any, factor: float = beta ** (-1 / degree)) -> nn.Module:
            network = draw(*arguments)
            with torch.no_grad():
                for p in network.parameters():
                    p.mul_(factor)
            return network

        monkeypatch.setattr(initialize, "initial_model", scaled)
        got = train(one.model_copy(update={"beta": beta}))
        monkeypatch.setattr(initialize, "initial_model", draw)
        for name, z in expected.logits.items():
            torch.testing.assert_close(beta * got.logits[name], z, rtol=tolerance, atol=tolerance)
        assert got.history["train_loss"] == pytest.approx(expected.history["train_loss"], rel=tolerance, nan_ok=True)
        weights = [norm / beta ** (-1 / degree) for norm in got.history["weight_norm"]]
        assert weights == pytest.approx(expected.history["weight_norm"], rel=tolerance)
    fixed = dict.fromkeys(("eps_scale", "decay_scale", "clip_scale"), "none")
    monkeypatch.setattr(initialize, "initial_model", scaled)
    uncarried = train(one.model_copy(update={"beta": beta, **fixed}))
    if recipe is not PLAIN:  # which has nothing but a rate
        assert not torch.allclose(beta * uncarried.logits["test"], expected.logits["test"], rtol=1e-3)


def test_the_powers_of_each_optimizer() -> None:
    tuned = Numbers(lr=0.1, weight_decay=5e-4, eps=1e-8, clip=1.0)
    assert carry(tuned, "sgd", 1.0, 3.7) == tuned
    at = carry(tuned, "adamw", 0.001, 3)
    assert (at.lr, at.weight_decay, at.eps, at.clip) == pytest.approx((1.0, 5e-5, 1e-9, 0.1))
    assert carry(tuned, "adam", 0.001, 3).weight_decay == pytest.approx(5e-6)  # added to the gradient
    assert carry(Numbers(0.1), "sgd", 0.01, 2) == Numbers(pytest.approx(10.0))
    with pytest.raises(SettingsError, match="timm/lion"):
        powers("timm/lion")


def test_rates_in_lr_hom() -> None:
    shared = {"lr_unit": "lr_hom", "lr": 0.2, "epochs": 0, "beta": 0.1}
    assert run(trial(degree=4.0, **shared)).metadata["lr"] == pytest.approx(0.2 * 0.1**-0.5)
    assert run(trial(degree=4.0, optimizer="adam", **shared)).metadata["lr"] == pytest.approx(0.2 * 0.1**-0.25)
    measured = run(trial(**shared)).metadata
    assert measured["lr"] == pytest.approx(0.2 * 0.1 ** (-2 / measured["euler_degree"]))
    assert 1.5 < measured["euler_degree"] < 2.5
    assert measured["lambda_max"] is None
    again = trial(degree=measured["euler_degree"], **shared)
    assert run(again).metadata["lr"] == measured["lr"]  # as many digits as are shown


def test_the_degree_is_the_mean_over_three_initializations_whatever_the_seed() -> None:
    one = trial(lr_unit="lr_hom", epochs=0)
    x, _ = probe(digits(), CPU)
    values = []
    for seed in DEGREE_SEEDS:
        network = initialize.initial_model(trial(seed=seed), digits(), CPU)
        values.append(euler_degree(network, x))
    metadata = run(one).metadata
    assert metadata["euler_degree"] == round(sum(values) / 3, DIGITS)
    assert metadata["euler_degree_spread"] == pytest.approx(torch.tensor(values).std().item(), rel=1e-4)
    others = [
        run(one.model_copy(update=change)).metadata for change in ({"seed": 7}, {"beta": 0.1}, {"head_init": 3.0})
    ]
    assert {other["euler_degree"] for other in others} == {metadata["euler_degree"]}
    assert euler_degree_of(one, digits(), CPU).values == tuple(values)


def test_measuring_the_degree_moves_no_random_stream() -> None:
    one = trial(model="mlp_9", lr_unit="lr_hom", epochs=0)
    torch.manual_seed(5)
    euler_degree_of(one, digits("mlp_9"), CPU)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.parametrize("recipe", [{**SGD, "lr": 0.05}, ADAM, ADAMW])
def test_a_rate_in_lr_hom_means_the_same_on_both_sides_of_the_head_reparametrization(recipe: dict[str, Any]) -> None:
    at_beta = trial(lr_unit="lr_hom", beta=0.2, degree=2.5, **recipe)
    moved = _refactored(at_beta, 1.0)
    if recipe["optimizer"] != "sgd":  # Adam's head rate takes the factor once
        moved = moved.model_copy(update={"head_lr": 0.2})
    one, other = Rate(1.0, degree=2.5).applied(at_beta), Rate(1.0, degree=2.5).applied(moved)
    assert one.weight_decay == pytest.approx(other.weight_decay)
    rates = [run(t.model_copy(update={"epochs": 0})).metadata["lr"] for t in (at_beta, moved)]
    assert rates[0] == pytest.approx(rates[1])


@pytest.mark.parametrize("recipe", [CLIPPED, {**ADAM, "clip": 0.1, "clip_scale": "beta"}, ADAMW])
def test_the_stack_and_the_single_loop_agree_on_what_follows_beta(recipe: dict[str, Any]) -> None:
    shared = {"precision": "fp64", "epochs": 4, **recipe}
    trials = [
        trial(beta=1.0, **shared),
        trial(beta=0.1, **{**shared, "lr_unit": "lr_hom"}),
        trial(beta=0.1, **{**shared, "lr_unit": "lr_hom", "degree": 4.0}),
        trial(beta=0.1, seed=1, **{**shared, "decay_scale": "none", "clip_scale": "none", "eps_scale": "none"}),
        trial(beta=3.0, head_lr=2.0, **shared),
    ]
    for one, got in zip(trials, fuse(trials), strict=True):
        assert_close(got, run(one))


def test_a_stack_gives_a_switched_member_the_rate_of_its_own_beta() -> None:
    shared = {"lr_unit": "lr_eff", "lr": 0.01, "precision": "fp64"}
    trials = [trial(beta=1.0, **shared), trial(beta=0.5, switch_from=1.0, switch_at=0.5, **shared)]
    got = fuse(trials)
    assert [one.metadata["lr"] for one in got] == [run(one).metadata["lr"] for one in trials] == [0.01, 0.04]


def test_keys_change_only_where_results_do() -> None:
    usual = trial()
    neutral = {"eps_scale": "none", "decay_scale": "none", "clip_scale": "none", "degree": None}
    assert trial(**neutral).key == usual.key
    assert not set(neutral) & set(usual.canonical())
    changed = [
        {"lr_unit": "lr_hom"},
        {"decay_scale": "beta"},
        {"clip_scale": "beta"},
        {"lr_unit": "lr_hom", "degree": 2},
    ]
    assert len({usual.key, *(trial(**change).key for change in changed)}) == 5


def planned(*words: str) -> list[dict[str, Any]]:
    settings = resolve(parse(["task=digits", "beta=1", "objective=cross_entropy", *words]))
    assert resolve(settings) == settings
    assert parse(settings.words()[1:]).carry == settings.carry
    return [one.canonical() for one in templates(settings)]


def test_carry_is_part_of_a_trial_only_where_it_has_something_to_carry() -> None:
    assert planned("lr_hom=0.1") == planned("lr_hom=0.1", "carry=rate") == planned("lr_hom=0.1", "carry=all")
    assert planned("lr_hom=0.1", "carry=none") == planned("lr=0.1")
    (decayed,) = planned("lr_rel=0.1", "carry=all", "weight_decay=1e-3")
    assert decayed["decay_scale"] == "beta"
    assert not {"eps_scale", "clip_scale"} & set(decayed)
    sgd, adam = planned("lr_hom=0.1", "carry=all", "clip=1", "optimizer=sgd,adam", "degree=3")
    assert (sgd.get("eps_scale"), adam.get("eps_scale")) == (None, "beta")
    assert sgd["clip_scale"] == adam["clip_scale"] == "beta"
    assert sgd["degree"] == adam["degree"] == 3
    assert planned("lr=0.1", "carry=all", "degree=3") == planned("lr=0.1")  # nothing follows, so no degree either


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("lr_hom=0.1", "optimizer=timm/lion"), "timm/lion"),
        (("lr_eff=0.1", "carry=none"), "give lr="),
        (("lr=0.1", "degree=2"), "leave it out"),
        (("lr_hom=0.1", "degree=2", "model=mlp_8,mlp_9"), "that of one model"),
        (("lr_hom=0.1", "degree=0"), "degree=0"),
        (("lr_hom=0.1", "lr=0.1"), "units of one learning rate"),
        (("lr_hom=0.1", "carry=some"), "carry=some"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        planned(*words)


def test_a_net_without_a_degree_is_refused_and_may_be_given_one() -> None:
    one = trial(model="mlp_16_nobias", lr_unit="lr_hom", lr=0.01, epochs=0)
    splits = digits(one.model)
    blank = TensorSplit(
        DeviceCache(torch.zeros(60, 64)), torch.arange(60), splits.train.labels[:60]
    )  # its logits are zero
    splits = dataclasses.replace(splits, train=blank, digest="blank")
    eps = one.model_copy(update={"optimizer": "adam", "lr_unit": "lr", "eps_scale": "beta"})
    for refused in (one, eps):
        with pytest.raises(SettingsError, match="give degree="):
            train_single(refused, splits, device=CPU)
    given = train_single(one.model_copy(update={"degree": 2.0}), splits, device=CPU)
    assert given.metadata["lr"] == pytest.approx(0.005)


def test_two_copies_have_the_degree_of_one_even_where_their_logits_are_zero() -> None:
    one = trial(lr_unit="lr_hom", epochs=0)
    degrees = {run(one.model_copy(update={"correlation": c})).metadata["euler_degree"] for c in (None, -1.0, 0.5)}
    assert len(degrees) == 1


def test_tables_say_what_the_unit_is() -> None:
    assert "Euler degree" in rate_unit(resolve(parse(["task=digits", "lr_hom=0.5"])))


def test_the_rate_is_finite_at_extreme_betas() -> None:
    rate = carry(Numbers(1e-3), "sgd", 1e-8, 2.0).lr
    assert math.isfinite(rate)
    assert rate == pytest.approx(1e5)


def test_a_run_that_switches_beta_takes_its_rate_in_lr_hom_by_the_larger_of_the_two() -> None:
    shared = {"lr_unit": "lr_hom", "lr": 0.2, "epochs": 2, "degree": 4.0}
    down, up = (run(trial(beta=b, switch_from=a, switch_at=0.5, **shared)).metadata["lr"] for a, b in ((9, 1), (1, 9)))
    assert down == up == pytest.approx(0.2 / 9**0.5)


def test_an_objective_that_replaces_the_head_trains_in_the_rates_of_the_ordinary_one() -> None:
    shared = {"lr_unit": "lr_hom", "lr": 0.2, "epochs": 0, "beta": 0.1}
    rates = {run(trial(objective=name, **shared)).metadata["lr"] for name in ("cross_entropy", "cosine_head:10")}
    assert len(rates) == 1


def test_a_recipes_rates_are_refused_for_an_optimizer_whose_rates_are_of_another_size() -> None:
    with pytest.raises(SettingsError, match="are for sgd"):
        resolve(parse(["task=digits", "optimizer=adam"]))
    assert resolve(parse(["task=digits", "optimizer=adam", "lr_hom=0.01"]))
