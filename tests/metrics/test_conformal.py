"""Conformal sets against their definitions, other libraries' values, and what theory says of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from calib_bench import inference
from calib_bench.errors import UserError
from calib_bench.metrics import accuracy, prediction_sets
from calib_bench.metrics.conformal import FREE, KINDS, PENALTY, threshold


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Calibration and test examples of 6 classes, from which the values of other libraries were made."""
    g = torch.Generator().manual_seed(7)
    Z = torch.randn(240, 6, generator=g, dtype=torch.float64) * 2
    uniform = torch.rand(240, 6, generator=g, dtype=torch.float64)
    y = (Z * 0.7 - torch.log(-torch.log(uniform))).argmax(-1)
    return Z[:120], y[:120], Z[120:], y[120:]


def defined(kind: str, p: np.ndarray) -> np.ndarray:
    """Scores of one row's classes, by a loop over them."""
    scores = np.empty(len(p))
    for k in range(len(p)):
        above = [q for q in p if q > p[k]]
        scores[k] = {
            "lac": 1 - p[k],
            "aps": sum(above),
            "raps": sum(above) + PENALTY * max(0, len(above) + 1 - FREE),
        }[kind]
    return scores


@pytest.mark.parametrize("kind", KINDS)
def test_sets_are_their_definition(kind: str) -> None:
    Zc, yc, Zt, yt = split()
    p, q = Zc.softmax(-1).numpy(), Zt.softmax(-1).numpy()
    labels = np.sort([defined(kind, row)[label] for row, label in zip(p, yc, strict=True)])
    limit = labels[math.ceil(0.9 * 121) - 1] + 1e-12
    inside = np.array([defined(kind, row) <= limit for row in q])
    found = prediction_sets(Zc, yc, Zt, yt)[kind]
    assert found.size.tolist() == inside.sum(1).tolist()
    assert found.covered.tolist() == inside[np.arange(120), yt].tolist()


