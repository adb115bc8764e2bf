"""Metrics against definitions, other packages where they are right, and their known defects where they are not."""

from __future__ import annotations

import itertools
import math
import resource
from random import Random
from typing import Any

import forked
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calib_bench import metrics
from calib_bench.errors import UserError
from calib_bench.inference import aurc_n
from calib_bench.metrics.binned import binned_error, debiased_squared_error, equal_mass, equal_width
from calib_bench.metrics.risk import risk_area
from calib_bench.metrics.scores import confidence_n, top_label

WITHOUT_LABELS = ("mean_confidence", "mean_entropy", "confidence_n")


def sample(N: int = 400, K: int = 5, seed: int = 0, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(N, K, generator=g)
    y = torch.multinomial(torch.softmax(0.6 * z, 1), 1, generator=g)[:, 0]
    return z, y


def of_probability(p: list[list[float]]) -> Tensor:
    return torch.tensor(p, dtype=torch.float64).log()


@pytest.mark.parametrize("K", [2, 5])
def test_measure_is_each_function(K: int) -> None:
    z, y = sample(K=K)
    found = metrics.measure(z, y)
    assert ("ece_positive" in found) == (K == 2)
    for name, value in found.items():
        f = getattr(metrics, name)
        assert torch.equal(value, f(z) if name in WITHOUT_LABELS else f(z, y)), name


@pytest.mark.parametrize("K", [2, 3])
def test_leading_axes_are_separate_models(K: int) -> None:
    models = [sample(N=101, K=K, seed=seed) for seed in range(6)]
    Z = torch.stack([z for z, _ in models]).view(2, 3, 101, K)
    Y = torch.stack([y for _, y in models]).view(2, 3, 101)
    together = metrics.measure(Z, Y)
    for i, (z, y) in enumerate(models):
        for name, value in metrics.measure(z, y).items():
            torch.testing.assert_close(together[name].flatten(0, 1)[i], value, rtol=1e-13, atol=1e-15, msg=name)
    shared = metrics.measure(Z, Y[0, 0])
    torch.testing.assert_close(shared["log_loss"][1, 2], metrics.log_loss(Z[1, 2], Y[0, 0]))


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    z, y = sample(N=500, K=7)
    whole = metrics.measure(z, y)
    monkeypatch.setattr("calib_bench.metrics.scores.BLOCK", 7 * 13)
    for name, value in metrics.measure(z, y).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-13, atol=1e-15, msg=name)


def test_logits_and_log_probabilities_agree_in_float64() -> None:
    z, y = sample()
    a, b = metrics.measure(z, y), metrics.measure((z.double() + 1000).log_softmax(-1), y)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-12, msg=name)
        assert a[name].dtype == torch.float64


def test_scores_against_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, log_loss

    z, y = sample()
    p = z.double().softmax(1).numpy()
    found = metrics.measure(z, y)
    assert math.isclose(found["log_loss"], log_loss(y, p, labels=range(5)), rel_tol=1e-12)
    assert math.isclose(found["accuracy"], accuracy_score(y, p.argmax(1)))
    assert math.isclose(found["brier"], np.square(p - np.eye(5)[y]).sum(1).mean(), rel_tol=1e-12)
    assert math.isclose(found["mean_entropy"], -(p * np.log(p)).sum(1).mean(), rel_tol=1e-12)
    assert math.isclose(found["mean_confidence"], p.max(1).mean(), rel_tol=1e-12)


