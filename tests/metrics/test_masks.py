"""Classes that rows do not offer: the same fits whatever stands for them, and those of other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn import nll
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from calib_bench import api, registry
from calib_bench.baselines._solvers import deviations, spread
from calib_bench.baselines.temperature_scaling import fit_temperature
from calib_bench.evaluation.validation import check
from calib_bench.metrics import masks

CALIBRATORS = {name: calibrator for name, calibrator in registry.calibrators().items() if calibrator.classes is None}
each = pytest.mark.parametrize("name", CALIBRATORS)
MARKS = (-1e4, -5e4, -65504.0, -1e9, float(torch.finfo(torch.bfloat16).min), float(np.finfo(np.float32).min), -1e30)


def questions(N: int = 400, K: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with 3 to K options a row, -inf for the rest; labels from softmax(w z + b) over the options."""
    g = torch.Generator().manual_seed(seed)
    z = 4 * torch.randn(N, K, generator=g, dtype=torch.float64)
    options = torch.randint(3, K + 1, (N, 1), generator=g)
    z[torch.arange(K) >= options] = -torch.inf
    w, b = torch.linspace(0.2, 0.8, K, dtype=torch.float64), torch.linspace(0.8, -0.8, K, dtype=torch.float64)
    p = masks.without(w * masks.zeroed(z) + b, z).softmax(1)
    return z, torch.multinomial(p, 1, generator=g)[:, 0]


def marked(z: Tensor, mark: float) -> Tensor:
    return z.masked_fill(z.isneginf(), mark)


@each
def test_the_same_fit_whatever_the_mask(name: str) -> None:
    (z, y), (new, _) = questions(), questions(seed=1)
    calibrator = CALIBRATORS[name]
    reference = calibrator.apply(calibrator.fit(z, y), new)
    assert bool((reference[new.isneginf()] == -torch.inf).all())
    assert bool(reference[~new.isneginf()].isfinite().all())
    torch.testing.assert_close(reference.exp().sum(1), torch.ones(len(new), dtype=torch.float64), rtol=0, atol=1e-9)
    for mark in MARKS:
        logp = calibrator.apply(calibrator.fit(marked(z, mark), y), marked(new, mark))
        torch.testing.assert_close(logp, reference, rtol=1e-12, atol=1e-12)


@each
def test_classes_that_no_row_offers_change_nothing(name: str) -> None:
    z, y = questions()
    full = z.masked_fill(z.isneginf(), -3.0)
    wide = torch.cat([full, torch.full_like(full[:, :2], -torch.inf)], 1)
    calibrator = CALIBRATORS[name]
    narrow, wider = (calibrator.apply(calibrator.fit(logits, y), logits).exp() for logits in (full, wide))
    assert bool((wider[:, 5:] == 0).all())
    # Penalties of some families count classes: with two more of them, shrinkage differs, by far less than the fit.
    atol = 0.1 if name.startswith(("structured", "matrix", "dirichlet")) else 1e-7
    torch.testing.assert_close(wider[:, :5], narrow, rtol=0, atol=atol)


@each
@pytest.mark.parametrize("mark", [-math.inf, -1e9])
def test_sets_with_masks_are_fitted_together_as_alone(name: str, mark: float) -> None:
    sets = [questions(60, seed=seed) for seed in range(3)]
    Z, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    for params, (z, labels) in zip(CALIBRATORS[name].fits(marked(Z, mark), y), sets, strict=True):
        alone = CALIBRATORS[name].fit(z, labels)
        torch.testing.assert_close(CALIBRATORS[name].apply(params, z), CALIBRATORS[name].apply(alone, z))


def test_a_temperature_is_that_of_the_options_alone() -> None:
    z, y = questions()

    def loss(u: np.ndarray) -> float:
        rows = [row[row.isfinite()] * float(np.exp(u[0])) for row in z]
        return float(sum(row.logsumexp(0) - row[label] for row, label in zip(rows, y, strict=True))) / len(y)

    best = minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    for mark in (-math.inf, *MARKS):
        found = fit_temperature(marked(z, mark), y)
        assert float(found["temperature"]) == pytest.approx(math.exp(-best.x[0]), rel=1e-5)
        assert not found["at_bound"]


