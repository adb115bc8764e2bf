"""A fit is applied to classes by their names, wherever new predictions have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import calib_bench
from calib_bench.cli import main
from calib_bench.errors import DataError
from calib_bench.evaluation.fits import load

NAMES = "abcd"


def table(path: Path, seed: int, order: str = NAMES, labelled: bool = True) -> pd.DataFrame:
    """Logits of four named classes, of which the first is predicted too often, columns in the order given."""
    rng = np.random.default_rng(seed)
    z_NK = 3 * rng.normal(size=(300, 4))
    z_NK[:, 0] += 2
    p_NK = np.exp(z_NK / 2) / np.exp(z_NK / 2).sum(1, keepdims=True)
    frame = pd.DataFrame({f"logit_{name}": z_NK[:, NAMES.index(name)] for name in order})
    if labelled:
        frame.insert(0, "label", [NAMES[rng.choice(4, p=p)] for p in p_NK])
    frame.to_csv(path, index=False)
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of one model, and the fits of an evaluation."""
    folder = tmp_path_factory.mktemp("named")
    table(folder / "cal.csv", 0)
    table(folder / "test.csv", 1)
    words = ["--calibration", str(folder / "cal.csv"), "--test", str(folder / "test.csv"), "--out", str(folder / "out")]
    assert main(["evaluate", *words, "calibrator=vector_scaling"]) == 0
    return folder


@pytest.mark.parametrize("labelled", [True, False])
def test_columns_in_another_order_give_the_same_probabilities(folder: Path, labelled: bool) -> None:
    results = []
    for order in (NAMES, "dbca"):
        new, out = folder / f"{order}.csv", folder / f"{order}-out.csv"
        table(new, 2, order, labelled)
        fits = f"{folder / 'out' / 'fits.safetensors'}:vector_scaling"
        assert main(["apply", fits, "--test", str(new), "--out", str(out)]) == 0
        results.append(pd.read_csv(out))
    assert list(results[0].columns) == ["label"] * labelled + [f"probability_{name}" for name in NAMES]
    pd.testing.assert_frame_equal(results[0], results[1], rtol=1e-12)


def test_a_data_frame_is_matched_too_and_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    fit = load(folder / "out" / "fits.safetensors", "vector_scaling")
    assert fit.class_names == tuple(NAMES)
    frame = table(tmp_path / "new.csv", 3, labelled=False)
    expected = fit.predict_proba(frame.to_numpy())
    np.testing.assert_allclose(fit.predict_proba(frame[list(reversed(frame.columns))]), expected, rtol=1e-12)
    np.testing.assert_allclose(fit.predict_proba(frame.rename(columns=lambda name: name[-1])), expected, rtol=1e-12)
    turned = frame[list(reversed(frame.columns))]
    for same in (turned.to_dict("records"), pa.Table.from_pandas(turned)):
        np.testing.assert_allclose(fit.predict_proba(same), expected, rtol=1e-12)
    with pytest.raises(DataError, match="'d'"):
        fit.predict_proba(frame.rename(columns={"logit_d": "logit_e"}))


def test_names_are_kept_by_a_file_and_written_into_npz(folder: Path, tmp_path: Path) -> None:
    frame = table(tmp_path / "cal.csv", 4)
    calib_bench.fit("temperature_scaling", frame, "label").save(tmp_path / "fit.safetensors")
    fit = calib_bench.load(tmp_path / "fit.safetensors")
    assert fit.class_names == tuple(NAMES)
    words = ["apply", str(tmp_path / "fit.safetensors"), "--test", str(folder / "test.csv"), "--out"]
    assert main([*words, str(tmp_path / "new.npz")]) == 0
    with np.load(tmp_path / "new.npz") as arrays:
        assert arrays["class_names"].tolist() == list(NAMES)
    assert main(["evaluate", "--test", str(tmp_path / "new.npz"), "--out", str(tmp_path / "again")]) == 0