def test_zero_probability_is_an_infinite_loss() -> None:
    logp, y = of_probability([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([1, 0])
    found = metrics.measure(logp, y)
    assert found["log_loss"] == math.inf
    assert found["brier"] == (2 + 0.5) / 2
    assert found["mean_entropy"] == pytest.approx(math.log(2) / 2)
    assert metrics.log_loss_n(torch.tensor([[1e4, 0.0]]), torch.tensor([1])) == 1e4


def test_brier_of_a_nearly_certain_prediction_keeps_its_digits() -> None:
    gap = 30.0
    loss = metrics.brier(torch.tensor([[gap, 0.0]], dtype=torch.float64), torch.tensor([0]))
    assert float(loss) == pytest.approx(2 * (math.exp(-gap) / (1 + math.exp(-gap))) ** 2, rel=1e-2)


def test_bins_are_closed_above_and_the_first_below() -> None:
    for bins in (5, 10, 15, 20):
        edges = torch.arange(bins + 1, dtype=torch.float64) / bins
        assert equal_width(edges, bins).tolist() == [0, *range(bins)]
        assert equal_width(edges[:-1] + 1e-6, bins).tolist() == list(range(bins))


def reference_ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins) | ((b == 0) & (confidence == 0))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


def test_ece_is_its_definition() -> None:
    z, y = sample(N=2000)
    p = z.double().softmax(1).numpy()
    found = metrics.measure(z, y)
    assert float(found["ece"]) == pytest.approx(reference_ece(p.max(1), p.argmax(1) == y.numpy()), rel=1e-10)
    classwise = np.mean([reference_ece(p[:, k], y.numpy() == k) for k in range(5)])
    assert float(found["classwise_ece"]) == pytest.approx(classwise, rel=1e-10)


def test_ece_against_torchmetrics_below_confidence_one() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    z, y = sample(N=3000)
    theirs = multiclass_calibration_error(z.double().softmax(1), y, num_classes=5, n_bins=15, norm="l1")
    assert float(metrics.ece(z, y)) == pytest.approx(float(theirs), abs=1e-6)


def test_ece_against_relplot() -> None:
    from relplot.metrics import binnedECE

    z, y = sample(N=3000)
    confidence, predicted = z.double().softmax(1).max(1)
    theirs = binnedECE(confidence.numpy(), (predicted == y).double().numpy(), nbins=15)
    assert float(metrics.ece(z, y)) == pytest.approx(theirs, abs=1e-9)


def test_confidence_of_one_is_in_the_last_bin() -> None:
    # 50 wrong at confidence 1 and 50 right at .95 share a bin; a bin of its own for 1 would give .525.
    logp = of_probability([[1.0, 0.0]] * 50 + [[0.95, 0.05]] * 50)
    y = torch.tensor([1] * 50 + [0] * 50)
    assert float(metrics.ece(logp, y)) == pytest.approx(0.475)


def test_ece_against_netcal() -> None:
    from netcal.metrics import ECE

    z, y = sample(N=3000)
    assert float(metrics.ece(z, y)) == pytest.approx(
        ECE(15).measure(z.double().softmax(1).numpy(), y.numpy()), rel=1e-9
    )


def test_positive_class_ece_is_another_number() -> None:
    logp, y = of_probability([[0.9, 0.1], [0.1, 0.9]]), torch.tensor([1, 1])
    assert float(metrics.ece(logp, y)) == pytest.approx(0.4)
    assert float(metrics.ece_positive(logp, y)) == pytest.approx(0.5)
    with pytest.raises(UserError, match="2 classes"):
        metrics.ece_positive(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))


def test_classwise_counts_absent_classes() -> None:
    # Classes 0, 1, 2 have mean gaps .3, .1, .2; the third never occurs.
    logp, y = of_probability([[0.7, 0.1, 0.2]] * 8), torch.zeros(8, dtype=torch.int64)
    assert float(metrics.classwise_ece(logp, y)) == pytest.approx((0.3 + 0.1 + 0.2) / 3)


def test_equal_mass_bins_balance_and_keep_ties() -> None:
    p = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.bincount(equal_mass(p, 15))
    assert len(counts) == 15
    assert counts.max() - counts.min() <= 1
    tied = torch.tensor([0.9] * 90 + [0.2] * 10)
    index = equal_mass(tied, 15)
    assert len(index[:90].unique()) == len(index[90:].unique()) == 1
    assert equal_mass(torch.full((7,), 0.5)).unique().numel() == 1
    assert equal_mass(torch.tensor([0.3])).tolist() == [0]


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9, 1.0]), min_size=1, max_size=60), st.randoms())
def test_adaptive_ece_ignores_the_order_of_examples(p: list[float], random: Random) -> None:
    hit = [float(random.random() < 0.5) for _ in p]
    order = random.sample(range(len(p)), len(p))
    a, b = torch.tensor(p, dtype=torch.float64), torch.tensor(hit, dtype=torch.float64)
    value = binned_error(a, b, equal_mass(a))
    torch.testing.assert_close(binned_error(a[order], b[order], equal_mass(a[order])), value)
    assert 0 <= value <= 1