def test_vector_scaling_is_maximum_likelihood_over_the_options() -> None:
    (z, y), (new, labels) = questions(2000), questions(4000, seed=1)
    zeros = masks.zeroed(z).numpy()

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        t = torch.tensor(theta, requires_grad=True)
        logits = masks.without(t[:5] * torch.from_numpy(zeros) + t[5:], z)
        value = torch.nn.functional.cross_entropy(logits, y)
        value.backward()
        assert t.grad is not None
        return float(value.detach()), t.grad.numpy()

    best = torch.from_numpy(minimize(loss, np.r_[np.ones(5), np.zeros(5)], jac=True, method="L-BFGS-B").x)
    right = nll(masks.without(best[:5] * masks.zeroed(new) + best[5:], new).log_softmax(1), labels)
    vector = CALIBRATORS["vector_scaling"]
    assert nll(vector.apply(vector.fit(marked(z, -1e9), y), marked(new, -1e9)), labels) == pytest.approx(
        right, abs=1e-3
    )


def test_the_uniform_of_a_mixture_is_over_the_options() -> None:
    z, _ = questions()
    y = torch.stack([torch.multinomial((row > -torch.inf).double(), 1)[0] for row in z])
    ensemble = CALIBRATORS["ensemble_temperature_scaling"]
    p = ensemble.apply({"temperature": torch.tensor(1.0), "weight": torch.tensor([0.0, 0.0, 1.0])}, z).exp()
    expected = (z > -torch.inf).double() / (z > -torch.inf).sum(1, keepdim=True)
    torch.testing.assert_close(p, expected)
    assert nll(ensemble.apply(ensemble.fit(z, y), z), y) == pytest.approx(nll(expected.log(), y), abs=0.02)


