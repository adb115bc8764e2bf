"""`evaluate` keeps its fits, and `apply` maps new predictions by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import make

import calib_bench
from calib_bench.cli import main
from calib_bench.evaluation.predictions import read_trial

RNG = np.random.default_rng(0)
Z = 3 * RNG.normal(size=(900, 3))
Y = np.array([RNG.choice(3, p=np.exp(z / 2) / np.exp(z / 2).sum()) for z in Z])
CHEAP = "calibrator=temperature_scaling,isotonic"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("cal.npz", logits=Z[:300], labels=Y[:300])
    np.savez("test.npz", logits=Z[300:600], labels=Y[300:600])
    np.savez("new.npz", logits=Z[600:])
    pd.DataFrame(Z[600:], columns=["logit_0", "logit_1", "logit_2"]).to_csv("new.csv", index=False)
    return tmp_path


def test_new_predictions_are_mapped_by_the_fits_of_an_evaluation(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--calibration", "cal.npz", "--test", "test.npz", CHEAP, "out=result"]) == 0
    losses = calib_bench.load_results("result", "metrics").set_index("method")["log_loss"]
    for method in ("temperature_scaling", "isotonic"):
        assert main(["apply", f"result/fits.safetensors:{method}", "test=test.npz", "out=judged.npz"]) == 0
        judged = np.load("judged.npz")
        assert np.array_equal(judged["labels"], Y[300:600])
        loss = -np.log(judged["probabilities"][np.arange(300), Y[300:600]]).mean()
        assert loss == pytest.approx(losses[method])
        by_hand = calib_bench.fit(method, Z[:300], Y[:300])
        assert calib_bench.load("result/fits.safetensors", method).digest == by_hand.digest
        assert main(["apply", f"result/fits.safetensors:{method}", "test=new.npz"]) == 0
        assert main(["apply", f"result/fits.safetensors:{method}", "test=new.csv", "out=new-out.csv"]) == 0
        p = np.load("new-calibrated.npz")["probabilities"]
        assert np.allclose(p, by_hand.predict_proba(Z[600:]))
        assert np.allclose(p, pd.read_csv("new-out.csv").to_numpy())
    assert "300 rows by isotonic, fitted to 300 examples" in capsys.readouterr().out


def test_ids_are_kept_and_an_empty_column_of_labels_is_none(folder: Path) -> None:
    calib_bench.fit("temperature_scaling", Z[:300], Y[:300]).save("fit.safetensors")
    columns = {f"logit_{k}": Z[:4, k] for k in range(3)}
    pd.DataFrame({"id": list("abcd"), **columns, "label": ""}).to_csv("rows.csv", index=False)
    for out in ("out.csv", "out.npz"):
        assert main(["apply", "fit.safetensors", "test=rows.csv", f"out={out}"]) == 0
    assert [*pd.read_csv("out.csv").columns[:2]] == ["id", "probability_0"]
    assert np.load("out.npz")["ids"].tolist() == [*"abcd"]


def test_probabilities_are_noted_where_logits_were_fitted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calib_bench.fit("vector_scaling", Z[:300], Y[:300]).save("fit.safetensors")
    P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    for values, noted in ((P, True), (Z, False)):
        np.savez("mine.npz", logits=values)
        assert main(["apply", "fit.safetensors", "test=mine.npz"]) == 0
        assert capsys.readouterr().err.startswith("note: mine: vector_scaling was fitted to logits") == noted


def test_several_models_have_fits_of_their_own(folder: Path) -> None:
    for seed in (0, 1):
        np.savez(f"seed{seed}_cal.npz", logits=(1 + seed) * Z[:300], labels=Y[:300])
        np.savez(f"seed{seed}_test.npz", logits=(1 + seed) * Z[300:600], labels=Y[300:600])
    words = ["--calibration", "seed*_cal.npz", "--test", "seed*_test.npz", "calibrator=temperature_scaling"]
    assert main(["evaluate", *words, "out=result"]) == 0
    names = [f"temperature_scaling/seed{seed}_test" for seed in (0, 1)]
    one, two = (float(calib_bench.load("result/fits.safetensors", name).params["temperature"]) for name in names)
    assert two == pytest.approx(2 * one)


def test_a_stored_trial_is_fitted_there_and_then(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = make(folder / "run", "beta=0.3", "seed=0", "calibrator=temperature_scaling")
    key = next((folder / "run" / "trials").iterdir()).name
    calibration, test = (read_trial(store, key, split) for split in ("calibration", "test"))
    by_hand = calib_bench.fit("temperature_scaling", calibration.Z_NK / 0.3, calibration.y_N, beta=0.3)
    new = test.Z_NK / 0.3
    np.savez("raw.npz", logits=new.numpy())
    np.savez("times_beta.npz", logits=0.3 * new.numpy())
    word = f"run:{key}:temperature_scaling"
    assert main(["apply", word, "test=raw.npz", "raw=yes", "save=home.safetensors", "out=a.npz"]) == 0
    assert main(["apply", word, "test=times_beta.npz", "out=b.npz"]) == 0
    assert "taken to be multiplied by beta=0.3" in capsys.readouterr().out
    expected = by_hand.predict_proba(new).numpy()
    for out in ("a.npz", "b.npz"):
        assert np.allclose(np.load(out)["probabilities"], expected)
    home = calib_bench.load("home.safetensors")
    assert home.beta == 0.3
    assert torch.allclose(home.to_module()(new).exp(), torch.from_numpy(expected))
    assert main(["apply", f"run:{key}", "test=raw.npz"]) == 2
    assert f"run:{key}:temperature_scaling" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cal.npz", "test=new.npz"], "not a file of fits"),
        (["nowhere.safetensors", "test=new.npz"], "names no fits"),
        (["fit.safetensors"], "--test FILE"),
        (["fit.safetensors", "test=new.txt"], "new.txt does not exist"),
        (["fit.safetensors", "test=new.npz", "out=p.pkl"], ".npz nor .csv"),
        (["fit.safetensors:isotonic", "test=new.npz"], "no fit 'isotonic'"),
        (["fit.safetensors", "test=two.npz"], "predictions of 2 classes"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    calib_bench.fit("temperature_scaling", Z[:300], Y[:300]).save("fit.safetensors")
    np.savez("two.npz", logits=Z[:, :2])
    assert main(["apply", *words]) == 2
    assert message in capsys.readouterr().err