@given(st.integers(2, 40), st.integers(0, 999))
def test_renamed_classes_leave_what_ranks_confidences(K: int, seed: int) -> None:
    """Rows that are permutations of a few others tie, whatever the last digits of their sums."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((4, K)).round(2)
    rows[:, 0] = 4
    Z = torch.from_numpy(np.stack([rng.permutation(rows[i % 4]) for i in range(80)]))
    y = torch.from_numpy(rng.integers(0, K, 80))
    columns = torch.from_numpy(rng.permutation(K))
    renamed, labels = Z[:, columns], torch.argsort(columns)[y]
    for name in ("aurc", "e_aurc", "adaptive_ece", "debiased_squared_ece"):
        score = getattr(metrics, name)
        assert float(score(renamed, labels)) == pytest.approx(float(score(Z, y)), abs=1e-12), name
    confidence, correct = top_label(Z, y)
    assert aurc_n(confidence, correct).mean() == pytest.approx(float(metrics.aurc(Z, y)), abs=1e-12)
    assert len(set(map(float, equal_mass(confidence)))) <= 4


def test_ties_are_no_wider_than_rounding() -> None:
    """Confidences that differ by 1e-13 are in order."""
    confidence = torch.tensor([0.5, 0.5 + 1e-13, 0.5 + 2e-16, 1.0], dtype=torch.float64)
    area, _ = risk_area(confidence, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert float(area) == pytest.approx((0 + 1 / 2 + 1.5 / 3 + 2 / 4) / 4)


def test_debiased_squared_ece_is_centred_and_signed() -> None:
    g = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(2000, 500, generator=g, dtype=torch.float64)
    hit = (torch.rand(p.shape, generator=g, dtype=torch.float64) < p).double()
    calibrated = debiased_squared_error(p, hit, equal_mass(p))
    assert calibrated.min() < 0
    assert abs(calibrated.mean()) < 4 * calibrated.std() / 2000**0.5 + 2e-5
    shifted = debiased_squared_error((p + 0.1).clamp(max=1.2), hit, equal_mass(p))
    assert float(shifted.mean()) == pytest.approx(0.01, abs=5e-4)


def test_debiased_squared_ece_by_hand() -> None:
    confidence, hit = torch.tensor([0.8, 0.8, 0.8, 0.6]).double(), torch.tensor([1.0, 1, 0, 1]).double()
    index = torch.tensor([1, 1, 1, 0])  # the bin of one example has no variance estimate and is left out
    expected = 3 / 4 * ((2 / 3 - 0.8) ** 2 - (2 / 3) * (1 / 3) / 2)
    assert float(debiased_squared_error(confidence, hit, index)) == pytest.approx(expected)


def test_aurc_averages_over_the_order_of_ties() -> None:
    import itertools

    confidence = torch.tensor([0.9, 0.7, 0.7, 0.7, 0.5], dtype=torch.float64)
    correct = torch.tensor([1.0, 0, 1, 0, 1])
    errors = (1 - correct).numpy()
    orders = [(0, *middle, 4) for middle in itertools.permutations((1, 2, 3))]
    mean = np.mean([np.mean(np.cumsum(errors[list(o)]) / np.arange(1, 6)) for o in orders])
    area, excess = risk_area(confidence, correct)
    assert float(area) == pytest.approx(mean)
    best = np.mean(np.cumsum([0, 0, 0, 1, 1]) / np.arange(1, 6))
    assert float(excess) == pytest.approx(mean - best)


def test_aurc_of_the_best_order_has_no_excess() -> None:
    confidence = torch.linspace(1, 0.5, 20, dtype=torch.float64)
    correct = torch.tensor([1.0] * 13 + [0.0] * 7)
    assert float(risk_area(confidence, correct)[1]) == pytest.approx(0, abs=1e-15)
    assert float(risk_area(torch.full((20,), 0.5), correct)[0]) == pytest.approx(7 / 20)


def test_reliability_sums_to_the_ece() -> None:
    z, y = sample(N=1000)
    diagram = metrics.reliability(z, y)
    assert diagram.count.sum() == 1000
    gap = (diagram.count * (diagram.confidence - diagram.accuracy).abs()).nansum() / 1000
    torch.testing.assert_close(gap, metrics.ece(z, y))
    assert diagram.confidence[0].isnan()  # no confidence is below 1 / K


def test_calibration_error_of_calibrated_models_has_the_known_bias() -> None:
    g = torch.Generator().manual_seed(1)
    z = 3 * torch.randn(10_000, 10, generator=g)
    y = torch.multinomial(z.softmax(1), 1, generator=g)[:, 0]
    assert 0.002 < float(metrics.ece(z, y)) < 0.02


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_have_no_softmax_are_refused(bad: float) -> None:
    z, y = sample(N=10)
    z[3, 2] = bad
    with pytest.raises(UserError, match="NaN"):
        metrics.measure(z, y)


def test_labels_must_fit() -> None:
    z, y = sample(N=10)
    with pytest.raises(UserError, match="0 to 4"):
        metrics.measure(z, y + 5)
    with pytest.raises(UserError, match="do not match"):
        metrics.measure(z, y[:-1])
    with pytest.raises(UserError, match="K >= 2"):
        metrics.measure(z[:, :1], y)
    with pytest.raises(UserError, match="labels are list"):
        metrics.log_loss(z, y.tolist())
    for metric in (metrics.ece, metrics.adaptive_ece, metrics.classwise_ece):
        for bins in (0, 2.5):
            with pytest.raises(UserError, match="not a whole number"):
                metric(z, y, bins=bins)


@given(st.integers(1, 30), st.integers(2, 6), st.floats(0, 1e4), st.integers(0, 10))
def test_ranges(N: int, K: int, scale: float, seed: int) -> None:
    z, y = sample(N, K, seed, scale)
    found = metrics.measure(z, y)
    for name in ("accuracy", "ece", "adaptive_ece", "classwise_ece", "aurc"):
        assert -1e-12 <= found[name] <= 1 + 1e-12
    assert 0 <= found["brier"] <= 2 + 1e-12
    assert found["e_aurc"] >= -1e-12
    assert 0 <= found["mean_entropy"] <= math.log(K) + 1e-9
    assert found["log_loss"] >= 0


def growth() -> None:
    """Print by how many MiB this process grows while many logits are measured."""
    z, y = torch.randn(40_000, 500), torch.randint(500, (40_000,))
    metrics.measure(z[:2000], y[:2000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    metrics.measure(z, y)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


@pytest.mark.slow
@pytest.mark.plain
def test_memory_does_not_grow_with_the_logits() -> None:
    said, error = forked.Run(growth).communicate()
    assert float(said) < 40, error  # one float64 copy of the logits is 153


def test_every_public_metric_has_an_example() -> None:
    functions = [getattr(metrics, name) for name in metrics.__all__]
    assert not [one.__name__ for one in functions if not isinstance(one, type) and ">>> " not in one.__doc__]


@pytest.mark.parametrize("metric", [metrics.ece, metrics.log_loss, metrics.aurc, metrics.smece])
def test_over_batches_it_is_that_of_all(metric: Any) -> None:
    z, y = torch.randn(90, 4, dtype=torch.float64), torch.randint(4, (90,))
    over_batches = metrics.Streaming(metric)
    with pytest.raises(ValueError, match="no examples yet"):
        over_batches.compute()
    for part in (slice(0, 1), slice(1, 40), slice(40, 90)):
        over_batches.update(z[part].numpy() if part.start else z[part].requires_grad_(), y[part])
    torch.testing.assert_close(over_batches.compute(), metric(z.detach(), y))
    over_batches.reset()
    over_batches.update(z[:50], y[:50])
    torch.testing.assert_close(over_batches.compute(), metric(z[:50], y[:50]))


@pytest.mark.parametrize("stored", [torch.float64, torch.float32])
@pytest.mark.parametrize("votes", [10, 15, 30, 100])
def test_votes_on_an_edge_are_in_the_bin_below_in_any_order_of_the_classes(votes: int, stored: torch.dtype) -> None:
    """Shares of votes lie on edges but for their last digits, which depend on the order in which a row is summed.
    Kept as float32 they are up to 6e-8 of themselves above, more as logits: an ECE of .0232 had been .0309."""
    rng = np.random.default_rng(votes)
    counts = np.stack([rng.multinomial(votes, rng.dirichlet([0.8] * 4)) for _ in range(500)])
    p = (torch.from_numpy(counts).double() / votes).to(stored).double()
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]):
        logits = torch.log(p[:, order])
        confidences = confidence_n(logits.log_softmax(-1)), confidence_n(logits.to(stored).double().log_softmax(-1))
        for bins, confidence in itertools.product((10, 15, 20, 50), confidences):
            expected = -(-counts.max(1) * bins // votes) - 1
            np.testing.assert_array_equal(equal_width(confidence, bins).numpy(), expected)


def test_confidences_alone_may_come_with_answers_of_any_type() -> None:
    """Answers that are True and False had ended in an error, and float32 ones gave means in float32."""
    p, right = torch.tensor([0.9, 0.6, 0.7]), torch.tensor([True, False, True])
    expected = metrics.measure_confidence(p.double(), right.double())
    for hit in (right, right.int(), right.float()):
        found = metrics.measure_confidence(p, hit)
        assert all(value.dtype == torch.float64 for value in found.values())
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    for wrong_p, wrong_hit in ((100 * p, right), (p, right[:2]), (p * math.nan, right), (p, 2 * right.int())):
        with pytest.raises(UserError):
            metrics.measure_confidence(wrong_p, wrong_hit)


def test_logits_with_a_gradient_are_measured_like_others() -> None:
    """What a model gives in training: every metric had ended in an error of torch about views."""
    z, y = sample()
    with_gradient = z.clone().requires_grad_()
    for name, value in metrics.measure(with_gradient, y).items():
        f = getattr(metrics, name)
        assert torch.equal(value, f(z) if name in WITHOUT_LABELS else f(z, y)), name
        assert not value.requires_grad, name
    expected, found = metrics.prediction_sets(z, y, z, y), metrics.prediction_sets(with_gradient, y, with_gradient, y)
    assert all(torch.equal(expected[kind].size, found[kind].size) for kind in expected)