VALUES = {"lac": (2.8583333333333334, 0.9), "aps": (3.058333333333333, 0.9083333333333333)}
VALUES["raps"] = VALUES["aps"]


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_other_libraries(kind: str) -> None:
    """Of torchcp 1.2.1: LAC, APS and RAPS(penalty=.01, kreg=5), its uniform numbers all 1; lac also of MAPIE 1.6.0.

    MAPIE's sets of aps without randomization add a class to thresholds that count it already, and are larger.
    """
    found = prediction_sets(*split())[kind]
    size, covered = VALUES[kind]
    assert float(found.size.mean()) == pytest.approx(size, abs=1e-12)
    assert float(found.covered.mean()) == pytest.approx(covered, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sets_cover_what_they_should(kind: str) -> None:
    """Mean coverage over fresh calibration and test sets: .9 to .9 + 1 / (M + 1) without ties, for any model."""
    g = torch.Generator().manual_seed(3)
    covered = []
    for _ in range(150):
        Z = torch.randn(400, 8, generator=g, dtype=torch.float64)
        y = (1.5 * Z - torch.log(-torch.log(torch.rand(400, 8, generator=g, dtype=torch.float64)))).argmax(-1)
        found = prediction_sets(Z[:200], y[:200], Z[200:], y[200:])[kind]
        covered.append(float(found.covered.mean()))
    error = np.std(covered) / 150**0.5
    assert 0.9 - 3 * error < np.mean(covered) < 0.9 + 1 / 201 + 3 * error


@pytest.mark.parametrize("kind", KINDS)
def test_influences_have_the_spread_that_calibration_sets_cause(kind: str) -> None:
    """The standard deviation of mean size over fresh calibration sets is that of the influences, to a third."""
    g = torch.Generator().manual_seed(5)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        Z = torch.randn(n, 8, generator=g, dtype=torch.float64)
        return Z, (1.5 * Z - torch.log(-torch.log(torch.rand(n, 8, generator=g, dtype=torch.float64)))).argmax(-1)

    test = draw(1000)
    found = [prediction_sets(*draw(300), *test)[kind] for _ in range(120)]
    for what in ("coverage", "size"):
        seen = np.std([float(sets.of(what)[0].mean()) for sets in found])
        told = np.sqrt(np.mean([float(sets.of(what)[1].var()) / 300 for sets in found]))
        assert told == pytest.approx(seen, rel=0.33), what


@pytest.mark.parametrize(("calibration", "kind"), [(100, "lac"), (100, "aps"), (500, "lac")])
def test_intervals_of_one_models_sets_cover(calibration: int, kind: str) -> None:
    """Of the mean over fresh calibration and test sets, also where few calibration scores lie near the threshold."""
    g = torch.Generator().manual_seed(calibration)

    def draw(n: int) -> tuple[Tensor, Tensor]:
        Z = 2 * torch.randn(n, 5, generator=g, dtype=torch.float64)
        y = (Z - torch.log(-torch.log(torch.rand(n, 5, generator=g, dtype=torch.float64)))).argmax(-1)
        return 1.5 * Z + 0.7 * torch.randn(n, 5, generator=g, dtype=torch.float64), y

    sets = [prediction_sets(*draw(calibration), *draw(500))[kind] for _ in range(400)]
    for what in ("coverage", "size"):
        pairs = [one.of(what) for one in sets]
        truth = float(torch.stack([values.mean() for values, _ in pairs]).mean())
        hits = 0
        for values, influence in pairs:
            fit = inference.at_threshold((influence - influence.mean())[None].numpy())
            interval = inference.score_interval(f"{kind}_{what}", [values.numpy()], fit=fit)
            hits += interval.low <= truth <= interval.high
        assert hits / len(sets) > 0.94, what


def test_a_temperature_changes_neither_accuracy_nor_the_order_of_classes() -> None:
    """LAC's scores keep their order within an example; sets may change, since the order of examples does."""
    Zc, yc, Zt, yt = split()
    raw, scaled = Zt.log_softmax(-1), (Zt / 3).log_softmax(-1)
    assert torch.equal(raw.argsort(-1), scaled.argsort(-1))
    assert float(accuracy(raw, yt)) == float(accuracy(scaled, yt))
    sets = prediction_sets(Zc / 3, yc, Zt / 3, yt)["lac"]
    top = scaled.argsort(-1, descending=True)
    places = (top == yt[:, None]).double().argmax(-1)
    assert torch.equal(sets.covered == 1, places < sets.size)  # a set is the most probable classes


def test_an_answer_that_is_right_often_enough_needs_one_class() -> None:
    """APS and RAPS are never empty, whatever the probabilities."""
    Z = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = Z.argmax(-1)
    found = prediction_sets(Z[:100], y[:100], Z[100:], y[100:])
    for kind in ("aps", "raps"):
        assert found[kind].size.tolist() == [1.0] * 100
        assert found[kind].covered.mean() == 1
    assert float(found["lac"].size.min()) >= 0


def test_classes_of_probability_zero_are_in_no_set() -> None:
    Zc, yc, Zt, yt = split()
    Zt = Zt.clone()
    Zt[:, 5] = -torch.inf
    Zt[0, yt[0]] = -torch.inf
    for sets in prediction_sets(Zc, yc, Zt, yt).values():
        assert sets.size.max() <= 5
        assert sets.covered[0] == 0
        assert not bool(sets.covered[yt == 5].any())
    # Too few calibration labels for the level: every class that is possible.
    for sets in prediction_sets(Zc[:5], yc[:5], Zt, yt).values():
        assert sets.size[1:].tolist() == Zt[1:].isfinite().sum(-1).tolist()
        assert sets.size_influence.isfinite().all()
    assert float(threshold(torch.arange(8.0).double())) == math.inf
    assert float(threshold(torch.arange(9.0).double())) == 8


def test_order_of_rows_and_classes_and_rounding_change_nothing() -> None:
    Zc, yc, Zt, yt = split()
    Zc, Zt = ((Z / 2).round() * 2 / 3 for Z in (Zc, Zt))  # many ties, not exact in binary
    g = torch.Generator().manual_seed(2)
    rows, columns = torch.randperm(120, generator=g), torch.randperm(6, generator=g)
    place = columns.argsort()
    expected = prediction_sets(Zc, yc, Zt, yt)
    found = prediction_sets(Zc[rows][:, columns], place[yc[rows]], Zt[rows][:, columns] + 7, place[yt[rows]])
    for kind in KINDS:
        assert torch.equal(found[kind].size, expected[kind].size[rows]), kind
        assert torch.equal(found[kind].covered, expected[kind].covered[rows]), kind


def test_what_has_no_sets_is_refused() -> None:
    """NaN had given sets of all classes in silence; labels and levels out of range, an error of torch or Python."""
    Zc, yc, Zt, yt = split()
    for wrong in (torch.full_like(Zc, math.nan), Zc[:0], Zc[:5], Zc[:, :2]):
        with pytest.raises(UserError):
            prediction_sets(wrong, yc[:0] if len(wrong) == 0 else yc, Zt, yt)
    with pytest.raises(UserError):
        prediction_sets(Zc, yc, Zt, yt + 6)
    for level in (0.0, 1.0, 90.0, math.nan):
        with pytest.raises(UserError):
            prediction_sets(Zc, yc, Zt, yt, level)
