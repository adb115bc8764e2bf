"""Scores of trials and of files are compared by one function, by example where examples have scores."""

from __future__ import annotations

import pytest
import torch

from calib_bench.analysis.scores import METRICS, SeedScores, difference, split_measured
from calib_bench.inference import crossed_interval, ece_interval
from calib_bench.metrics import measure


def scores(seed: int, seeds: int = 3) -> SeedScores:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(seeds, 200, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (200,), generator=torch.Generator().manual_seed(0))
    by_seed = [split_measured(measure(rows.log_softmax(-1), y)) for rows in logits]
    examples = {name: [values[name] for _, values in by_seed] for name in by_seed[0][1]}
    return SeedScores(examples, {name: [values[name] for values, _ in by_seed] for name in by_seed[0][0]})


def test_what_was_measured_is_split_into_metrics_and_examples() -> None:
    one = scores(1)
    assert set(one.metrics) <= set(METRICS)
    assert set(one.examples) == {"log_loss", "brier", "correct", "confidence"}
    for name in ("log_loss", "brier"):
        assert one.metrics[name] == pytest.approx([float(values.mean()) for values in one.examples[name]])


def test_differences_count_examples_where_they_have_scores() -> None:
    one, other = scores(1), scores(2)
    d_SN = torch.stack([a - b for a, b in zip(one.examples["brier"], other.examples["brier"], strict=True)])
    expected = crossed_interval(d_SN)
    brier = difference("brier", one, other, nested=False)
    assert (brier.mean, brier.low, brier.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert difference("ece", one, other, nested=False) == ece_interval(*one.top, other=other.top)
    smece = difference("smece", one, other, nested=False)
    gaps = [a - b for a, b in zip(one.metrics["smece"], other.metrics["smece"], strict=True)]
    assert smece.mean == pytest.approx(sum(gaps) / 3)
    assert smece.low < smece.mean < smece.high


def test_taken_seeds_are_those_at_the_places() -> None:
    one = scores(1)
    taken = one.take([2, 0])
    assert taken.metrics["ece"] == [one.metrics["ece"][2], one.metrics["ece"][0]]
    assert torch.equal(taken.examples["brier"][0], one.examples["brier"][2])
