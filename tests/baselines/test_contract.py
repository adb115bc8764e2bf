"""What every calibrator keeps to; the registry finds new ones."""

from __future__ import annotations

import functools
import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
from drawn import nll, overconfident
from safetensors.torch import load, save
from torch import Tensor

import calib_bench
from calib_bench import registry
from calib_bench.core.baseline import Params
from calib_bench.errors import UserError

CALIBRATORS = registry.calibrators()
HEAVY = ("matrix_scaling", "structured_matrix_scaling", "dirichlet_scaling")
"""K^2 unknowns: at K = 1000 they take longer than a quick test may."""
each = pytest.mark.parametrize("name", CALIBRATORS)
each_light = pytest.mark.parametrize("name", [name for name in CALIBRATORS if name not in HEAVY])


def test_every_baseline_is_described() -> None:
    references = (Path(calib_bench.__file__).parent / "references.bib").read_text()
    for name, baseline in {**CALIBRATORS, **registry.objectives()}.items():
        assert f"{{{baseline.reference}," in references, name
        assert baseline.title, name
        assert import_module(f"calib_bench.baselines.{name}").__doc__, name


def classes(name: str, K: int) -> int:
    """K, or the only number of classes that the calibrator is for."""
    return CALIBRATORS[name].classes or K


def applied(name: str, params: Params, z: Tensor) -> Tensor:
    """Log probabilities [N, K], held to what any may be: float64, never NaN nor above 0, rows of sum one."""
    logp = CALIBRATORS[name].apply(params, z)
    assert logp.shape == z.shape
    assert logp.dtype == torch.float64
    assert not logp.isnan().any()
    assert logp.amax() <= 1e-12
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(len(z), dtype=torch.float64), rtol=0, atol=1e-9)
    if CALIBRATORS[name].keeps_argmax:
        assert torch.equal(logp.gather(1, z.argmax(1, keepdim=True)), logp.amax(1, keepdim=True))
    return logp


def fitted(name: str, z: Tensor, y: Tensor, new: Tensor | None = None) -> Tensor:
    return applied(name, CALIBRATORS[name].fit(z, y), z if new is None else new)


