"""Nominal 95% intervals cover at least 93% in simulation with known truth, in the code that reports use.

A setting fails when its hits are too few for a coverage of .93, with probability below 1e-3 if it were .93; generators
are seeded, so that a setting passes always or never. Three to ten seeds, shared and seed-wise test examples. The short
tests draw few and catch what is broken; the soak tests draw enough to catch a coverage of
.85 to .90.

Where .93 is not reached (measured; each is held to its figure in `test_known_exceptions`):

- Accuracy on the plain scale with fewer than about ten wrong examples: .86 to .90 with two to four of them; with the
  exact limits that tables have it is above .95.
- One seed: its interval is that of this seed's model. The mean over seeds is outside it as often as seeds differ.
- Spreads of values with excess kurtosis far above 3: .80 for a lognormal of sigma 1 at ten seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from scipy import stats

from calib_bench import inference
from calib_bench.analysis import contrast
from calib_bench.analysis.temperature_influence import log_kappa_n, temperature_slopes
from calib_bench.core.settings import parse
from calib_bench.inference import Interval
from calib_bench.metrics.binned import equal_width
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve

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


# Few seeds: the variance due to examples as a share of that due to seeds, where one t quantile for both covers .92.


def few_seeds(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for ratio in (0.03, 0.1, 0.3, 3.0):
        seeds, examples = rng.standard_normal((S, 1)), np.sqrt(100 * ratio / S) * rng.standard_normal((1, 100))
        yield f"ratio {ratio}", inference.crossed_interval(seeds + examples), 0.0


@pytest.mark.plain
@pytest.mark.parametrize("S", [2, 3, 5, 10])
def test_means_over_few_seeds_cover_at_their_level(S: int) -> None:
    assert not too_few(rates(few_seeds, S, 800), 0.95)


# Accuracy in its exact limits, with few wrong examples.


def accuracies(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    for wrong in (1, 2, 4, 10):
        latent = np.sqrt(0.8) * rng.standard_normal(200) + np.sqrt(0.2) * rng.standard_normal((S, 200))
        right = (latent < stats.norm.ppf(1 - wrong / 200)).astype(float)
        yield f"accuracy, {wrong} wrong", inference.score_interval("accuracy", right), 1 - wrong / 200


# A temperature fitted on few calibration examples: logits that are too large by a factor of each example's own, which
# no temperature repairs, so that the best one is far from what few examples give. Truths by large samples.


class World:
    """Arm and reference of K classes: true logits, noise that seeds share in part, a spread of each arm's factor."""

    K, SPREAD = 5, (0.8, 0.0)

    def __init__(self, calibration: int, test: int) -> None:
        self.calibration, self.test = calibration, test
        rng = np.random.default_rng(0)
        sums = np.zeros((2, 2))
        logits, y = self.draw(rng, 1, 100_000)
        fits = [temperatures(Z, y[None]) for Z in logits]
        for _ in range(6):
            logits, y = self.draw(rng, 1, 100_000)
            for a, (Z, T) in enumerate(zip(logits, fits, strict=True)):
                sums[a] += [float(loss(Z, y).mean()) / 6, float(loss(Z / T[:, None, None], y).mean()) / 6]
        raw, repaired = sums[0] - sums[1]
        self.truth = {"dyn": repaired, "conf": raw - repaired, "share": (raw - repaired) / raw}

    def draw(self, rng: Rng, S: int, N: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        true = 6 * rng.standard_normal((N, self.K))
        y = (true + rng.gumbel(size=true.shape)).argmax(1)
        logits = []
        for spread in self.SPREAD:
            noise = rng.standard_normal((N, self.K)) + rng.standard_normal((S, N, self.K))
            Z = (true + 0.35 * noise) * np.exp(spread * rng.standard_normal((N, 1)))
            logits.append(torch.from_numpy(Z))
        return logits, torch.from_numpy(y)

    def __call__(self, rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
        logits, y = self.draw(rng, S, self.calibration + self.test)
        y_cal, y_test = y[: self.calibration], y[self.calibration :]
        raw, after, log_T, slopes = [], [], [], []
        for Z in logits:
            Z_cal, Z_test = Z[:, : self.calibration], Z[:, self.calibration :]
            T = temperatures(Z_cal, y_cal.expand(S, -1))
            scaled = Z_test / T[:, None, None]
            raw.append(loss(Z_test, y_test).numpy())
            after.append(loss(scaled, y_test).numpy())
            log_T.append(np.stack([log_kappa_n(Z_cal[s], y_cal, float(T[s])).numpy() for s in range(S)]))
            slopes.append([temperature_slopes(scaled[s].log_softmax(-1), y_test)["log_loss"] for s in range(S)])
        slope, curvature = np.moveaxis(np.array(slopes), -1, 0)
        fit = inference.fitted(np.stack(log_T), slope, curvature, (1, -1))
        total, dyn = raw[0] - raw[1], after[0] - after[1]
        yield "dyn", inference.crossed_interval(dyn, fit=fit), self.truth["dyn"]
        yield "conf", inference.crossed_interval(total - dyn, fit=fit.negative()), self.truth["conf"]
        yield "share", inference.share(total - dyn, total, fit=fit.negative()), self.truth["share"]
        yield "conf, calibration examples forgotten", inference.crossed_interval(total - dyn), self.truth["conf"]


def loss(Z_SNK: torch.Tensor, y_N: torch.Tensor) -> torch.Tensor:
    return -Z_SNK.log_softmax(-1).gather(-1, y_N.expand(Z_SNK.shape[:-1])[..., None])[..., 0]


FORGOTTEN = "conf, calibration examples forgotten"


def test_what_a_temperature_repairs_covers_in_short() -> None:
    """With few calibration examples; the interval that forgets them is found out."""
    assert set(too_few(rates(World(250, 2000), 3, 120))) == {FORGOTTEN}


@pytest.mark.soak
@pytest.mark.parametrize("calibration", [250, 1000])
def test_what_a_temperature_repairs_covers(calibration: int) -> None:
    world = World(calibration, 1000)
    for S, draws in ((3, 300), (5, 200), (20, 100)):
        assert set(too_few(rates(world, S, draws))) <= {FORGOTTEN}


# What cannot cover says so: few errors, and values of heavy tails.


def in_doubt(rng: Rng, S: int) -> Iterator[tuple[str, bool]]:
    logit = 5 + 1.2 * rng.standard_normal(200)
    label = (rng.random(200) < 1 / (1 + np.exp(-logit))).astype(float)
    confidence = 1 / (1 + np.exp(-1.15 * (logit + 0.1 * rng.standard_normal((S, 200)))))
    right = np.broadcast_to(label, (S, 200))
    yield "aurc", bool(inference.aurc_interval(confidence, right).doubt)
    yield "ece", bool(inference.ece_interval(confidence, right, n_boot=50).doubt)
    yield "lognormal", bool(inference.crossed_interval(np.exp(1.5 * rng.standard_normal((1, 200)))).doubt)


def test_what_cannot_cover_is_marked_and_what_can_is_not() -> None:
    rng = np.random.default_rng(0)
    marked = [one for _ in range(40) for one in in_doubt(rng, 3)]
    for name in ("aurc", "ece", "lognormal"):
        assert np.mean([doubt for which, doubt in marked if which == name]) >= 0.9, name
    fine = [inference.crossed_interval(scores(rng, 3, 1000, False)).doubt for _ in range(40)]
    assert np.mean([doubt == "" for doubt in fine]) >= 0.9
    confidence, right = arms(rng, 3, 1000, (1.0,), "loose")[0]
    assert inference.ece_interval(confidence, right, n_boot=50).doubt == ""


# Calibration: labels shared by all seeds and arms, confidences with seed effects. `factor` 1 is nearly calibrated.

SPREADS = {"exact": (0.0, 0.0), "close": (0.1, 0.05), "loose": (0.4, 0.15)}
PAIRS = ((1.0, 1.0), (1.15, 1.0), (2.0, 1.2))


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


# Contrasts of two arms that each choose one of six rates by its selection score over three tuning seeds, each of which
# is reported at the rate that the others choose. What is covered is the expected contrast of the procedure. Selection
# and test agree to the degree `luck` on which seed is good.

RATES = np.arange(6.0)
CHOICES: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {
    "alike": (0 * RATES, 0 * RATES, 0 * RATES),
    "bowl": (0.01 * (RATES - 2.4) ** 2, 0.01 * (RATES - 2.4) ** 2, 0.01 * (RATES - 2.4) ** 2),
    "another optimum": (0.01 * (RATES - 2.4) ** 2, 0.02 * (RATES - 1) ** 2, 0.01 * (RATES - 2.4) ** 2),
    "two alike, results not": (0.05 * np.minimum(abs(RATES - 2), abs(RATES - 3)), 0.04 * RATES, 0.01 * RATES),
    "nearly alike, results not": (0.05 * np.minimum(abs(RATES - 2), abs(RATES - 3) + 0.2), 0.04 * RATES, 0.01 * RATES),
    "clear": (0.2 * (RATES - 2) ** 2, 0.2 * (RATES - 2) ** 2, 0.2 * (RATES - 2) ** 2),
}
"""By name: expected selection scores of the rates, and expected test scores of the arm and of the reference."""
SEED_SD, EXAMPLE_SD, OWN, TUNERS, SELECTION = 0.01, 0.2, 0.3, 3, 250


def expected_contrast(selection: np.ndarray, arm: np.ndarray, reference: np.ndarray, tuners: int) -> float:
    rng = np.random.default_rng(0)
    noise = np.hypot(SEED_SD / np.sqrt(tuners), OWN * EXAMPLE_SD / np.sqrt(SELECTION))
    pick = (selection + noise * rng.standard_normal((20_000, len(selection)))).argmin(1)
    return float((arm - reference)[pick].mean())


def reported(cost_RT: np.ndarray, S: int) -> np.ndarray:
    """Of each of S seeds, of which the first T tune, the place of the rate that it is reported at."""
    R, T = cost_RT.shape
    tried = {rate: tuple(TRIAL.model_copy(update={"lr": rate, "seed": seed}) for seed in range(T)) for rate in range(R)}
    best = int(cost_RT.mean(1).argmin())
    apart = tuning.cross_fitted(tried, best, lambda trial: float(cost_RT[int(trial.lr), trial.seed]))
    return np.array([apart.get(seed, best) for seed in range(S)])


TRIAL = next(tuning.templates(resolve(parse(["task=digits", "beta=1", "objective=cross_entropy"]))))


def moved(values_RT: np.ndarray, cost_RT: np.ndarray, losses_RN: np.ndarray | None, at_S: np.ndarray) -> np.ndarray:
    """What other choices would change, as `redrawn_choice` has it: all seeds together, and as they are reported."""
    seeds, part = np.arange(values_RT.shape[1]), values_RT.shape[1] / len(at_S)
    together = values_RT[inference.redrawn_choice(cost_RT, losses_RN, 200)] - values_RT[cost_RT.mean(1).argmin()]
    apart = values_RT[inference.redrawn_choice_apart(cost_RT, losses_RN, 200), seeds] - values_RT[at_S[seeds], seeds]
    return np.stack([together, part * apart + (1 - part) * together])


def tuned(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    N, R, luck, S = 400, len(RATES), 0.7, max(S, TUNERS)
    for name, (selection, *tests) in CHOICES.items():
        common = EXAMPLE_SD * np.sqrt(1 - OWN**2) * rng.standard_normal((1, SELECTION + N))
        chosen, moves = [], []
        for test in tests:
            seeds = SEED_SD * rng.standard_normal((2, R, S))
            examples = common + OWN * EXAMPLE_SD * rng.standard_normal((R, SELECTION + N))
            losses, results = examples[:, :SELECTION], examples[:, SELECTION:]
            cost = selection[:, None] + luck * seeds[0] + np.sqrt(1 - luck**2) * seeds[1]
            cost = (cost + losses.mean(1, keepdims=True))[:, :TUNERS]
            at = reported(cost, S)
            values = test[:, None] + seeds[0] + results.mean(1, keepdims=True)
            moves.append(moved(values[:, :TUNERS], cost, losses, at))
            own = OWN * EXAMPLE_SD * rng.standard_normal((S, N))
            chosen.append((test[at] + seeds[0][at, np.arange(S)])[:, None] + results[at] + own)
        row = contrast.interval("x", torch.from_numpy(chosen[0] - chosen[1]), False, move=moves[0] - moves[1])
        found = Interval(row["x"], row["x_low"], row["x_high"], S, N, np.nan, np.nan, "")
        few, all_three = EXPECTED_CONTRAST[name]
        yield f"tuned, {name}", found, few * TUNERS / S + all_three * (1 - TUNERS / S)


EXPECTED_CONTRAST = {
    name: [expected_contrast(*parts, tuners) for tuners in (TUNERS - 1, TUNERS)] for name, parts in CHOICES.items()
}
"""By name, where so many seeds choose as for a tuning seed, and for others."""


def lucky(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    """An arm of twelve rates that are alike, less a reference at one rate; each seed's luck is that of both splits.

    All seeds tune; once they are reported at the rate that the others choose, once at the one that they chose too.
    """
    values = rng.standard_normal((12, S))
    rest = 0.3 * (rng.standard_normal((1, 50)) + rng.standard_normal((S, 50)) + rng.standard_normal((S, 1)))
    apart, together = reported(values, S), np.full(S, values.mean(1).argmin())
    moves = moved(values, values, None, apart)
    for name, at, move in (("apart", apart, moves), ("judging its own choice", together, moves[:1])):
        d = values[at, np.arange(S)][:, None] - rest
        limits = inference.widened(inference.crossed_interval(d), inference.choice_variance(move))
        yield name, limits, 0.0


def lucky_apart(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    yield next(lucky(rng, S))


# What is run: (draws, seeds) of each.

SETTINGS: dict[str, tuple[Callable[[], Draw], dict[int, int]]] = {
    "means": (lambda: means, {1: 1000, 3: 500, 5: 300, 10: 300}),
    "exact calibration": (lambda: calibration("exact"), {1: 150, 3: 120, 5: 60, 10: 80}),
    "close calibration": (lambda: calibration("close"), {3: 120, 5: 60, 10: 60}),
    "loose calibration": (lambda: calibration("loose"), {3: 120, 5: 60, 10: 60}),
    "accuracies": (lambda: accuracies, {1: 1000, 3: 500, 10: 300}),
    "kappa": (lambda: kappa, {1: 400, 3: 200, 5: 100, 10: 80}),
    "spreads": (lambda: spreads, {3: 600, 5: 600, 10: 600}),
    "selection": (lambda: selection, {3: 250, 5: 200, 10: 120}),
    "tuned rates": (lambda: tuned, {3: 250, 6: 250}),
    "lucky seeds": (lambda: lucky_apart, {3: 300, 5: 300, 10: 300}),
    "layouts": (lambda: layouts, {3: 200, 5: 200, 10: 150}),
}


PLAIN = ("means", "accuracies", "spreads", "selection", "lucky seeds", "layouts")
"""Settings without a tensor."""


@pytest.mark.parametrize("setting", [pytest.param(s, marks=[pytest.mark.plain] * (s in PLAIN)) for s in SETTINGS])
def test_coverage_in_short(setting: str) -> None:
    assert not too_few(rates(SETTINGS[setting][0](), 3, 25))


@pytest.mark.soak
@pytest.mark.parametrize("setting", SETTINGS)
def test_coverage(setting: str) -> None:
    make, sizes = SETTINGS[setting]
    draw = make()
    assert not {S: bad for S, draws in sizes.items() if (bad := too_few(rates(draw, S, draws)))}


@pytest.mark.plain
def test_the_test_of_coverage_can_fail() -> None:
    """Intervals that forget the seeds, or the examples, are found out."""

    def forgetful(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
        d = 0.2 + scores(rng, S, 200, False, 1.0)
        yield "examples alone", inference.crossed_interval(d.mean(0, keepdims=True)), 0.2
        d = 0.2 + scores(rng, S, 200, False, 0.0)
        yield "seeds alone", inference.crossed_interval(d, nested=True), 0.2

    assert set(too_few(rates(forgetful, 10, 400))) == {"examples alone", "seeds alone"}


@pytest.mark.plain
def test_an_interval_that_takes_the_chosen_rates_as_given_is_found_out() -> None:
    """Of rates that score alike, the choice is most of the variance."""

    def given(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
        selection, *tests = CHOICES["two alike, results not"]
        noise = 0.01 * rng.standard_normal((2, len(RATES)))
        picks = (selection + noise).argmin(1)
        d = tests[0][picks[0]] - tests[1][picks[1]] + 0.01 * rng.standard_normal((S, 1))
        d = d + 0.1 * rng.standard_normal((1, 400))
        yield "given", inference.crossed_interval(d), EXPECTED_CONTRAST["two alike, results not"][1]

    assert set(too_few(rates(given, 3, 100))) == {"given"}


@pytest.mark.plain
def test_seeds_that_judge_the_rate_they_chose_are_found_out() -> None:
    """Their mean is too good by the luck they were chosen for; at the rate that the others choose it is not."""
    assert set(too_few(rates(lucky, 10, 250))) == {"judging its own choice"}
    rng = np.random.default_rng(0)
    means = [[interval.mean for _, interval, _ in lucky(rng, 5)] for _ in range(150)]
    bias, error = np.mean(means, 0), np.std(means, 0) / np.sqrt(len(means))
    assert abs(bias[0]) < 3 * error[0] < 0.2
    assert bias[1] < -0.5


@pytest.mark.plain
@pytest.mark.parametrize("trials", [1, 3, 5, 10, 30])
def test_rates_cover_whatever_the_rate(trials: int) -> None:
    found = [inference.rate(k, trials) for k in range(trials + 1)]
    for p in np.linspace(0, 1, 201):
        inside = [k for k, i in enumerate(found) if i.low <= p <= i.high]
        assert stats.binom.pmf(inside, trials, p).sum() >= 0.95 - 1e-12


def exceptions(rng: Rng, S: int) -> Iterator[tuple[str, Interval, float]]:
    latent = np.sqrt(0.8) * rng.standard_normal(200) + np.sqrt(0.2) * rng.standard_normal((10, 200))
    right = (latent < stats.norm.ppf(0.99)).astype(float)
    yield "accuracy, two wrong", inference.crossed_interval(right), 0.99
    heavy = inference.spread(np.exp(rng.standard_normal(10)))
    yield "lognormal spread", heavy, float(np.sqrt((np.e - 1) * np.e))


@pytest.mark.plain
def test_known_exceptions() -> None:
    """None is worse than its figure in the docstring, and none is better: then it is no exception."""
    known = {
        "accuracy, two wrong": 0.87,
        "lognormal spread": 0.80,
    }
    found = rates(exceptions, 3, 4000)
    assert {name: hit / of for name, (hit, of) in found.items()} == pytest.approx(known, abs=0.015)
