"""Intervals for a report: one calibration error against a plain bootstrap, and all of 500 trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.benchmarks.harness import OURS, Bench, Case

SEEDS, N, DRAWS, BINS = 5, 10_000, 1000, 15
ARMS = 100


def arm(seed: int, labels: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and whether the top label was right, [SEEDS, N], of an overconfident binary model."""
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-1.5 * (logit + 0.3 * rng.standard_normal((SEEDS, N)))))
    return np.maximum(p, 1 - p), np.where(p >= 0.5, labels, 1 - labels)


def examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logit = 1.2 + 1.2 * rng.standard_normal(N)
    return (rng.random(N) < 1 / (1 + np.exp(-logit))).astype(float), logit


def plain(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """The basic bootstrap as one writes it: draw seeds and examples, index, bin, repeat."""
    rng = np.random.default_rng(0)
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    gap = confidence - correct

    def ece(seeds: np.ndarray, drawn: np.ndarray) -> float:
        sums = [np.abs(np.bincount(bins[s, drawn], gap[s, drawn], BINS)).sum() for s in seeds]
        return float(np.mean(sums) / N)

    value = ece(np.arange(SEEDS), np.arange(N))
    draws = [ece(rng.integers(0, SEEDS, SEEDS), rng.integers(0, N, N)) for _ in range(DRAWS)]
    high, low = np.quantile(draws, [0.975, 0.025])
    return 2 * value - float(high), 2 * value - float(low)


def one() -> Bench:
    from calib_bench.inference import ece_interval

    data = arm(1, *examples())

    def check(results: Mapping[str, Any]) -> str:
        ours, (low, high) = results[OURS], results["a plain loop"]
        value = ours.mean
        # Ours allows for the t distribution of five seeds and for the bias: wider, around the same estimate.
        assert ours.low <= low + 0.1 * (high - low), (ours, low, high)
        assert high <= ours.high + 0.1 * (high - low), (ours, low, high)
        assert low < value < high, (ours, low, high)
        return f"same ECE {value:.4f}; limits {ours.low:.4f}, {ours.high:.4f} hold the plain {low:.4f}, {high:.4f}"

    run = {"a plain loop": lambda: plain(*data)}
    return Bench(lambda: ece_interval(*data, n_boot=DRAWS), run, check=check, unit=(SEEDS * DRAWS, "resampled ECEs"))


def report() -> Bench:
    from calib_bench.inference import aurc_interval, crossed_interval, ece_interval

    common = examples()
    reference = arm(0, *common)

    def run() -> int:
        count = 0
        for a in range(1, ARMS + 1):
            data = arm(a, *common)
            found = (
                ece_interval(*data, n_boot=DRAWS),
                ece_interval(*data, reference, n_boot=DRAWS),
                ece_interval(*data, adaptive=True, n_boot=DRAWS),
                aurc_interval(*data),
                aurc_interval(*data, reference),
                crossed_interval(data[1], scale="share"),
                crossed_interval(data[1] - reference[1]),
            )
            count += sum(i.low <= i.high for i in found)
        return count

    def check(results: Mapping[str, Any]) -> str:
        assert results[OURS] == 7 * ARMS
        return f"{7 * ARMS} intervals: ECE, adaptive ECE, AURC, accuracy and three differences, by arm"

    return Bench(run, pairs=1, warm=False, check=check, unit=(ARMS * SEEDS, "trials"))


CASES = [
    Case(
        "bootstrap-ece",
        f"interval of an ECE, {SEEDS} seeds, {N:,} examples, {DRAWS:,} resamples",
        one,
        least={"a plain loop": 20},
    ),
    Case(
        "bootstrap-report",
        f"seven intervals an arm of {ARMS * SEEDS} trials, {N:,} examples, {DRAWS:,} resamples",
        report,
        seconds=20,
    ),
]
