"""The contract of the train-time baselines, and each one's own truths against independent implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn import overconfident
from torch import nn
from torch.nn import functional as F

from calib_bench import models, registry
from calib_bench.baselines.cosine_head import CosineHead
from calib_bench.baselines.learned_beta import LearnedScale
from calib_bench.baselines.norm_softmax import UnitVarianceHead
from calib_bench.baselines.soft_cap import CappedHead
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import spell_out
from calib_bench.train.loss import Loss, TrialSchedule

OBJECTIVES = registry.objectives()
each_objective = pytest.mark.parametrize("name", OBJECTIVES)
IMAGE = InputSpec("image", (1, 8, 8))
each_loss = pytest.mark.parametrize("name", [name for name, objective in OBJECTIVES.items() if objective.loss])


def trial(**changed: object) -> Trial:
    base = {
        "task": "digits", "model": "mlp_16", "beta": 2.0, "objective": "cross_entropy", "optimizer": "sgd", "lr": 0.1,
        "lr_unit": "lr", "momentum": 0.9, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "epochs": 2,
        "batch": 60, "seed": 0,
    }  # fmt: skip
    return Trial(**{**base, **changed})


@each_objective
def test_each_departs_in_some_way(name: str) -> None:
    objective = OBJECTIVES[name]
    hooks = (objective.loss, objective.logits, objective.factor, objective.mix, objective.head)
    assert sum(hook is not None for hook in hooks) >= 1
    assert objective.neutral is None or objective.valid[0] <= objective.neutral <= objective.valid[1]


@each_objective
def test_the_neutral_strength_changes_nothing(name: str) -> None:
    objective = OBJECTIVES[name]
    if objective.neutral is None:
        pytest.skip("no strength of it is plain cross-entropy")
    z, y = overconfident(64)
    neutral = torch.tensor(objective.neutral)
    if objective.loss:
        assert torch.equal(objective.loss(z, y, neutral), F.cross_entropy(z, y, reduction="none"))
    if objective.logits:
        assert torch.equal(objective.logits(z, neutral), z)
    if objective.factor:
        assert [objective.factor(t, objective.neutral) for t in (0.0, 0.3, 0.99)] == [1, 1, 1]
    if objective.mix:
        assert objective.mix(np.random.default_rng(0), objective.neutral) == 1
    if objective.head:
        plain = nn.Linear(7, 5)
        h = torch.randn(3, 7)
        assert torch.equal(objective.head(plain, objective.neutral)(h), plain(h))


@each_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_strength_zero_is_cross_entropy_to_the_bit(name: str, dtype: torch.dtype) -> None:
    z, y = overconfident(64)
    values, gradients = [], []
    for f in (lambda a: F.cross_entropy(a, y, reduction="none"), lambda a: OBJECTIVES[name].loss(a, y, a.new_zeros(1))):
        Z = z.to(dtype).requires_grad_()
        value = f(Z)
        value.sum().backward()
        values.append(value)
        gradients.append(Z.grad)
    assert torch.equal(*values)
    assert torch.equal(*gradients)


@each_loss
def test_a_batch_of_models_is_each_model(name: str) -> None:
    g = torch.Generator().manual_seed(0)
    Z = 3 * torch.randn(4, 32, 5, generator=g)
    Y = torch.randint(5, (4, 32), generator=g)
    strength = torch.tensor([[0.0], [0.1], [0.3], [1.0]])
    f = OBJECTIVES[name].loss
    together = f(Z, Y, strength)
    assert together.shape == (4, 32)
    for i in range(4):
        assert torch.equal(together[i], f(Z[i], Y[i], strength[i]))


@each_loss
@pytest.mark.parametrize("scale", [1e4, 1e-8])
def test_gradients_are_finite_at_extreme_logits(name: str, scale: float) -> None:
    z, y = overconfident(64)
    Z = (scale * z).requires_grad_()
    OBJECTIVES[name].loss(Z, y, torch.tensor(0.1)).sum().backward()
    assert Z.grad is not None
    assert Z.grad.isfinite().all()


@each_loss
def test_objective_gradient_is_its_derivative(name: str) -> None:
    z, y = overconfident(6, 3)
    Z = z.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda a: OBJECTIVES[name].loss(a, y, torch.tensor(0.2)), Z)


@each_objective
def test_default_strengths_are_valid(name: str) -> None:
    objective = OBJECTIVES[name]
    assert objective.strengths
    assert all(objective.valid[0] <= s <= objective.valid[1] for s in objective.strengths)


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.5, 1.0])
def test_label_smoothing_is_torchs(eps: float) -> None:
    z, y = overconfident(64)
    ours = OBJECTIVES["label_smoothing"].loss(z.double(), y, torch.tensor(eps, dtype=torch.float64))
    torch.testing.assert_close(ours, F.cross_entropy(z.double(), y, label_smoothing=eps, reduction="none"))


def test_confidence_penalty_is_cross_entropy_less_entropy() -> None:
    z, y = overconfident(64)
    entropy = torch.distributions.Categorical(logits=z.double()).entropy()
    ours = OBJECTIVES["confidence_penalty"].loss(z.double(), y, torch.tensor(0.3))
    torch.testing.assert_close(ours, F.cross_entropy(z.double(), y, reduction="none") - 0.3 * entropy)


def test_confidence_penalty_penalizes_confidence() -> None:
    # Without the weight of any label, descent raises the entropy, by an amount that does not shrink with K.
    for K in (2, 10, 1000):
        even, sure = torch.zeros(1, K), 20 * torch.eye(K)[:1]
        y = torch.tensor([0])
        f = OBJECTIVES["confidence_penalty"].loss
        extra = [f(z, y, torch.tensor(1.0)) - f(z, y, torch.tensor(0.0)) for z in (even, sure)]
        assert float(extra[0]) == pytest.approx(-math.log(K), rel=1e-5)
        assert float(extra[1]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_its_formula(gamma: float) -> None:
    z, y = overconfident(64)
    p_y = z.double().softmax(1).gather(1, y[:, None])[:, 0]
    expected = -((1 - p_y) ** gamma) * p_y.log()
    torch.testing.assert_close(OBJECTIVES["focal_loss"].loss(z.double(), y, torch.tensor(gamma)), expected)


def test_logit_norm_sees_directions_alone() -> None:
    z, y = overconfident(64)
    loss = Loss({"logit_norm": torch.tensor(25.0, dtype=torch.float64)}, OBJECTIVES)
    beta = torch.tensor(0.3, dtype=torch.float64)
    expected = F.cross_entropy(0.3 * 25 * F.normalize(z.double(), dim=1), y, reduction="none")
    torch.testing.assert_close(loss(z.double(), y, beta), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(loss(1e3 * z.double(), y, beta), expected, rtol=1e-6, atol=0)


def test_a_map_of_logits_combines_with_a_loss() -> None:
    z, y = overconfident(64)
    both = Loss({"logit_norm": torch.tensor(25.0), "label_smoothing": torch.tensor(0.1)}, OBJECTIVES)
    expected = F.cross_entropy(2 * 25 * F.normalize(z, dim=1), y, reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(both(z, y, torch.tensor(2.0)), expected)


def test_squared_error_is_the_distance_to_the_label() -> None:
    z, y = overconfident(64)
    ours = OBJECTIVES["squared_error"].loss(z.double(), y, torch.tensor(1.0))
    torch.testing.assert_close(ours, (z.double() - F.one_hot(y, 5)).square().sum(1))


def test_a_learned_scale_multiplies_the_logits() -> None:
    plain = nn.Linear(7, 5)
    head = LearnedScale(plain, 2.0)
    h = torch.randn(3, 7)
    with torch.no_grad():
        head.log_scale.fill_(0.25)
    torch.testing.assert_close(head(h), math.exp(0.5) * plain(h))
    assert {name for name, _ in head.named_parameters()} == {"weight", "bias", "log_scale"}


def test_a_cosine_head_is_scipys_cosine() -> None:
    from scipy.spatial.distance import cosine

    plain = nn.Linear(7, 5)
    h = torch.randn(3, 7)
    expected = [[16 * (1 - cosine(row, w)) for w in plain.weight.detach().numpy()] for row in h.numpy()]
    torch.testing.assert_close(CosineHead(plain, 16.0)(h).detach(), torch.tensor(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mlp_16", "cnn_4", "wrn_10_1", "timm/resnet10t"])
def test_a_head_is_replaced_where_the_model_has_it(name: str) -> None:
    model = models.build(name, InputSpec("image", (3, 32, 32)), 5)
    models.replace_head(model, CosineHead(models.head(model), 3.0))
    z = model.eval()(torch.randn(2, 3, 32, 32))
    assert isinstance(models.head(model), CosineHead)
    assert float(z.detach().abs().max()) <= 3.0


def test_margin_smoothing_costs_nothing_within_the_margin() -> None:
    z, y = overconfident(64)
    f = OBJECTIVES["margin_smoothing"].loss
    plain = F.cross_entropy(z, y, reduction="none")
    near = (z.amax(1) - z.amin(1)) <= 10
    wide = 5 * z
    by_hand = [sum(max(0.0, max(row) - value - 10) for value in row) / len(row) for row in wide.tolist()]
    torch.testing.assert_close(f(z, y, torch.tensor(0.1))[near], plain[near], rtol=0, atol=0)
    penalty = f(wide, y, torch.tensor(0.5)) - F.cross_entropy(wide, y, reduction="none")
    torch.testing.assert_close(penalty, 0.5 * torch.tensor(by_hand), rtol=1e-4, atol=1e-4)


def test_max_suppression_is_label_smoothing_where_the_answer_is_right() -> None:
    z, y = overconfident(64)
    z, eps = z.double(), torch.tensor(0.1, dtype=torch.float64)
    smoothed, suppressed = (OBJECTIVES[name].loss(z, y, eps) for name in ("label_smoothing", "max_suppression"))
    right = z.argmax(1) == y
    assert 0 < int(right.sum()) < 64
    torch.testing.assert_close(suppressed[right], smoothed[right])
    assert (suppressed[~right] > smoothed[~right]).all()


def test_z_loss_is_the_squared_log_normalizer() -> None:
    z, y = overconfident(64)
    penalty = OBJECTIVES["z_loss"].loss(z, y, torch.tensor(0.1)) - F.cross_entropy(z, y, reduction="none")
    torch.testing.assert_close(penalty, 0.1 * z.exp().sum(1).log() ** 2, rtol=1e-4, atol=1e-4)


def test_a_soft_cap_bounds_logits_and_leaves_small_ones() -> None:
    plain, h = nn.Linear(7, 5), torch.randn(3, 7)
    z, capped = plain(h), CappedHead(plain, 2.0)(h)
    torch.testing.assert_close(capped, 2 * torch.tanh(z / 2))
    torch.testing.assert_close(CappedHead(plain, 1e4)(h), z, rtol=1e-5, atol=1e-6)


def test_norm_softmax_has_logits_of_one_spread() -> None:
    z = UnitVarianceHead(nn.Linear(7, 5), 3.0)(torch.randn(40, 7))
    torch.testing.assert_close(z.var(1, correction=0), torch.full((40,), 9.0), rtol=1e-4, atol=1e-4)
    with pytest.raises(SettingsError, match="three classes"):
        UnitVarianceHead(nn.Linear(7, 2), 1.0)


def test_mixup_shares_are_beta_distributed() -> None:
    from scipy.stats import kstest

    mix = OBJECTIVES["mixup"].mix
    shares = [mix(np.random.default_rng(seed), 0.4) for seed in range(500)]
    assert kstest(shares, "beta", args=(0.4, 0.4)).pvalue > 0.01


def test_a_mixture_is_a_function_of_the_seed_and_the_step() -> None:
    schedule = TrialSchedule(trial(objective="mixup:0.4"), 10, OBJECTIVES)
    share, partner = schedule.mixture(0, 3, 60)
    again, same = schedule.mixture(0, 3, 60)
    assert share == again
    assert (partner == same).all()
    assert sorted(partner) == list(range(60))
    assert schedule.mixture(0, 4, 60)[0] != share


def test_an_annealed_beta_ends_at_beta() -> None:
    schedule = TrialSchedule(trial(objective="beta_anneal:-1.0"), 100, OBJECTIVES)
    assert schedule.beta(0) == pytest.approx(0.2)
    assert schedule.beta(50) == pytest.approx(2 * 10**-0.5)
    assert schedule.beta(99) == pytest.approx(2, rel=0.05)
    assert not schedule.steady


def test_a_switch_happens_once_and_keeps_the_logits() -> None:
    schedule = TrialSchedule(trial(switch_from=0.5, switch_at=0.25), 100)
    assert [schedule.beta(step) for step in (0, 24, 25, 99)] == [0.5, 0.5, 2, 2]
    assert [schedule.head_factor(step) for step in (24, 25, 26)] == [1, 0.25, 1]
    assert TrialSchedule(trial(switch_from=0.5, switch_at=0.001), 100).switch == 1
    assert TrialSchedule(trial(switch_from=0.5, switch_at=0.999), 100).switch == 99


@pytest.mark.parametrize("text", ["cosine_head+learned_beta", "cosine_head:3+learned_beta:1"])
def test_two_heads_are_refused_before_anything_runs(text: str) -> None:
    with pytest.raises(SettingsError, match="cosine_head and learned_beta both replace the head"):
        spell_out(text, OBJECTIVES)
