"""What confidence is worth to a decision, against definitions written out, identities, and other libraries' values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from calib_bench import metrics
from calib_bench.inference import decision_intervals, decision_n
from calib_bench.inference.interval import clopper_pearson
from calib_bench.metrics.decisions import decisions
from calib_bench.metrics.risk import ranked_errors

NAMES = ("auroc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage")


def golden() -> tuple[Tensor, Tensor]:
    """240 examples of 6 classes, from which the values of other libraries were made."""
    g = torch.Generator().manual_seed(7)
    Z = torch.randn(240, 6, generator=g, dtype=torch.float64) * 2
    uniform = torch.rand(240, 6, generator=g, dtype=torch.float64)
    return Z, (Z * 0.7 - torch.log(-torch.log(uniform))).argmax(-1)


def ranks(n: int, ties: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    confidence = rng.random(n).round(1) if ties else rng.random(n)
    correct = rng.random(n) < 0.5 + 0.5 * confidence
    return torch.from_numpy(confidence), torch.from_numpy(correct.astype(float))


@pytest.mark.parametrize("ties", [False, True])
def test_auroc_is_the_share_of_pairs_in_order(ties: bool) -> None:
    confidence, correct = ranks(60, ties)
    right, wrong = confidence[correct == 1], confidence[correct == 0]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in right for b in wrong]
    found = decisions(ranked_errors(confidence, correct))
    assert float(found["auroc"]) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_auroc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    Z, y = golden()
    confidence, correct = metrics.confidence_n(Z).round(decimals=2), metrics.correct_n(Z, y)
    found = decisions(ranked_errors(confidence, correct))["auroc"]
    assert float(found) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)


def test_augrc_is_the_area_under_wrong_answers_given() -> None:
    confidence, correct = ranks(50, ties=False)
    error = (1 - correct)[confidence.argsort(descending=True)].numpy()
    curve = np.append(0, error.cumsum()) / 50
    area = np.trapezoid(curve, np.arange(51) / 50) if hasattr(np, "trapezoid") else np.trapz(curve, np.arange(51) / 50)
    assert float(decisions(ranked_errors(confidence, correct))["augrc"]) == pytest.approx(area, abs=1e-12)


def test_values_of_torch_uncertainty() -> None:
    """Of torch-uncertainty 0.13.0, whose AUGRC leaves out the curve below one example and stretches the rest."""
    Z, y = (part[120:] for part in golden())
    found = metrics.measure(Z, y)
    assert float(found["coverage_at_5_risk"]) == pytest.approx(0.05833333358168602, abs=1e-7)
    assert float(found["risk_at_80_coverage"]) == pytest.approx(0.3958333333333333, abs=1e-12)
    first = 1 - float(metrics.correct_n(Z, y)[metrics.confidence_n(Z).argmax()])
    assert float(found["augrc"]) - first / (2 * 120**2) == pytest.approx(0.17531512612225544 * (1 - 1 / 120), abs=1e-8)


def test_ties_are_averaged_over_their_orders() -> None:
    confidence = torch.tensor([0.9, 0.7, 0.7, 0.7, 0.5], dtype=torch.float64)
    correct = torch.tensor([1.0, 0, 1, 0, 1], dtype=torch.float64)
    orders = [[0, *middle, 4] for middle in itertools.permutations((1, 2, 3))]
    apart = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5], dtype=torch.float64)
    for name in ("auroc", "augrc", "risk_at_80_coverage"):
        mean = np.mean([float(decisions(ranked_errors(apart, correct[order]))[name]) for order in orders])
        assert float(decisions(ranked_errors(confidence, correct))[name]) == pytest.approx(mean, abs=1e-12), name


def test_coverage_is_the_largest_that_meets_the_risk() -> None:
    correct = torch.ones(100, dtype=torch.float64)
    correct[[0, 30, 50, 60, 80, 99]] = 0
    confidence = torch.linspace(1, 0.5, 100, dtype=torch.float64)
    found = decisions(ranked_errors(confidence, correct))
    assert float(found["coverage_at_5_risk"]) == 0.8  # the first is wrong, so are four of 80, and six of 100
    assert float(found["risk_at_80_coverage"]) == pytest.approx(4 / 80)
    assert float(decisions(ranked_errors(confidence, torch.zeros(100)))["coverage_at_5_risk"]) == 0
    assert float(decisions(ranked_errors(confidence, torch.ones(100)))["coverage_at_5_risk"]) == 1


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_without_wrong_or_right_answers_there_is_no_auroc(right: float) -> None:
    confidence, correct = torch.linspace(1, 0.5, 40), torch.full((40,), right)
    assert decisions(ranked_errors(confidence, correct))["auroc"].isnan()
    interval = decision_intervals(confidence[None], correct[None])["auroc"]
    assert np.isnan(interval.low)


def test_rows_in_another_order_and_classes_by_other_names_change_nothing() -> None:
    Z, y = golden()
    Z = (Z / 2).round() * 2  # many ties
    g = torch.Generator().manual_seed(1)
    order, columns = torch.randperm(len(y), generator=g), torch.randperm(6, generator=g)
    unique = Z.sort(-1).values
    keep = unique[:, -1] > unique[:, -2]  # else the first of equal classes is the answer
    Z, y = Z[keep], y[keep]
    order = order[order < len(y)]
    for name in NAMES:
        score = getattr(metrics, name)
        expected = float(score(Z, y))
        assert float(score(Z[order], y[order])) == pytest.approx(expected, abs=1e-12), name
        assert float(score(Z[:, columns], columns.argsort()[y])) == pytest.approx(expected, abs=1e-12), name


@pytest.mark.parametrize("ties", [False, True])
def test_influences_are_derivatives(ties: bool) -> None:
    """Each example doubled in turn moves AUROC and AUGRC by its influence, to first order."""
    confidence, correct = ranks(400, ties)
    found = decision_n(confidence, correct)
    whole = decisions(ranked_errors(confidence, correct))
    for name in ("auroc", "augrc", "risk_at_80_coverage"):
        assert found[name].mean() == pytest.approx(float(whole[name]), abs=1e-12), name
    for name in ("auroc", "augrc"):
        for i in range(0, 400, 37):
            again = decisions(ranked_errors(*(torch.cat([part, part[i : i + 1]]) for part in (confidence, correct))))
            influence = found[name][i] - float(whole[name])
            assert 401 * float(again[name] - whole[name]) == pytest.approx(influence, abs=0.02), (name, i)


def test_intervals_cover() -> None:
    """Of 200 samples of 600 examples, with two or more seeds or one."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.random(shape)
        return confidence, (rng.random(shape) < 0.75 + 0.25 * confidence**0.5).astype(float)

    truth = decisions(ranked_errors(*map(torch.from_numpy, draw(400_000))))
    hits = dict.fromkeys(NAMES, 0)
    for _ in range(200):
        for name, interval in decision_intervals(*draw(1, 600)).items():
            hits[name] += interval.low <= float(truth[name]) <= interval.high
    assert all(count >= 180 for count in hits.values()), hits