@given(st.integers(0, 10_000), st.sampled_from([1e-3, 1.0, 30.0, 1e4, 1e6]), st.integers(3, 12))
def test_ordinary_logits_are_never_masks(seed: int, scale: float, K: int) -> None:
    z = scale * torch.randn(50, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert masks.offered(z) is z
    assert masks.masked(z) is None


def test_a_row_keeps_its_meaning_in_any_company() -> None:
    z = torch.tensor([[1.0, 2.0, -1e9], [3.0, -1e4, -1e9], [0.0, -30.0, 1.0], [-1e4, -2e4, -1.5e4], [-1e4, -1e4, -1e4]])
    expected = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0]], dtype=torch.bool)
    assert torch.equal(masks.offered(z).isneginf(), expected)
    assert all(torch.equal(masks.offered(z[i : i + 1]), masks.offered(z)[i : i + 1]) for i in range(len(z)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mark", [-1e4, -6e4, "least"])
def test_masks_of_every_type(dtype: torch.dtype, mark: float | str) -> None:
    value = torch.finfo(dtype).min if mark == "least" else mark
    z = torch.tensor([[1.0, 2.0, value]], dtype=dtype)
    assert masks.offered(z).isneginf().tolist() == [[False, False, True]]


def test_a_file_says_how_many_classes_are_not_offered() -> None:
    z, y = questions()
    number, rows = int(z.isneginf().sum()), int(z.isneginf().any(1).sum())
    added = torch.where(z.isneginf(), -1e4 + torch.randn(z.shape, generator=torch.Generator().manual_seed(0)), z)
    for logits in (z, marked(z, -1e9), marked(z, -1234.5), added):
        found = check(logits.numpy(), y.numpy(), "logits", "x")
        assert torch.equal(found.Z_NK.isneginf(), z.isneginf())
        assert any(f"{number} logits" in note and f"in {rows} rows" in note for note in found.notes)
    assert torch.equal(
        check(added.log_softmax(1).numpy(), y.numpy(), "log_probabilities", "x").Z_NK.isneginf(), z.isneginf()
    )
    plain = check(marked(z, -30.0).numpy(), y.numpy(), "logits", "x")
    assert not plain.notes
    assert bool(plain.Z_NK.isfinite().all())


def test_the_numbers_of_an_evaluation_do_not_depend_on_the_mask() -> None:
    (z, y), (new, labels) = questions(), questions(800, seed=1)
    names = ["temperature_scaling", "vector_scaling", "platt_scaling"]
    frames = [
        api.evaluate(marked(new, mark).numpy(), labels, (marked(z, mark).numpy(), y), calibrators=names)
        for mark in (-math.inf, -1e4, float(np.finfo(np.float32).min))
    ]
    kappa = frames[0].set_index("method").kappa["temperature_scaling"]
    assert kappa == pytest.approx(float(fit_temperature(z, y)["temperature"]))
    assert frames[0].set_index("method").kappa_low["temperature_scaling"] < kappa
    for frame in frames[1:]:
        numbers = frame.select_dtypes("number").to_numpy()
        np.testing.assert_allclose(numbers, frames[0].select_dtypes("number").to_numpy(), rtol=1e-10, atol=1e-12)


def test_labels_of_classes_that_are_not_offered_are_said_and_left_out_of_fits() -> None:
    (z, y), (new, labels) = questions(), questions(seed=1)
    wrong = y.clone()
    wrong[:7] = z[:7].argmin(1)
    lost = int(z.gather(1, wrong[:, None]).isneginf().sum())
    assert lost > 0
    kept = ~z.gather(1, wrong[:, None])[:, 0].isneginf()
    frame = api.evaluate(new.numpy(), labels, (z.numpy(), wrong), calibrators=["temperature_scaling"])
    alone = float(fit_temperature(z[kept], wrong[kept])["temperature"])
    assert frame.set_index("method").kappa["temperature_scaling"] == pytest.approx(alone)
    assert any(f"{lost} labels are of classes that their rows do not offer" in said for said in frame.attrs["warnings"])


def test_scales_do_not_see_masks_or_wild_rows() -> None:
    z, _ = questions()
    rows = torch.tensor([float(row[row.isfinite()].std(correction=0)) for row in z], dtype=torch.float64)
    torch.testing.assert_close(deviations(z), rows)
    assert spread(z) == pytest.approx(float(rows.median()))
    wild = torch.cat([z, 1e200 * masks.zeroed(z[:9])])
    assert spread(wild) == pytest.approx(spread(z), rel=0.1)


@each
@pytest.mark.parametrize("scale", [1e100, 1e200])
def test_enormous_logits(name: str, scale: float) -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(200, 4, generator=g, dtype=torch.float64)
    y = torch.multinomial((2 * z).softmax(1), 1, generator=g)[:, 0]
    one, other = (CALIBRATORS[name].fit(logits, y) for logits in (z, scale * z))
    logp = CALIBRATORS[name].apply(other, scale * z)
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(200, dtype=torch.float64), rtol=0, atol=1e-9)
    if name in ("temperature_scaling", "vector_scaling", "structured_vector_scaling"):  # any unit gives the same fit
        torch.testing.assert_close(logp, CALIBRATORS[name].apply(one, z), rtol=1e-5, atol=1e-6)
    assert nll(logp, y) < math.log(4) + 0.05
    for rows in (z, torch.cat([z[:5], scale * z[:5]])):
        assert not CALIBRATORS[name].apply(one, rows).isnan().any()


def test_one_enormous_row_is_one_row() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(300, 4, generator=g, dtype=torch.float64)
    y = torch.multinomial((2 * z).softmax(1), 1, generator=g)[:, 0]
    z[0], y[0] = 1e200 * z[0], int(z[0].argmax())
    vector = CALIBRATORS["vector_scaling"]
    alone = vector.fit(z[1:], y[1:])
    torch.testing.assert_close(vector.fit(z, y)["weight"], alone["weight"], rtol=0.05, atol=0.05)


def test_a_few_ordinary_logits_far_below_the_rest_are_no_masks() -> None:
    """Two outliers that differ are logits; the same number in two rows, or eight rows alike, are masks."""
    Z = np.random.default_rng(0).normal(size=(40, 4))
    y = np.zeros(40, int)
    for values, masked in (([-501.0, -505.0], 0), ([-700.0, -700.0], 2), ((-600.0 - np.arange(8)).tolist(), 8)):
        outlying = Z.copy()
        outlying[range(len(values)), 2] = values
        assert int(check(outlying, y, "logits", "p").Z_NK.isneginf().sum()) == masked
    tiny = np.array([[3.0, -501, 2], [1, 0, -503], [2.0, 1, 0]])
    assert check(tiny, np.array([0, 1, 2]), "logits", "p").Z_NK.tolist() == tiny.tolist()
