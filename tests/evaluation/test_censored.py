"""Probabilities of exactly zero: a file's resolution, what stands for its zeros, comparison with a finer copy."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calib_bench import api, registry
from calib_bench.baselines.temperature_scaling import fit_temperature
from calib_bench.errors import DataError
from calib_bench.evaluation.censored import clip_note, filled
from calib_bench.evaluation.compare import compare
from calib_bench.evaluation.models import at_one_resolution, calibrator_input, pair_up
from calib_bench.evaluation.resolution import resolution
from calib_bench.evaluation.validation import check


@functools.cache
def net(N: int = 4000, K: int = 10, over: float = 2.1) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is overconfident by a factor, and labels drawn from what it should say."""
    r = np.random.default_rng(0)
    z = torch.from_numpy(3 * r.normal(size=(N, K)))
    y = torch.multinomial(z.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    return (over * z).softmax(1).numpy(), y.numpy()


def votes(n: int, N: int = 600, K: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shares of n votes, each drawn from a rate of its own row, and labels drawn from that rate."""
    r = np.random.default_rng(seed)
    rate = r.dirichlet(np.full(K, 0.3), N)
    return r.multinomial(n, rate) / n, np.array([r.choice(K, p=p) for p in rate])


KEPT = {
    "4 decimals": (lambda p: p.round(4), "grid", 1e-4),
    "4 decimals, float32": (lambda p: p.astype("f4").round(4), "grid", 1e-4),
    "6 decimals": (lambda p: p.round(6), "grid", 1e-6),
    "3 decimals, normalized": (lambda p: p.round(3) / p.round(3).sum(1, keepdims=True), "least", 1e-3),
    "float16": (lambda p: p.astype("f2"), "type", 2.0**-24),
    "hard": (lambda p: (p == p.max(1, keepdims=True)).astype(float), "hard", 1 / 4000),
    "float32 underflow": (lambda p: (p**20).astype("f4"), "type", 2.0**-149),
}


@pytest.mark.parametrize("kept", KEPT)
def test_what_a_file_keeps_shows_in_its_numbers(kept: str) -> None:
    write, shape, step = KEPT[kept]
    p = write(net()[0])
    found = resolution(p)
    assert (found.form, found.step) == (shape, pytest.approx(step, rel=0.02))
    np.testing.assert_allclose(found.read(p), p, rtol=1e-6, atol=1e-7 * step)  # it holds what it wrote


@given(st.sampled_from([37, 50, 100, 300, 500]), st.integers(0, 100))
def test_votes_are_counted(n: int, seed: int) -> None:
    p = votes(n, seed=seed)[0]
    for dtype in ("f8", "f4"):
        found = resolution(p.astype(dtype))
        assert (found.form, found.step) == ("grid", pytest.approx(1 / n))


@given(st.integers(0, 1000))
def test_numbers_in_full_have_no_grid(seed: int) -> None:
    r = np.random.default_rng(seed)
    for dtype in ("f8", "f4"):
        p = r.dirichlet(np.full(5, 0.5), 40).astype(dtype)
        assert resolution(np.where(p < 1e-3, 0, p).astype(dtype)).form == "least"


def repaired(p: np.ndarray, y: np.ndarray, kind: str = "probabilities") -> tuple[float, float, list[str]]:
    """kappa and log loss after temperature scaling, fitted on the first half and judged on the second; the notes."""
    h = len(y) // 2
    frame = api.evaluate(p[h:], y[h:], (p[:h], y[:h]), kind=kind, calibrators=["temperature_scaling"])
    row = frame.set_index("method").loc["temperature_scaling"]
    return float(row.kappa), float(row.log_loss), frame.attrs["warnings"]


@pytest.mark.parametrize(("kept", "rel"), [("4 decimals", 0.03), ("6 decimals", 0.02), ("float16", 0.01)])
def test_kappa_is_that_of_the_numbers_in_full(kept: str, rel: float) -> None:
    p, y = net()
    kappa, loss, _ = repaired(p, y)
    cut, cut_loss, said = repaired(KEPT[kept][0](p), y)
    assert cut == pytest.approx(kappa, rel=rel)
    assert loss - 1e-3 < cut_loss < loss + 0.02
    assert any("the last digit kept" in note for note in said)


def test_the_note_counts_zeros_and_those_of_labels() -> None:
    p, y = net()
    p = p.round(4)
    found = check(p, y, "probabilities", "x")
    at_labels = int((p[np.arange(len(y)), y] == 0).sum())
    assert at_labels > 0
    assert found.zeros is not None
    assert (found.zeros.number, found.zeros.at_labels) == (int((p == 0).sum()), at_labels)
    assert found.notes[-1] == (
        f"{int((p == 0).sum()):,} probabilities are zero, {at_labels:,} of them the label's, whose raw log loss is "
        f"infinite; the file's numbers are multiples of 0.0001"
    )


def test_probabilities_that_are_cut_off_are_noted() -> None:
    p, y = net()
    cut = np.clip(p, 1e-4, 1)
    for kept in (cut / cut.sum(1, keepdims=True), np.clip(p[:, 0], 1e-4, 1 - 1e-4)):
        (note,) = clip_note(kept)
        assert note.endswith(
            "% of the probabilities are 0.0001, the least, as if cut off there: what was below is lost"
        )
    assert check(cut / cut.sum(1, keepdims=True), y, "probabilities", "x").notes == clip_note(cut)
    tree = np.repeat([[0.1, 0.9], [0.3, 0.7], [0.8, 0.2]], 50, 0)
    for whole in (p, p.astype("f4"), p.astype("f2"), p.round(4), p.round(2).clip(0.01), tree, votes(20)[0]):
        assert clip_note(whole) == ()


def test_raw_scores_are_those_of_the_file() -> None:
    p, y = net()
    cut = p.round(4)
    frame = api.evaluate(cut, y, kind="probabilities").set_index("method")
    assert frame.log_loss["raw"] == np.inf
    normalized = cut / cut.sum(1, keepdims=True)
    brier = ((normalized - np.eye(p.shape[1])[y]) ** 2).sum(1).mean()
    assert frame.brier["raw"] == pytest.approx(brier, abs=1e-12)


def test_log_probabilities_of_a_rounded_file_are_the_rounded_file() -> None:
    p, y = net()
    with np.errstate(divide="ignore"):
        logs = np.log(p.round(4))
    one, two = repaired(p.round(4), y), repaired(logs, y, "log_probabilities")
    single = repaired(logs.astype("f4"), y, "log_probabilities")
    assert two[:2] == pytest.approx(one[:2], rel=1e-9)
    assert single[:2] == pytest.approx(one[:2], rel=1e-4)


def test_a_forest_is_underconfident_and_no_calibrator_is_thrown() -> None:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    x, y = load_digits(return_X_y=True)
    p = RandomForestClassifier(50, random_state=0).fit(x[:600], y[:600]).predict_proba(x[600:])
    y = y[600:]
    names = [
        "temperature_scaling",
        "dirichlet_scaling",
        "platt_scaling",
        "beta_calibration",
        "structured_vector_scaling",
    ]
    found = api.evaluate(p[600:], y[600:], (p[:600], y[:600]), kind="probabilities", calibrators=names)
    frame = found.set_index("method")
    logs = torch.from_numpy(np.log(np.where(p == 0, 0.01, p)))  # half a vote of 50
    temperature = float(fit_temperature(logs[:600], torch.from_numpy(y[:600]))["temperature"])
    assert frame.kappa["temperature_scaling"] == pytest.approx(temperature, rel=0.05)
    assert frame.kappa_high["temperature_scaling"] < 1
    assert bool((frame.accuracy > frame.accuracy["raw"] - 0.03).all())
    assert bool((frame.drop(index="raw").brier < frame.brier["raw"]).all())


@pytest.mark.parametrize("kept", ["4 decimals", "4 decimals, float32", "6 decimals", "float16"])
def test_a_model_is_its_own_rounded_copy(kept: str) -> None:
    p, y = net()
    h = len(y) // 2
    pairs = []
    for values in (p, KEPT[kept][0](p)):
        test, fit = (check(values[part], y[part], "probabilities", kept) for part in (np.s_[h:], np.s_[:h]))
        pairs.append(pair_up([test], [fit]))
    found = compare(*pairs)
    rows = found.tables["comparison"].frame.set_index(["stage", "metric"]).loc["after temperature scaling"]
    for metric in ("log_loss", "brier"):
        assert rows.difference_low[metric] <= 1e-9
        assert rows.difference_high[metric] >= -1e-9
        assert abs(rows.difference[metric]) < 1e-3
    assert any("is read at that resolution too" in said for said in found.warnings)


def test_files_without_zeros_are_compared_as_they_are() -> None:
    p, y = net()
    one, other = (pair_up([check(values, y, "probabilities", "x")], [])[0] for values in (p, p.astype("f4")))
    assert at_one_resolution(one, other) == (one, other)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_an_exact_one_in_a_column_is_a_zero_of_the_other_class(dtype: str) -> None:
    r = np.random.default_rng(0)
    z = 8 * r.normal(size=3000)
    y = (r.random(3000) < 1 / (1 + np.exp(-z / 4))).astype(int)
    p = 1 / (1 + np.exp(-z * 2))
    full = repaired(np.stack([-z, z], 1), y, "logits")
    with np.errstate(over="ignore"):
        single, both = repaired(p.astype(dtype), y), repaired(np.stack([1 - p, p], 1).astype(dtype), y)
    if dtype != "f2":  # whose column near one keeps three digits, and a quarter of its rows no small probability
        assert single[0] == pytest.approx(full[0], rel=0.03)
    assert both[0] == pytest.approx(full[0], rel=0.1 if dtype == "f2" else 0.03)
    assert np.isfinite(single[1])
    assert abs(single[1] - full[1]) < 0.05


def test_hard_predictions_are_fitted_as_a_rate_of_errors() -> None:
    p, y = net()
    hard = KEPT["hard"][0](p)
    _, loss, said = repaired(hard, y)
    h = len(y) // 2
    wrong, wrong_test = (hard[part].argmax(1) != y[part] for part in (np.s_[:h], np.s_[h:]))
    e, e_test = wrong.mean(), wrong_test.mean()
    assert loss == pytest.approx(-(1 - e_test) * np.log(1 - e) - e_test * np.log(e / 9), rel=1e-6)
    assert any("kappa has no meaning" in note for note in said)


def test_a_share_is_of_the_step_and_rows_are_normalized() -> None:
    p, y = net()
    found = check(p.round(4), y, "probabilities", "x")
    assert found.zeros is not None
    q = filled(found.Z_NK, found.zeros, 0.25).exp().numpy()
    expected = np.where(p.round(4) == 0, 0.25e-4, p.round(4))
    np.testing.assert_allclose(q, expected / expected.sum(1, keepdims=True), rtol=1e-9)


def test_cross_fitted_shares_come_from_the_other_folds() -> None:
    p, y = net()
    model = pair_up([check(p.round(4), y, "probabilities", "x")], [])[0]
    rows = torch.arange(len(y)) < 1000
    before = calibrator_input(model, model.test, rows)
    y[1500:] = (y[1500:] + 1) % 10
    assert torch.equal(
        calibrator_input(pair_up([check(p.round(4), y, "probabilities", "x")], [])[0], model.test, rows), before
    )
    net.cache_clear()


def test_ends_of_rows_that_are_zero_are_classes_not_offered() -> None:
    r = np.random.default_rng(0)
    z = 2 * r.normal(size=(500, 5))
    masked = np.arange(5) >= r.integers(3, 6, size=(500, 1))
    p = np.where(masked, 0, np.exp(z))
    p /= p.sum(1, keepdims=True)
    y = np.array([r.choice(5, p=row) for row in p])
    fit = api.evaluate(p[250:], y[250:], (p[:250], y[:250]), kind="probabilities", calibrators=["temperature_scaling"])
    logits = api.evaluate(
        np.where(masked, -1e9, z)[250:], y[250:], (np.where(masked, -1e9, z)[:250], y[:250]),
        calibrators=["temperature_scaling"],
    )  # fmt: skip
    assert fit.kappa[1] == pytest.approx(logits.kappa[1], rel=1e-6)
    assert any("classes that rows do not offer" in said for said in fit.attrs["warnings"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("K", [3, 100])
def test_rows_of_half_precision_are_normalized(dtype: torch.dtype, K: int) -> None:
    z = 2 * torch.randn(300, K, generator=torch.Generator().manual_seed(0))
    p = z.softmax(1).to(dtype).float().numpy()
    found = check(p, np.zeros(300, int), "probabilities", "x")
    torch.testing.assert_close(found.Z_NK.exp().sum(1), torch.from_numpy(p.astype(np.float64)).sum(1))
    if dtype == torch.bfloat16 and K == 100:
        assert any("as they are bfloat16" in note for note in found.notes)
    with pytest.raises(DataError, match="do not sum to 1"):
        check((p * np.float32(1.1)).astype(np.float32), np.zeros(300, int), "probabilities", "x")


def test_decimals_may_miss_one_by_what_rounding_does() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(1000), 50).round(4)
    off = np.abs(p.sum(1) - 1).max()
    assert off > 1e-3
    assert any("multiples of 0.0001" in note for note in check(p, np.zeros(50, int), "probabilities", "x").notes)
    with pytest.raises(DataError, match="do not sum to 1"):
        check(p + 1e-4, np.zeros(50, int), "probabilities", "x")


@pytest.mark.parametrize(
    "name", [name for name, calibrator in registry.calibrators().items() if calibrator.classes is None]
)
def test_every_calibrator_of_rounded_probabilities_helps(name: str) -> None:
    p, y = net(1500, 4)
    p = p.round(4)
    frame = api.evaluate(p[700:], y[700:], (p[:700], y[:700]), kind="probabilities", calibrators=[name])
    assert np.isfinite(frame.log_loss[1])
    assert frame.brier[1] < frame.brier[0] + 0.01


@pytest.mark.parametrize("digits", [2, 3, 4, 5])
def test_zeros_of_rows_that_were_rounded_and_then_normalized_are_below_the_smallest_number(digits: int) -> None:
    """Quotients of decimals are multiples of 1e-16 or so, of which a zero says nothing."""
    logits = 4 * np.random.default_rng(digits).normal(size=(300, 4))
    p = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).round(digits)
    kept = resolution(p / p.sum(1, keepdims=True))
    assert 0.9 * 10.0**-digits <= kept.step <= 1.1 * 10.0**-digits
    assert resolution(p).step == pytest.approx(10.0**-digits)


def test_one_zero_in_the_last_column_is_no_class_that_is_not_offered() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(4), 60)
    y = np.zeros(60, int)
    for rows, structural in ((1, False), (10, True)):
        cut = p.copy()
        cut[:rows, 3] = 0
        zeros = check(cut / cut.sum(1, keepdims=True), y, "probabilities", "p").zeros
        assert zeros is not None
        assert zeros.structural == structural
