"""The separation study's figure of decisions, from small tables."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest

from calib_bench.core.study import Analysis, Table
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.studies.separation import decisions
from calib_bench.studies.separation.study import STUDY

METHODS = ("raw", "temperature_scaling")
SMOOTHED = "label_smoothing:0.1"
ARMS = ((0.1, CROSS_ENTROPY), (10.0, CROSS_ENTROPY), (1.0, SMOOTHED), (10.0, SMOOTHED))


def rows(model: str, tuning: str = "tuned") -> list[dict[str, Any]]:
    """Each arm's change of every metric, another number each, with limits 1 below and 2 above it."""
    made = []
    for k, ((beta, objective), method) in enumerate(product(ARMS, METHODS)):
        row: dict[str, Any] = {"model": model, "beta": beta, "objective": objective, "tuning": tuning, "method": method}
        for i, metric in enumerate(decisions.PANELS):
            row |= {metric: 10.0 * i + k, f"{metric}_low": 10.0 * i + k - 1, f"{metric}_high": 10.0 * i + k + 2}
        made.append(row)
    return made


def drawn(frame: pd.DataFrame) -> Any:
    figure = decisions.figure(Analysis((), {"decisions": Table("", frame, "")}))
    assert figure is not None
    return figure


def test_each_panel_shows_its_column_with_its_limits_and_the_reference_at_zero() -> None:
    frame = pd.DataFrame(rows("mlp_8"))
    figure = drawn(frame)
    for axis, (metric, label) in zip(figure.axes, decisions.PANELS.items(), strict=True):
        assert label in axis.get_ylabel()
        lines = [line for line in axis.get_lines() if line.get_marker() == "o"]
        assert [(line.get_color(), line.get_linestyle()) for line in lines] == [
            ("C0", "--"), ("C0", "-"), ("C1", "--"), ("C1", "-"),
        ]  # fmt: skip
        for line, (objective, method) in zip(lines, product((CROSS_ENTROPY, SMOOTHED), METHODS), strict=True):
            series = frame[(frame["objective"] == objective) & (frame["method"] == method)].set_index("beta")[metric]
            zero = {1.0: 0.0} if objective == CROSS_ENTROPY else {}
            assert list(line.get_ydata()) == [value for _, value in sorted({**series.to_dict(), **zero}.items())]
        bars = [segment for bar in axis.collections for segment in bar.get_segments() if len(segment)]
        assert [np.ptp(segment[:, 1]) for segment in bars] == pytest.approx([3.0] * len(frame))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        CROSS_ENTROPY, SMOOTHED, "raw", "after temperature scaling",
    ]  # fmt: skip


def test_every_family_has_its_panels_and_untuned_rates_are_marked() -> None:
    frame = pd.DataFrame([*rows("mlp_8"), *rows("mlp_16")])
    frame.loc[(frame["model"] == "mlp_16") & (frame["beta"] == frame["beta"].max()), "tuning"] = "fixed"
    figure = drawn(frame)
    assert len(figure.axes) == 2 * len(decisions.PANELS)
    assert [axis.get_title("left") for axis in figure.axes if axis.get_title("left")] == ["mlp_8", "mlp_16"]
    assert figure.legends[0].get_texts()[-1].get_text() == "rate not tuned, or at an edge"
    assert len(drawn(frame[frame["beta"] != 1]).axes) == len(figure.axes)


def test_seeds_alone_have_no_limits_and_no_table_has_no_figure() -> None:
    frame = pd.DataFrame(rows("mlp_8"))
    assert not drawn(frame[[c for c in frame if not c.endswith(("_low", "_high"))]]).axes[0].collections
    assert decisions.figure(Analysis((), {})) is None
    assert STUDY.figures["decisions"] is decisions.figure
