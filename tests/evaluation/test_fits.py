"""Fitted calibrators taken home: the same numbers from memory, a file, a module and an exported graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from scipy.optimize import minimize_scalar
from torch import nn

import calib_bench
from calib_bench import registry
from calib_bench.errors import DataError, SettingsError, UserError
from calib_bench.evaluation import fits

STEPS = ("bbq", "histogram_binning", "isotonic", "isotonic_multiclass", "venn_abers")
"""Calibrators that look values up in a table, and cannot be exported."""
RNG = np.random.default_rng(0)


def data(K: int, N: int = 300) -> tuple[np.ndarray, np.ndarray]:
    z = 3 * RNG.normal(size=(N, K))
    p = np.exp(z / 2) / np.exp(z / 2).sum(1, keepdims=True)
    return z, np.array([RNG.choice(K, p=row) for row in p])


DATA = {K: data(K) for K in (2, 3)}


@pytest.mark.parametrize("method", sorted(registry.calibrators()))
def test_memory_file_and_module_give_the_same_probabilities(method: str, tmp_path: Path) -> None:
    K = registry.calibrators()[method].classes or 3
    z, y = DATA[K]
    fit = calib_bench.fit(method, z, y, beta=0.5)
    calibrator = registry.calibrators()[method]
    Z = torch.from_numpy(0.5 * z)
    expected = calibrator.apply(calibrator.fit(Z, torch.from_numpy(y)), Z).exp().numpy()
    assert np.allclose(fit.predict_proba(z), expected, atol=1e-12)
    fit.save(tmp_path / "fit.safetensors")
    again = calib_bench.load(tmp_path / "fit.safetensors")
    assert np.array_equal(again.predict_proba(z), fit.predict_proba(z))
    assert np.allclose(np.exp(again.log_proba(z)), expected, atol=1e-12)
    assert {key: value for key, value in vars(again).items() if key != "params"} == {
        key: value for key, value in vars(fit).items() if key != "params"
    }
    module = again.to_module()
    assert np.allclose(module(torch.from_numpy(z)).exp().numpy(), expected, atol=1e-12)
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "fit.safetensors").read_bytes()


def test_a_temperature_is_the_optimum_of_an_independent_search() -> None:
    z, y = DATA[3]

    def loss(T: float) -> float:
        scaled = z / T
        return float(np.mean(np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(y)), y]))

    best = minimize_scalar(loss, bounds=(0.5, 10), method="bounded", options={"xatol": 1e-9}).x
    fit = calib_bench.fit("temperature_scaling", z, y)
    assert float(fit.params["temperature"]) == pytest.approx(best, rel=1e-5)
    assert fit.beta == 1
    assert fit.examples == 300
    assert fit.digest == fits.digest_of(torch.from_numpy(z), torch.from_numpy(y))
    assert fit.digest != calib_bench.fit("temperature_scaling", z, (y + 1) % 3).digest


SOAK = [
    pytest.param(name, one.classes or K, marks=pytest.mark.soak)
    for name, one in registry.calibrators().items()
    for K in (2, 3)
    if name not in STEPS
]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "K"), [("structured_vector_scaling", 3), ("beta_calibration", 2), *SOAK])
def test_an_exported_model_gives_what_the_fit_gives(method: str, K: int, tmp_path: Path) -> None:
    z, y = DATA[K]
    net = nn.Linear(5, K).double()
    x = torch.randn(200, 5, dtype=torch.float64)
    fit = calib_bench.fit(method, z, y, beta=2.0)
    dynamic = {"inputs": ({0: torch.export.Dim("n")},)}
    graph = torch.export.export(fit.to_module(net), (x,), dynamic_shapes=dynamic)
    torch.export.save(graph, tmp_path / "model.pt2")
    few = x[:7]
    out = torch.export.load(tmp_path / "model.pt2").module()(few).exp()
    assert torch.allclose(out, fit.predict_proba(net(few).detach()), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["isotonic", *(pytest.param(name, marks=pytest.mark.soak) for name in STEPS)])
def test_what_cannot_be_exported_says_so(method: str) -> None:
    z, y = DATA[3]
    with pytest.raises(Exception, match=f"{method} cannot be exported"):
        torch.export.export(calib_bench.fit(method, z, y).to_module(), (torch.from_numpy(z),))


def test_what_comes_in_decides_what_comes_out() -> None:
    z, y = DATA[3]
    fit = calib_bench.fit("temperature_scaling", torch.from_numpy(z).float(), torch.from_numpy(y))
    of_tensor = fit.predict_proba(torch.from_numpy(z).float())
    assert isinstance(of_tensor, torch.Tensor)
    of_array = fit.predict_proba(z.astype(np.float32))
    assert isinstance(of_array, np.ndarray)
    assert np.allclose(of_tensor.numpy(), of_array)
    assert np.allclose(fit.predict_proba(pd.DataFrame(z)), fit.predict_proba(z.tolist()))
    out = fit.to_module()(torch.from_numpy(z).float())
    assert out.dtype == torch.float32


def test_probabilities_margins_and_logits_of_two_classes_agree() -> None:
    z, y = DATA[2]
    margin = z[:, 1] - z[:, 0]
    p = 1 / (1 + np.exp(-margin))
    of_logits = calib_bench.fit("temperature_scaling", z, y).predict_proba(z)
    for values, kind in ((margin, "logits"), (margin, "scores"), (p, "probabilities")):
        assert np.allclose(
            calib_bench.fit("temperature_scaling", values, y, kind=kind).predict_proba(values), of_logits
        )
    matrix = calib_bench.fit("matrix_scaling", z, y)
    probabilities = fits.unlabelled(p, "probabilities", "new.npz")
    with pytest.raises(DataError, match="depends on a constant per row"):
        matrix.log_proba_of(probabilities)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    z, y = DATA[3]
    fit = calib_bench.fit("temperature_scaling", z, y)
    with pytest.raises(DataError, match="2 classes, and temperature_scaling was fitted to 3"):
        fit.predict_proba(z[:, :2])
    with pytest.raises(DataError, match="shape"):
        fit.predict_proba(z[None])
    with pytest.raises(DataError, match="NaN"):
        fit.predict_proba(np.full((2, 3), np.nan))
    with pytest.raises(DataError, match="299 labels for 300 rows"):
        calib_bench.fit("temperature_scaling", z, y[1:])
    with pytest.raises(SettingsError, match="temperature_scaling"):
        calib_bench.fit("temperatur_scaling", z, y)
    with pytest.raises(SettingsError, match="beta"):
        calib_bench.fit("temperature_scaling", z, y, beta=0)
    with pytest.raises(SettingsError, match="did you mean 'logits'"):
        calib_bench.fit("temperature_scaling", z, y, kind="logit")
    with pytest.raises(SettingsError, match="not behind int"):
        fit.to_module(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="fitted to 3 classes, and there are 2"):
        fit.to_module()(torch.from_numpy(z[:, :2]))
    with pytest.raises(UserError, match="the model gives a tuple: put a module between"):
        fit.to_module(torch.nn.LSTM(3, 3))(torch.from_numpy(z).float())
    with pytest.raises(UserError, match="is for two classes"):
        calib_bench.fit("quadratic_scaling", z, y)
    with pytest.raises(DataError, match="one model"):
        calib_bench.fit("temperature_scaling", np.stack([z, z]), y)


def test_probabilities_where_logits_were_fitted_are_warned_of(tmp_path: Path) -> None:
    z, y = DATA[3]
    fit = calib_bench.fit("vector_scaling", z, y)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    with pytest.warns(UserWarning, match="these look like probabilities") as caught:
        fit.predict_proba(p)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit.predict_proba(z)
        fit.predict_proba(p[:1])
        calib_bench.fit("vector_scaling", p, y, kind="probabilities").predict_proba(p)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    z, y = DATA[3]
    foreign = tmp_path / "foreign.safetensors"
    with pytest.raises(DataError, match="does not exist"):
        calib_bench.load(foreign)
    safetensors.torch.save_file({"w": torch.zeros(2)}, foreign)
    with pytest.raises(DataError, match="not a file of fits"):
        calib_bench.load(foreign)
    foreign.write_bytes(b"text")
    with pytest.raises(DataError, match="not a file of fits"):
        calib_bench.load(foreign)
    safetensors.torch.save_file({}, foreign, {fits.FORMAT: '[{"name": "a", "classes": 3}]'})
    with pytest.raises(DataError, match="damaged"):
        calib_bench.load(foreign)
    both = {name: calib_bench.fit(name, z, y) for name in ("temperature_scaling", "platt_scaling")}
    fits.save(both, tmp_path / "fits.safetensors")
    with pytest.raises(SettingsError, match="name one of temperature_scaling, platt_scaling"):
        calib_bench.load(tmp_path / "fits.safetensors")
    with pytest.raises(SettingsError, match="did you mean 'platt_scaling'"):
        calib_bench.load(tmp_path / "fits.safetensors", "plat_scaling")
    assert calib_bench.load(tmp_path / "fits.safetensors", "platt_scaling").method == "platt_scaling"
