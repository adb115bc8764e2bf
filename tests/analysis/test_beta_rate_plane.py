"""Planes: optima, slopes and frontiers of planted surfaces; resampled functions of means; how a plane is drawn."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_bench.analysis import beta_rate_plane
from calib_bench.core.settings import parse
from calib_bench.inference import best_of, crossed_interval, percentile, resampled_means
from calib_bench.inference.extremes import pseudo_values
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import Arm, templates
from calib_bench.report import figures, plane_drawing

# where a curve is lowest


@given(vertex=st.floats(-1.9, 1.9), step=st.floats(0.2, 1.0), height=st.floats(0, 5))
def test_the_valley_of_a_parabola_is_its_vertex(vertex: float, step: float, height: float) -> None:
    x = step * np.arange(-5, 6)
    x[3] += 0.1 * step  # grids need not be even
    place, edge = beta_rate_plane.parabola_minimum(x, height + (x - vertex * step) ** 2)
    assert place == pytest.approx(vertex * step, abs=1e-9)
    assert not edge


def test_the_valley_stays_beside_its_lowest_point_and_says_where_the_curve_ends() -> None:
    x = np.arange(4.0)
    curves = [[3, 1, 2, np.inf], [1, 2, 3, 4], [4, 3, 2, np.nan], [np.inf] * 4, [1, 1, 1, 1], [9, 1, 1e9, 0.9999999]]
    places, edges = beta_rate_plane.parabola_minimum(x, np.array(curves))
    assert places[:3].tolist() == [pytest.approx(7 / 6), 0, 2]
    assert edges.tolist() == [False, True, False, True, True, True]
    assert math.isnan(places[3])


def test_slopes_of_power_laws() -> None:
    betas = np.array([0.01, 0.1, 1.0, 10.0])
    laws = np.log(betas) * np.array([[-1.0], [-2.0], [0.0]]) + 3
    assert beta_rate_plane.slope(np.log(betas), laws) == pytest.approx([-1, -2, 0])
    assert beta_rate_plane.regimes(betas) == {"all": [0, 1, 2, 3], "beta <= 0.1": [0, 1], "beta >= 1": [2, 3]}
    assert beta_rate_plane.regimes([1.0, 10.0]) == {"all": [0, 1]}
    assert beta_rate_plane.regimes([1.0]) == {}


# where training begins to fail


@given(frontier=st.floats(0.02, 200), start=st.integers(-4, 0), extend=st.integers(0, 8), length=st.integers(2, 5))
def test_a_bracket_closes_on_the_frontier_and_says_when_there_is_none(
    frontier: float, start: int, extend: int, length: int
) -> None:
    rates = [2.0**k for k in range(start, start + length)]
    failed = lambda score: score >= 2  # noqa: E731
    truth = lambda rate: 2.0 if rate > frontier else 1 + abs(math.log(2 * rate / frontier)) / 100  # noqa: E731
    known = {rate: truth(rate) for rate in rates}
    for _ in range(30):
        found = beta_rate_plane.failure_bracket(rates, known.get, failed, extend)
        if not found.wanted:
            break
        assert not set(found.wanted) & set(known)
        known |= {rate: truth(rate) for rate in found.wanted}
    assert not found.wanted
    if rates[0] > frontier:
        assert math.isnan(found.best)
    elif rates[-1] * 2**extend <= frontier:
        assert found.stable == max(known)
        assert math.isnan(found.failing)
    else:
        assert (
            found.best <= found.stable <= frontier < found.failing <= beta_rate_plane.FINE * found.stable * (1 + 1e-6)
        )
        assert found.rate == pytest.approx(frontier, rel=beta_rate_plane.FINE - 1)


def test_no_bracket_before_the_grid_is_known_and_what_counts_as_failing() -> None:
    found = beta_rate_plane.failure_bracket([1.0, 2.0], {1.0: 0.5}.get, lambda score: score > 1, 4)
    assert (math.isnan(found.best), found.wanted) == (True, ())
    by_loss = beta_rate_plane.is_failed(resolve(parse(["task=digits"])))
    assert [by_loss(score) for score in (0.1, 2.1, 2.25, math.inf, math.nan)] == [False, False, True, True, True]
    by_error = beta_rate_plane.is_failed(resolve(parse(["task=digits", "select=error"])))
    assert [by_error(score) for score in (0.5, 0.88)] == [False, True]


def test_trials_wanted_beyond_the_grid_are_those_of_each_seed() -> None:
    settings = resolve(parse(["task=digits", "lr=0.1,0.2", "beta=1", "seed=3,5", "extend=2"]))
    template = next(iter(templates(settings)))
    arm = Arm(template, (0.1, 0.2), {0.1: 0.3, 0.2: 0.2}, 0.2, "edge", {})
    frontier = {3: 0.3, 5: 1.0}
    scored = lambda trial: 0.2 if trial.lr <= frontier[trial.seed] else math.inf  # noqa: E731
    known: dict[str, float] = {}

    def scores(trial) -> float | None:  # type: ignore[no-untyped-def]
        return scored(trial) if trial.lr in arm.rates else known.get(trial.key)

    for _ in range(9):
        trials = beta_rate_plane.wanted(settings, arm, scores)
        new = [trial for trial in trials if trial.key not in known]
        known |= {trial.key: scored(trial) for trial in new}
        if not new:
            break
    by_seed = {s: sorted(t.lr for t in trials if t.seed == s) for s in (3, 5)}
    assert by_seed[5] == [0.4, 0.8]  # twice further, and no failure found
    assert by_seed[3][-1] == 0.4
    assert beta_rate_plane.failure_brackets(settings, arm, scores)[3].rate == pytest.approx(0.3, rel=0.2)


# functions of resampled means


def test_a_mean_among_the_resampled_has_the_spread_of_its_crossed_interval() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 1, 3)) + rng.normal(size=(1, 300, 3)) + rng.normal(size=(6, 300, 3))
    own = rng.normal(size=(6, 2))
    found = resampled_means(values, own)
    assert found.means_A == pytest.approx([*values.mean((0, 1)), *own.mean(0)])
    for column in range(3):
        mine = percentile(found.means_A[column], found.drawn_BA[:, column], found)
        theirs = crossed_interval(values[:, :, column])
        assert mine.high - mine.low == pytest.approx(theirs.high - theirs.low, rel=0.25)
    lone = percentile(found.means_A[4], found.drawn_BA[:, 4], found)
    by_t = crossed_interval(own[:, 1:])
    assert lone.high - lone.low == pytest.approx(by_t.high - by_t.low, rel=0.25)


def test_what_one_seed_has_one_of_has_no_interval() -> None:
    """Resamples of its examples move it by rounding alone."""
    found = resampled_means(np.random.default_rng(0).normal(size=(1, 250, 1)), [[-1.03]])
    assert np.ptp(found.drawn_BA[:, 1]) > 0
    assert math.isnan(percentile(found.means_A[1], found.drawn_BA[:, 1], found).low)
    assert percentile(found.means_A[0], found.drawn_BA[:, 0], found).low < found.means_A[0]


def test_a_quantity_that_is_not_finite_is_infinite_in_every_resample() -> None:
    values = np.zeros((2, 5, 2))
    values[1, 3, 1] = np.inf
    found = resampled_means(values)
    assert np.isinf(found.drawn_BA[:, 1]).all()
    assert not found.drawn_BA[:, 0].any()
    assert math.isnan(percentile(found.means_A[1], found.drawn_BA[:, 1], found).low)


def test_the_place_of_an_optimum_is_covered() -> None:
    """Curves over seven places whose true valley is at 0.2: seeds shift, examples differ in height and tilt."""
    rng, x, hits = np.random.default_rng(1), np.linspace(-2, 2, 7), 0
    for _ in range(200):
        where = 0.2 + 0.5 * rng.normal(size=(5, 1, 1)) + 2 * rng.normal(size=(1, 100, 1)) / 10
        values = (x - where) ** 2 + rng.normal(size=(1, 100, 1)) + 0.5 * rng.normal(size=(5, 100, 7))
        found = resampled_means(values, n_boot=300)
        place = beta_rate_plane.parabola_minimum(x, found.means_A)[0]
        limits = percentile(float(place), beta_rate_plane.parabola_minimum(x, found.drawn_BA)[0], found)
        hits += limits.low <= 0.2 <= limits.high
    assert hits >= 0.92 * 200


# the best of several seeds


@given(st.lists(st.integers(-5, 5), min_size=4, max_size=7), st.integers(1, 3), st.booleans())
def test_best_of_is_the_mean_over_all_choices(means: list[int], m: int, largest: bool) -> None:
    values = np.array(means, float)[:, None] + np.array([[-1.0, 0.0, 1.0]])
    best = max if largest else min
    S = len(means)
    whole = np.mean([best(some) for some in itertools.combinations(means, m)])
    rest = [np.mean([best(c) for c in itertools.combinations(means[:s] + means[s + 1 :], m)]) for s in range(S)]
    pseudo = pseudo_values(values, m, largest)
    assert pseudo.mean(1) == pytest.approx(S * whole - (S - 1) * np.array(rest), abs=1e-9)
    assert pseudo.mean() == pytest.approx(whole, abs=1e-9)
    assert best_of(values, m, largest=largest).mean == pytest.approx(whole, abs=1e-9)
    assert pseudo_values(values, 1, largest) == pytest.approx(values)
    with pytest.raises(ValueError, match="more than"):
        best_of(values, S)


def test_the_difference_of_best_seeds_is_covered() -> None:
    """Two arms whose seeds spread by 1 and 2: the best of 3 is 0.846 spreads above the mean."""
    rng, hits, n = np.random.default_rng(2), 0, 300
    for _ in range(n):
        shared = rng.normal(size=(12, 1))
        examples = rng.normal(size=(1, 50))
        arms = [s * (shared + rng.normal(size=(12, 1))) / 2**0.5 + s * examples for s in (2, 1)]
        wide, narrow = (arm + rng.normal(size=(12, 50)) for arm in arms)
        limits = best_of(wide, 3, narrow)
        hits += limits.low <= 0.8463 <= limits.high
    assert 0.93 * n <= hits


# drawing


def test_a_plane_draws_every_cell_between_its_neighbours() -> None:
    cells = [(beta, rate / beta, rate) for beta in (0.1, 1.0, 10.0) for rate in (0.5, 1.0, 2.0)]
    frame = pd.DataFrame(cells, columns=["beta", "rate", "score"]).assign(failed=[0, 0, 1] * 3)
    frame.loc[2, "score"] = math.inf
    with figures.style():
        from matplotlib.figure import Figure

        axis = Figure().subplots()
        drawn = plane_drawing.plane(axis, frame, "beta", "rate", "score", plane_drawing.scale(frame["score"]))
        plane_drawing.power_lines(axis, -1, [(1.0, 1.0)])
        plane_drawing.path(axis, [0.1, 10], [10, 0.1], color="k")
        plane_drawing.colorbar(drawn, axis, "score")
        files = figures.render(axis.figure)
    assert set(files) == {"png", "svg", "pdf"}
    crosses, cells_drawn = axis.collections[-1], axis.collections[:-1]
    assert len(cells_drawn) == 9
    assert len(crosses.get_offsets()) == 3
    boxes = [cell.get_paths()[0].get_extents() for cell in cells_drawn]
    assert boxes[0].x0 == pytest.approx(10**-1.5)
    assert boxes[0].x1 == boxes[3].x0 == pytest.approx(10**-0.5)
    assert boxes[3].y1 == boxes[4].y0 == pytest.approx(0.5**0.5)
    grey = cells_drawn[2].get_facecolor()[0]
    assert grey[:3] == pytest.approx([float(plane_drawing.FAILED)] * 3)
    line = axis.lines[0]
    assert np.prod([line.get_xdata(), line.get_ydata()], 0) == pytest.approx([1, 1])
    assert axis.get_ylim() == pytest.approx((boxes[6].y0, boxes[2].y1))
