"""Nominal 95% intervals cover at least 93% in simulation with known truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from calib_bench import inference
from calib_bench.inference import Interval
from calib_bench.measure import log_kappa_n
from calib_bench.metrics.binned import equal_width

Rng = np.random.Generator
Draw = Callable[[Rng, int], Iterator[tuple[str, Interval, float]]]
"""(generator, seeds) -> one simulated study: the name, interval and truth of everything that is estimated."""

FLOOR = 0.93


def rates(draw: Draw, S: int, draws: int) -> dict[str, tuple[int, int]]:
    """By name, how many intervals covered, of how many."""
    rng = np.random.default_rng([S, draws])
    found: dict[str, list[bool]] = {}
    for _ in range(draws):
        for name, interval, truth in draw(rng, S):
            assert np.isfinite(interval.mean), (name, interval)
            found.setdefault(name, []).append(interval.low - 1e-12 <= truth <= interval.high + 1e-12)
    return {name: (sum(hits), len(hits)) for name, hits in found.items()}


def too_few(found: dict[str, tuple[int, int]], floor: float = FLOOR) -> dict[str, float]:
    """Those whose number of hits a coverage of `floor` would give with probability below 1e-3."""
    return {name: hit / of for name, (hit, of) in found.items() if stats.binom.cdf(hit, of, floor) < 1e-3}


# Means over examples: seed effects normal, example effects and noise heavy-tailed.


def scores(rng: Rng, S: int, N: int, nested: bool, seeds: float = 0.05) -> np.ndarray:
    own = S if nested else 1
    shared = rng.standard_t(3, (own, N))
    return seeds * rng.standard_normal((S, 1)) + shared + 0.7 * rng.standard_t(3, (S, N))


def means(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for nested in (False, True):
        name = "nested" if nested else "shared"
        for seeds in (0.0, 0.05, 0.3):
            if S > 1 or (seeds == 0 and not nested):
                d = 0.2 + scores(rng, S, 200, nested, seeds)
                yield f"mean, {name}, {seeds}", inference.crossed_interval(d, nested=nested), 0.2
        if S > 1:
            part, rest = scores(rng, S, 200, nested), 0.4 * scores(rng, S, 200, nested)
            yield f"share, {name}", inference.share(0.6 + part, 1.0 + part + rest, nested=nested), 0.6
            cells = [scores(rng, S, 100, nested) + m for m in (0.0, 0.3, 0.1, 0.5)]
            found = inference.two_by_two(*cells, nested=nested)
            for effect, truth in (("total", 0.5), ("first", 0.35), ("second", 0.15), ("interaction", 0.1)):
                yield f"2x2 {effect}, {name}", getattr(found, effect), truth


# Calibration: labels shared by all seeds and arms, confidences with seed effects. `factor` 1 is nearly calibrated.

SPREADS = {"exact": (0.0, 0.0), "close": (0.1, 0.05), "loose": (0.4, 0.15)}
PAIRS = ((1.0, 1.0), (1.15, 1.0), (1.3, 1.1), (2.0, 1.2))


def arms(rng: Rng, S: int, N: int, factors: tuple[float, ...], spread: str) -> list[tuple[np.ndarray, np.ndarray]]:
    noise, shift = SPREADS[spread]
    logit = 1.2 + 1.2 * rng.standard_normal(N)
    label = (rng.random(N) < 1 / (1 + np.exp(-logit))).astype(float)
    out = []
    for factor in factors:
        Z = factor * (logit + noise * rng.standard_normal((S, N))) + shift * rng.standard_normal((S, 1))
        p = 1 / (1 + np.exp(-Z))
        out.append((np.maximum(p, 1 - p), np.where(p >= 0.5, label, 1 - label)))
    return out


def expected(factor: float, spread: str) -> tuple[float, float]:
    """ECE and AURC of the population, mean over seeds, without the sampling error of labels."""
    noise, shift = SPREADS[spread]
    rng = np.random.default_rng(0)
    n, seeds = 100_000, 20
    logit = 1.2 + 1.2 * stats.norm.ppf((np.arange(n) + 0.5) / n)
    found = []
    for q in shift * stats.norm.ppf((np.arange(seeds) + 0.5) / seeds):
        Z = factor * (logit + noise * rng.standard_normal(n)) + q
        p, true = 1 / (1 + np.exp(-Z)), 1 / (1 + np.exp(-logit))
        top, right = np.maximum(p, 1 - p), np.where(p >= 0.5, true, 1 - true)
        gaps = np.bincount(equal_width(torch.tensor(top)).numpy(), top - right)
        risk = (1 - right)[np.argsort(-top)].cumsum() / np.arange(1, n + 1)
        found.append((np.abs(gaps).sum() / n, risk.mean()))
    return tuple(np.mean(found, 0))  # type: ignore[return-value]


def calibration(spread: str, N: int = 500, factors: tuple[tuple[float, float], ...] = PAIRS) -> Draw:
    truth = {f: expected(f, spread) for f in {f for pair in factors for f in pair}}

    def draw(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
        seed = int(rng.integers(1 << 30))
        for pair in factors:
            (ece_a, area_a), (ece_b, area_b) = (truth[f] for f in pair)
            a, b = arms(rng, S, N, pair, spread)
            yield f"ece {pair}", inference.ece_interval(*a, n_boot=200, seed=seed), ece_a
            yield f"ece difference {pair}", inference.ece_interval(*a, b, n_boot=200, seed=seed), ece_a - ece_b
            yield f"aurc {pair}", inference.aurc_interval(*a), area_a
            if spread != "exact":  # All orders are then the same: the difference of areas is 0.
                yield f"aurc difference {pair}", inference.aurc_interval(*a, b), area_a - area_b
            if S > 1:
                own = [arms(rng, 1, N, pair, spread) for _ in range(S)]
                a, b = (tuple(np.concatenate([one[i][j] for one in own]) for j in (0, 1)) for i in (0, 1))
                yield f"ece {pair}, nested", inference.ece_interval(*a, nested=True), ece_a
                found = inference.ece_interval(*a, b, nested=True)
                yield f"ece difference {pair}, nested", found, ece_a - ece_b
                yield f"aurc {pair}, nested", inference.aurc_interval(*a, nested=True), area_a

    return draw


# kappa: logits that are a seed's factor times the true ones, so that log kappa is the log of the factor.


def temperatures(Z_SNK: torch.Tensor, y_SN: torch.Tensor) -> torch.Tensor:
    u = torch.zeros(len(Z_SNK), dtype=torch.float64)
    for _ in range(8):
        s = u.exp()
        p = (s[:, None, None] * Z_SNK).softmax(-1)
        mean = (p * Z_SNK).sum(-1)
        slope = (mean - Z_SNK.gather(-1, y_SN[..., None])[..., 0]).mean(-1) * s
        curvature = ((p * Z_SNK.square()).sum(-1) - mean.square()).mean(-1) * s * s
        u = u - (slope / (curvature + slope.clamp(min=0))).clamp(-1, 1)
    return (-u).exp()


def kappa(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for nested, spread in ((False, 0.0), (False, 0.1), (True, 0.0), (True, 0.1)):
        if S == 1 and (nested or spread):
            continue
        g = torch.Generator().manual_seed(int(rng.integers(1 << 40)))
        true = 2 * torch.randn(S if nested else 1, 300, 3, generator=g, dtype=torch.float64)
        y = torch.multinomial(true.softmax(-1).view(-1, 3), 1, generator=g).view(true.shape[:2]).expand(S, -1)
        Z = 1.5 * torch.exp(spread * torch.randn(S, 1, 1, generator=g, dtype=torch.float64)) * true
        values = [log_kappa_n(Z[s], y[s], float(k)).numpy() for s, k in enumerate(temperatures(Z, y))]
        name = f"kappa, {spread}, {'nested' if nested else 'shared'}"
        yield name, inference.crossed_interval(values, nested=nested), float(np.log(1.5))


# Seed-sensitivity.

VALUES: dict[str, tuple[Callable[..., np.ndarray], float]] = {
    "normal": (lambda rng, size: rng.standard_normal(size), 1.0),
    "t5": (lambda rng, size: rng.standard_t(5, size), float(np.sqrt(5 / 3))),
    "exponential": (lambda rng, size: rng.exponential(size=size), 1.0),
    "uniform": (lambda rng, size: rng.random(size), float(np.sqrt(1 / 12))),
}


def spreads(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for name, (sample, sd) in VALUES.items():
        x, y = sample(rng, (2, S))
        yield f"spread, {name}", inference.spread(x), sd
        for r in (0.0, 0.8):
            other = r * x + np.sqrt(1 - r * r) * y
            yield f"ratio, {name}, {r}", inference.spread_ratio(2 * x, other), 2.0


# Selection: lucky seeds are lucky on both splits to the degree `luck`.

WORTH = {
    "equal": np.zeros(6),
    "clear": np.array([0.0, 0.3, -0.1, 0.1]),
    "close": np.array([0.0, 0.05, 0.04, 0.02, -0.05]),
}
SEEDS, SPLIT = 0.05, 0.01


def chosen_worth(worth: np.ndarray, S: int) -> float:
    rng = np.random.default_rng(0)
    noise = np.hypot(SEEDS / np.sqrt(S), SPLIT) * rng.standard_normal((20_000, len(worth)))
    return float(worth[(worth + noise).argmax(1)].mean() - worth[0])


def selection(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for name, worth in WORTH.items():
        A, N = len(worth), 100
        for luck in (0.0, 1.0):
            seeds = SEEDS * rng.standard_normal((2, A, S))
            select = worth[:, None] + luck * seeds[0] + np.sqrt(1 - luck**2) * seeds[1]
            select = select + SPLIT * rng.standard_normal((A, 1))
            mean = (worth[:, None] + seeds[0])[:, :, None]
            for nested in (False, True):
                test = mean + rng.standard_normal((1, 1, N)) + 0.2 * rng.standard_normal((A, S, N))
                test = test + 0.2 * rng.standard_normal((A, S if nested else 1, N))
                found = inference.selected_gain(select, test, 0, largest=True, nested=nested)
                truth = CHOSEN_WORTH[name, S - 1]
                yield f"gain, {name}, luck {luck}, {'nested' if nested else 'shared'}", found.gain, truth
        test = mean + rng.standard_normal((1, 1, N)) + 0.2 * rng.standard_normal((A, 1, N))
        several = inference.simultaneous([test[a] - test[0] for a in range(1, A)])
        best = int(np.argmax([i.mean for i in several]))
        yield f"best on test, {name}", several[best], float(worth[best + 1] - worth[0])


CHOSEN_WORTH = {(name, S): chosen_worth(worth, S) for name, worth in WORTH.items() for S in (2, 4, 9)}


# Variance shares of a 5 x 3 layout.

FIRST, SECOND = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.array([-0.5, 0.0, 0.5])
BOTH = np.outer([0.3, -0.2, -0.2, -0.2, 0.3], [0.5, -1.0, 0.5])
LAYOUTS = {
    "all": (FIRST, SECOND, BOTH, 0.3, 0.5),
    "none": (0 * FIRST, 0 * SECOND, 0 * BOTH, 0.3, 0.5),
    "first alone": (FIRST, 0 * SECOND, 0 * BOTH, 0.5, 0.5),
    "little noise": (FIRST, SECOND, BOTH, 0.05, 0.05),
    "seeds in common": (0.3 * FIRST, 0.3 * SECOND, 0 * BOTH, 1.0, 0.1),
}


def layouts(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for name, (first, second, both, common, own) in LAYOUTS.items():
        parts = np.array([np.square(v).mean() for v in (first, second, both)] + [common**2 + own**2])
        mean = first[:, None] + second + both
        noise = common * rng.standard_normal(S) + own * rng.standard_t(4, (5, 3, S)) / np.sqrt(2)
        found = inference.variance_shares(mean[..., None] + noise, draws=1)
        for i, truth in enumerate(parts / parts.sum()):
            yield f"share {found._fields[i]}, {name}", found[i], float(truth)


SETTINGS: dict[str, Callable[[], Draw]] = {
    "means": lambda: means,
    "calibration, exact": lambda: calibration("exact"),
    "calibration, close": lambda: calibration("close"),
    "calibration, loose": lambda: calibration("loose"),
    "kappa": lambda: kappa,
    "spreads": lambda: spreads,
    "selection": lambda: selection,
    "layouts": lambda: layouts,
}
