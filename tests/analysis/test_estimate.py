"""Estimates in the columns of tables."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.result_rows import adjusted
from calib_bench.inference import crossed_interval


def test_what_fields_write_is_what_of_reads() -> None:
    estimate = Estimate(0.2, -0.1, 0.5, 0.3, 0.6)
    row = estimate.fields("x")
    assert list(row) == ["x", "x_low", "x_high", "x_p", "x_holm"]
    assert Estimate.of(row, "x") == estimate
    assert list(estimate.limits("x")) == ["x", "x_low", "x_high"]
    assert "x_p" not in Estimate(0.2, -0.1, 0.5).fields("x")


def test_an_estimate_of_a_frame_that_was_adjusted() -> None:
    values = np.random.default_rng(0).standard_normal((4, 30)) + 1
    interval = crossed_interval(values, nested=False)
    frame = adjusted(pd.DataFrame([Estimate.of_interval(interval).fields("x"), {"x": math.nan}]))
    first, second = (Estimate.of(row, "x") for row in frame.to_dict("records"))
    assert first is not None
    assert (first.mean, first.low, first.high, first.p) == (interval.mean, interval.low, interval.high, interval.p)
    assert first.holm == interval.p  # the other row was not tested, and does not count
    assert second is not None
    assert not second.is_bounded
    assert not second.is_significant


@pytest.mark.parametrize("row", [{}, {"x": 1.0}, {"x": None, "x_low": 0.0, "x_high": 1.0}, {"x": "a", "x_low": 0.0}])
def test_no_estimate_without_numbers(row: dict[str, object]) -> None:
    assert Estimate.of(row, "x") is None


@pytest.mark.parametrize(
    ("estimate", "excludes_zero", "is_significant"),
    [
        (Estimate(0.2, 0.1, 0.3, 0.01, 0.04), True, True),
        (Estimate(-0.2, -0.3, -0.1, 0.01, 0.05), True, False),
        (Estimate(0.1, -0.1, 0.3), False, False),
        (Estimate(0.1, math.nan, math.nan), False, False),
    ],
)
def test_what_an_estimate_establishes(estimate: Estimate, excludes_zero: bool, is_significant: bool) -> None:
    assert (estimate.excludes_zero, estimate.is_significant) == (excludes_zero, is_significant)


def test_an_estimate_as_text() -> None:
    assert Estimate(0.14412, 0.1302, 0.158).text == "0.144 [0.130, 0.158]"
    assert Estimate(0.14412, math.nan, math.nan).text == "0.1441"
    assert Estimate(0.2, 0.005, 0.72).percent == "20% [0%, 72%]"
    ratio = Estimate(math.log(2), 0.0, math.log(4), 0.03).exp()
    assert (ratio.mean, ratio.low, ratio.high, ratio.p) == pytest.approx((2, 1, 4, 0.03))