def test_few_wrong_examples_are_marked_and_an_arm_equals_itself() -> None:
    confidence, correct = ranks(300, ties=False)
    correct[:] = 1
    correct[:10] = 0
    pair = confidence[None].numpy(), correct[None].numpy()
    assert {one.doubt for one in decision_intervals(*pair).values()} == {"few errors"}
    same = decision_intervals(*pair, pair)
    assert all(one.mean == 0 for one in same.values())


def test_few_wrong_answers_among_the_kept_leave_a_risk_its_exact_limits() -> None:
    """Of 2,000 answers 100 are wrong, hardly any with confidence, where limits by the delta method cover .6."""
    confidence = np.linspace(1.0, 0.5, 2000)
    correct = np.repeat([1.0, 0.0, 1.0], [1880, 100, 20])
    none = decision_intervals(confidence[None], correct[None])["risk_at_80_coverage"]
    assert (none.mean, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 1600))
    correct[700] = 0.0
    one = decision_intervals(confidence[None], correct[None])["risk_at_80_coverage"]
    assert one.mean == pytest.approx(1 / 1600)
    assert (one.low, one.high) == pytest.approx(clopper_pearson(1, 1599, 0.95), rel=0.02)


def test_a_difference_of_risks_is_in_doubt_with_few_wrong_answers_among_the_kept() -> None:
    confidence = np.linspace(1.0, 0.5, 2000)
    pairs = [(confidence[None], np.repeat([1.0, 0.0, 1.0], [first, 100, 1900 - first])[None]) for first in (1880, 1870)]
    assert decision_intervals(*pairs[0], pairs[1])["risk_at_80_coverage"].doubt == "few errors"