@functools.cache
def awkward(K: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Calibration sets that have broken calibrators."""
    z, y = overconfident(80, K)
    hard = torch.full((80, K), -torch.inf).scatter(1, z.argmax(1, keepdim=True), 0.0)
    return {
        "plain": (z, y),
        "one label": (z, torch.full_like(y, K - 1)),
        "the first label": (z, torch.zeros_like(y)),
        "two labels": (z, y % 2),
        "probabilities 0 and 1": (hard, y),
        "some probabilities 0": (z.where(z > -3, -torch.inf).scatter(1, y[:, None], 0.0), y),
        "ties": (z.round(), y),
        "constant": (torch.zeros_like(z), y),
        "the labels themselves": (torch.eye(K)[y], y),
        "one row repeated": (z[:1].expand(80, K).contiguous(), y),
        "logits of 1e4": (1e4 * z, y),
        "logits of 1e-6": (1e-6 * z, y),
        "far from zero": (z + 1e4, y),
        "separable": (z, z.argmax(1)),
        "separable, 1e4": (1e4 * z, z.argmax(1)),
        "always wrong": (z, z.argmin(1)),
        "one example": (z[:1], y[:1]),
        "two examples": (z[:2], torch.tensor([0, 1])),
        "one outlier": (torch.cat([z[:-1], 1e4 * z[-1:]]), y),
    }


@functools.cache
def fits(name: str, K: int) -> dict[str, Params]:
    """The fit to each of them."""
    return {what: CALIBRATORS[name].fit(z, y) for what, (z, y) in awkward(K).items()}


@each
@pytest.mark.parametrize("K", [2, 3, 7])
def test_awkward_sets(name: str, K: int) -> None:
    K = classes(name, K)
    new, _ = overconfident(40, K, seed=1)
    news = (new, new.double(), 1e4 * new, new.where(new > 0, -torch.inf).scatter(1, new.argmax(1)[:, None], 1.0))
    for what, (z, _) in awkward(K).items():
        params = fits(name, K)[what]
        assert params, what
        assert all(value.dtype is torch.bool or value.isfinite().all() for value in params.values()), what
        stored = load(save(params))
        for rows in (z, *news):
            logp = applied(name, params, rows)
            assert torch.equal(applied(name, stored, rows), logp), what
            assert logp.isfinite().all() or not rows.isfinite().all(), what


@each
@pytest.mark.parametrize("K", [2, 3, 7])
def test_never_worse_than_uniform_on_its_own_data(name: str, K: int) -> None:
    # A map that says less than nothing about the very labels it was fitted to is broken. The slack is for priors.
    K = classes(name, K)
    for what, (z, y) in awkward(K).items():
        assert nll(applied(name, fits(name, K)[what], z), y) <= math.log(K) + (0.05 if len(y) > 2 else 0.35), what


@each
@pytest.mark.parametrize("K", [2, 3, 10])
def test_calibrator_improves_overconfident_logits(name: str, K: int) -> None:
    K = classes(name, K)
    z, y = overconfident(3000, K)
    logp = fitted(name, z, y)
    assert nll(logp, y) < nll(z.double().log_softmax(1), y)
    new, labels = overconfident(3000, K, seed=1)
    assert nll(fitted(name, z, y, new), labels) < nll(new.double().log_softmax(1), labels)


@each
def test_float32_and_float64_agree(name: str) -> None:
    z, y = overconfident(K=classes(name, 5))
    torch.testing.assert_close(fitted(name, z, y), fitted(name, z.double(), y), rtol=1e-7, atol=1e-7)


@each
def test_half_precision_logits_are_summed_in_float64(name: str) -> None:
    z, y = overconfident(K=classes(name, 5))
    for low in (z.bfloat16(), z.half()):
        torch.testing.assert_close(fitted(name, low, y), fitted(name, low.double(), y), rtol=1e-7, atol=1e-7)


@each
@pytest.mark.parametrize("scale", [1e-6, 1e4])
def test_extreme_scales(name: str, scale: float) -> None:
    z, y = overconfident(300, classes(name, 4))
    big = fitted(name, scale * z, y)
    # The odds against the rest are not proportional to the logits for K > 2, so only these fits undo a scale exactly.
    exact = name in ("temperature_scaling", "vector_scaling", "matrix_scaling")
    assert nll(big, y) == pytest.approx(nll(fitted(name, z, y), y), abs=1e-6 if exact else 0.2)


@each
@pytest.mark.parametrize("K", [2, 4])
def test_separable_data_are_told_as_well_as_by_raw_logits(name: str, K: int) -> None:
    K = classes(name, K)
    z, _ = overconfident(200, K)
    new, _ = overconfident(500, K, seed=1)
    labels = new.argmax(1)
    assert nll(fitted(name, z, z.argmax(1), new), labels) < nll(new.double().log_softmax(1), labels) + 0.1


@each
def test_fits_are_deterministic(name: str) -> None:
    z, y = overconfident(300, classes(name, 5))
    again = z.clone(), y.clone()
    torch.manual_seed(0)
    one = CALIBRATORS[name].fit(z, y)
    assert torch.equal(z, again[0])
    torch.manual_seed(1)
    two = CALIBRATORS[name].fit(*again)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@each
@pytest.mark.parametrize("K", [2, 5])
def test_the_order_of_examples_does_not_matter(name: str, K: int) -> None:
    K = classes(name, K)
    z, y = overconfident(300, K)
    z = (4 * z).round() / 4  # with ties
    order = torch.randperm(300, generator=torch.Generator().manual_seed(7))
    new, _ = overconfident(100, K, seed=1)
    there = fitted(name, z[order], y[order], new).exp()
    torch.testing.assert_close(fitted(name, z, y, new).exp(), there, rtol=0, atol=1e-5)


@each
def test_each_row_is_mapped_by_itself(name: str) -> None:
    z, y = overconfident(200, classes(name, 5))
    params = CALIBRATORS[name].fit(z, y)
    whole = applied(name, params, z)
    torch.testing.assert_close(applied(name, params, z[17:60]), whole[17:60], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(applied(name, params, z[17:18]), whole[17:18], rtol=1e-10, atol=1e-10)


@each
@pytest.mark.parametrize("K", [2, 5])
def test_shift_invariance_is_as_declared(name: str, K: int) -> None:
    K = classes(name, K)
    z, y = overconfident(400, K)
    z, new = ((4 * a).round().double() / 4 for a in (z, overconfident(100, K, seed=1)[0]))
    z[:, 0] += 1  # rows whose mean says something
    logits = fitted(name, z, y, new).exp()
    gap = (logits - fitted(name, z.log_softmax(1), y, new.log_softmax(1)).exp()).abs().max()
    if CALIBRATORS[name].shift_invariant:
        assert gap < 1e-6
    else:
        assert gap > 1e-6


@each
@pytest.mark.parametrize("K", [3, 10])
def test_keeps_argmax_is_as_declared(name: str, K: int) -> None:
    # The rule of `applied` allows ties at the top; here those that declare it keep predictions of new data, and
    # those that don't are seen to change one.
    K = classes(name, K)
    changed = 0
    for seed in range(4):
        z, y = overconfident(150, K, seed=seed)
        new, _ = overconfident(1000, K, seed=seed + 50)
        z[:, 0] += 2
        # Of labels that contradict every prediction some maps make equal probabilities.
        for labels in (y, z.argmin(1)) if CALIBRATORS[name].keeps_argmax else (y,):
            changed += int((fitted(name, z, labels, new).argmax(1) != new.argmax(1)).sum())
    assert (changed == 0) == CALIBRATORS[name].keeps_argmax


@each_light
@pytest.mark.parametrize("what", ["plain", "one label", "probabilities 0 and 1"])
def test_a_thousand_classes(name: str, what: str) -> None:
    z, y = awkward(classes(name, 1000))[what]
    fitted(name, z, y, overconfident(30, classes(name, 1000), seed=1)[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_many_unknowns_of_a_thousand_classes(name: str) -> None:
    z, y = overconfident(120, 1000)
    assert nll(fitted(name, z, y), y) < nll(z.double().log_softmax(1), y)


@each
def test_calibrated_logits_stay_nearly_as_they_are(name: str) -> None:
    z, y = overconfident(4000, classes(name, 3), scale=2.0)
    z = 0.6 * z  # labels were drawn from softmax(0.6 z): nothing is left to repair
    new, labels = overconfident(4000, classes(name, 3), seed=1, scale=2.0)
    new = 0.6 * new
    assert nll(fitted(name, z, y, new), labels) < nll(new.double().log_softmax(1), labels) + 0.03


# ---- what is refused


@each
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_unusable_logits_are_refused(name: str, bad: float) -> None:
    z, y = overconfident(20, classes(name, 5))
    params = CALIBRATORS[name].fit(z, y)
    z[3, 1] = bad
    with pytest.raises(UserError, match="NaN"):
        CALIBRATORS[name].fit(z, y)
    with pytest.raises(UserError, match="NaN"):
        CALIBRATORS[name].apply(params, z)


@each
def test_labels_and_shapes_that_do_not_fit_are_refused(name: str) -> None:
    z, y = overconfident(20, classes(name, 5))
    fit = CALIBRATORS[name].fit
    for bad_z, bad_y in ((z, y[:-1]), (z, y + 5), (z, y - 5), (z[:0], y[:0]), (z[:, :1], y * 0), (z.long(), y)):
        with pytest.raises(UserError, match="needs"):
            fit(bad_z, bad_y)


@pytest.mark.parametrize("name", [name for name, calibrator in CALIBRATORS.items() if calibrator.classes])
def test_another_number_of_classes_than_it_is_for_is_refused(name: str) -> None:
    K = classes(name, 0)
    params = CALIBRATORS[name].fit(*overconfident(20, K))
    z, y = overconfident(20, K + 1)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].fit(z, y)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].apply(params, z)
    with pytest.raises(UserError, match=f"there are {K + 1}"):
        CALIBRATORS[name].fits(z.expand(3, -1, -1), y.expand(3, -1))


# ---- several sets together

STACKED = [name for name, calibrator in CALIBRATORS.items() if calibrator.fit_stack is not None]


def _together(name: str, sets: list[tuple[Tensor, Tensor]]) -> None:
    """Sets fitted together give what each gives alone: the same parameters' names and shapes, the same predictions."""
    Z, y = (torch.stack(parts) for parts in zip(*sets, strict=True))
    stack = CALIBRATORS[name].fits(Z, y)
    assert len(stack) == len(sets)
    for params, (z, labels) in zip(stack, sets, strict=True):
        alone = CALIBRATORS[name].fit(z, labels)
        assert {key: (v.shape, v.dtype) for key, v in params.items()} == {
            key: (v.shape, v.dtype) for key, v in alone.items()
        }
        torch.testing.assert_close(
            CALIBRATORS[name].apply(params, z), CALIBRATORS[name].apply(alone, z), rtol=1e-6, atol=1e-7
        )
        assert load(save(params)).keys() == alone.keys()


@pytest.mark.parametrize("K", [2, 3, 10])
@pytest.mark.parametrize("name", STACKED)
def test_awkward_sets_are_fitted_together_as_alone(name: str, K: int) -> None:
    K = classes(name, K)
    by_size: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for z, y in awkward(K).values():
        by_size.setdefault(len(z), []).append((z.double(), y))
    for sets in by_size.values():
        _together(name, sets)


@pytest.mark.parametrize(("N", "K"), [(2300, 10), (90, 13)])
@pytest.mark.parametrize("name", STACKED)
def test_larger_sets_are_fitted_together_as_alone(name: str, N: int, K: int) -> None:
    """From samples first, and more classes than have an exact metric."""
    K = classes(name, K)
    _together(name, [overconfident(N, K, seed=seed) for seed in range(3)])


@pytest.mark.parametrize("name", STACKED)
def test_one_bad_set_of_several_is_refused(name: str) -> None:
    z, y = overconfident(30, classes(name, 3))
    bad = z.clone()
    bad[4, 1] = math.nan
    with pytest.raises(UserError, match="NaN"):
        CALIBRATORS[name].fits(torch.stack([z, bad]), torch.stack([y, y]))
