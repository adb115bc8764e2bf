"""Claims of the literature: which rows answer them, and which verdicts their intervals give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from calib_bench.analysis import collapse
from calib_bench.analysis.findings import Evidence
from calib_bench.studies.separation import literature

GRID: Any = SimpleNamespace(reference=1.0, limit=None, seed=(0, 1, 2), select="log_loss", spaces={})
ARM = {
    "model": "mlp_8",
    "variant": None,
    "beta": 1.0,
    "objective": "label_smoothing:0.1",
    "tuning": "fixed",
    "seeds": 3,
}
REFERENCE = ARM | {"objective": "cross_entropy"}
EMPTY = {name: pd.DataFrame() for name in ("separation", "decisions", "repaired_sets", "best_epochs", "reversals")}


def change(column: str, low: float, high: float, p: float) -> dict[str, float]:
    return {column: (low + high) / 2, f"{column}_low": low, f"{column}_high": high, f"{column}_p": p}


def judged(**frames: list[dict[str, Any]]) -> pd.DataFrame:
    tables = EMPTY | {name: pd.DataFrame(rows) for name, rows in frames.items()}
    return pd.DataFrame(literature.rows(tables, GRID))


@pytest.mark.parametrize(
    ("low", "high", "p", "verdict"),
    [
        (0.02, 0.06, 0.001, "established"),
        (-0.06, -0.02, 0.001, "contradicted"),
        (-0.004, 0.006, 0.7, "equivalent within 0.01"),
        (-0.03, 0.05, 0.6, "inconclusive"),
        (0.02, 0.06, 0.04, "suggestive"),  # not after Holm's correction over both regularizers
        (-0.06, -0.02, 0.04, "suggestive, against it"),
    ],
)
def test_an_interval_decides_a_claim(low: float, high: float, p: float, verdict: str) -> None:
    other = ARM | {"objective": "confidence_penalty:0.1"} | change("log_loss_dyn", -0.1, 0.1, 0.9)
    frame = judged(separation=[ARM | change("log_loss_dyn", low, high, p), other])
    assert list(frame["verdict"]) == [verdict, "inconclusive"]
    assert list(frame["source"]) == ["Wang et al. (2021)"] * 2


def test_only_regularizers_alone_at_the_reference_beta_answer() -> None:
    apart = [{"beta": 10.0}, {"objective": "mixup:0.2"}, {"objective": "label_smoothing:0.1+mixup:0.2"}]
    rows = [ARM | other | change("log_loss_dyn", 0.02, 0.06, 0.001) for other in (*apart, {})]
    frame = judged(separation=rows)
    assert list(frame["objective"]) == ["label_smoothing:0.1"]


def test_selective_prediction_is_judged_raw_and_a_tuned_rate_leaves_it_open() -> None:
    row = ARM | change("augrc", 0.001, 0.003, 0.001)
    raw, repaired = row | {"method": "raw"}, row | {"method": "temperature_scaling"}
    assert list(judged(decisions=[raw, repaired])["verdict"]) == ["established"]
    assert list(judged(decisions=[raw | {"tuning": "tuned"}])["verdict"]) == ["not established"]


def test_the_end_of_refinement_and_reversals() -> None:
    reversals = [
        {"model": "mlp_8", "variant": None, "compared": 9, "evidence": str(word)}
        for word in (Evidence.INCONCLUSIVE, Evidence.ESTABLISHED, Evidence.ESTABLISHED)
    ]
    frame = judged(best_epochs=[REFERENCE | change("later", 2.0, 10.0, 0.01)], reversals=reversals)
    assert list(frame["verdict"]) == ["established", "established"]
    assert list(frame["change"]) == [6.0, 2]
    assert frame["quantity"].iloc[1] == "established reversals"
    collapsed = REFERENCE | {"two_kinds": "this arm"} | change("later", 2.0, 10.0, 0.01)
    assert list(judged(best_epochs=[collapsed])["verdict"]) == ["not established"]
    assert {"best_epochs", "repaired_sets"} <= set(collapse.ESTABLISHING)
    assert judged().empty


def test_sets_are_compared_before_and_after_temperature_scaling() -> None:
    generator = np.random.default_rng(0)
    before = torch.from_numpy(generator.integers(1, 4, (3, 200)).astype(np.float64))
    after = before + (torch.arange(200) % 5 == 0)
    sets = {"raw": dict.fromkeys(literature.ADAPTIVE_SETS, before)}
    sets["temperature_scaling"] = dict.fromkeys(literature.ADAPTIVE_SETS, after)
    arm = SimpleNamespace(trials={seed: SimpleNamespace(split=seed) for seed in range(3)})
    measures: Any = SimpleNamespace(seeds=[0, 1, 2], sets=sets, arm=arm, set_influences={})
    (row,) = literature.set_rows(measures, GRID, dict(REFERENCE), nested=False)
    assert row["aps_size"] == pytest.approx(0.2)
    assert 0.1 < row["aps_size_low"] < 0.2 < row["aps_size_high"] < 0.3
    assert set(judged(repaired_sets=[row])["verdict"]) == {"established"}
    assert literature.set_rows(measures, GRID, dict(ARM), nested=False) == []
