"""The figures of an evaluation, from numbers worked out in another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import binom

import calib_bench
from calib_bench import metrics
from calib_bench.evaluation import curves
from calib_bench.inference import aurc_n
from calib_bench.report import evaluation_figures

RNG = np.random.default_rng(0)
Z = 2 * RNG.normal(size=(800, 3))
Y = np.array([RNG.choice(3, p=softmax(z)) for z in Z])
P = softmax(Z, 1)
TOP = ([P.max(1)], [(P.argmax(1) == Y).astype(float)])


def test_reliability_and_its_band_are_those_of_the_bins() -> None:
    frame = curves.tables({"raw": TOP}, 10)["reliability"].frame
    by_metric = metrics.reliability(torch.from_numpy(Z), torch.from_numpy(Y), bins=10)
    full = by_metric.count > 0
    assert frame["count"].tolist() == by_metric.count[full].tolist()
    assert frame["accuracy"].to_numpy() == pytest.approx(by_metric.accuracy[full].numpy())
    row = frame.iloc[-1]
    inside = binom.cdf(row["consistent_high"] * row["count"], row["count"], row["confidence"])
    assert inside >= 0.975
    # The labels are drawn from the probabilities: hardly a bin falls outside its own 95%.
    outside = (frame["accuracy"] < frame["consistent_low"]) | (frame["accuracy"] > frame["consistent_high"])
    assert outside.sum() <= 1


def test_risk_at_full_coverage_is_the_error_and_ece_that_of_the_metric() -> None:
    made = curves.tables({"raw": TOP}, 7)
    risk = made["risk_coverage"].frame
    order = np.argsort(-TOP[0][0])
    assert risk["risk"].iloc[-1] == pytest.approx(1 - TOP[1][0].mean())
    assert risk["risk"].iloc[99] == pytest.approx(1 - TOP[1][0][order[:400]].mean())
    errors = made["ece_over_bins"].frame.set_index("bins")["ece"]
    for bins in (5, 7, 100):
        expected = float(metrics.ece(torch.from_numpy(Z), torch.from_numpy(Y), bins=bins))
        assert errors[bins] == pytest.approx(expected)


def test_risk_does_not_depend_on_the_order_of_rows_of_equal_confidence() -> None:
    confidence, correct = np.repeat([0.9, 0.6], 100), np.repeat([0.0, 1.0, 0.0, 1.0], [20, 80, 50, 50])
    tops = [([confidence], [correct]), ([confidence[::-1].copy()], [correct[::-1].copy()])]
    frames = [curves.tables({"raw": top})["risk_coverage"].frame for top in tops]
    expected = np.repeat([0.2, 0.5], 100).cumsum() / np.arange(1, 201)  # of 200 rows each has a point
    for frame in frames:
        assert frame["risk"].to_numpy() == pytest.approx(expected)
    assert frames[0]["risk"].mean() == pytest.approx(aurc_n(confidence, correct).mean())


def test_bins_change_the_calibration_errors_alone() -> None:
    few, many = (calib_bench.evaluate(Z, Y, bins=bins) for bins in (5, 40))
    assert few["ece"][0] == pytest.approx(float(metrics.ece(torch.from_numpy(Z), torch.from_numpy(Y), bins=5)))
    assert few["ece_low"][0] <= few["ece"][0] <= few["ece_high"][0]
    assert few["ece"][0] < many["ece"][0]
    assert few["log_loss"][0] == many["log_loss"][0]


def test_reliability_of_ones_own_predictions_is_drawn() -> None:
    figure = calib_bench.plot_reliability(Z, Y, bins=12)
    diagram, counts = figure.axes
    line = diagram.lines[-1]
    frame = curves.tables({"predictions": TOP}, 12)["reliability"].frame
    assert line.get_xdata() == pytest.approx(frame["confidence"].to_numpy())
    assert line.get_ydata() == pytest.approx(frame["accuracy"].to_numpy())
    assert sum(bar.get_height() for bar in counts.patches) == 800
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert set(evaluation_figures.DRAWN) - {"slices", "standings", "by_beta"} == set(curves.tables({"raw": TOP}))
