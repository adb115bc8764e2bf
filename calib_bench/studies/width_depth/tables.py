"""Tables of the best beta of each architecture, and the page's part on each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calib_bench.analysis import best_beta
from calib_bench.analysis.result_rows import cell
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.study import Analysis, Detail, Table

KEYS = ("model", "variant", "objective")
"""Columns that name an architecture."""
TABLES = {
    "best_beta": best_beta.TABLE,
    "trends": TableSpec(
        "How the best beta moves with width, depth and normalization",
        (
            "architectures that differ in that alone; slope: of log best beta over log width or log depth, and for "
            "norm the log of the ratio with normalization to without; {how}",
            f"{STAR} that it is 0, for each result",
        ),
        paper=True,
    ),
    "curves": TableSpec(
        "Every architecture over beta",
        ("{seeds}, test split; error: 1 - accuracy", "choices of rates and calibration examples are counted"),
    ),
}


def details(analysis: Analysis) -> list[Detail]:
    """Each architecture: its best betas, and its results over beta."""
    points = analysis.tables["curves"].frame.fillna({"variant": ""})
    title_keys = KEYS if points["objective"].nunique() > 1 else KEYS[:2]
    model_details = []
    for values, rows in points.groupby(list(KEYS), sort=False):
        name = dict(zip(KEYS, values, strict=True))
        parts = [f"{cell(row, 'best_beta')} by {row['result']}{best_beta.edge(row)}" for row in _best(analysis, name)]
        title = " ".join(str(name[key]) for key in title_keys if name[key])
        table = Table("Over beta, test split", rows[[c for c in rows if c not in KEYS]], names=("beta",))
        model_details.append(Detail(title, f"best beta {', '.join(parts)}" if parts else "", table=table))
    return model_details


def _best(analysis: Analysis, name: Mapping[str, str]) -> list[dict[Any, Any]]:
    """The best betas of one architecture, a row a result."""
    rows = analysis.tables["best_beta"].frame.to_dict("records") if "best_beta" in analysis.tables else []
    return [row for row in rows if all((row[key] or "") == value for key, value in name.items())]
