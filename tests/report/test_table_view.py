"""What a table shows is chosen once: names of rows, what is alike in all of them, what comes first."""

from __future__ import annotations

import pandas as pd
import pytest

from calib_bench.core.study import Table
from calib_bench.report.table_view import TableView

FRAME = pd.DataFrame(
    {
        "model": ["mlp", "mlp", "mlp"],
        "beta": [0.1, 1.0, 10.0],
        "seeds": [3.0, 3.0, None],
        "x": [1.0, 2.0, None],
        "x_low": [0.5, 1.5, None],
        "x_high": [1.5, 2.5, None],
        "x_holm": [0.01, 0.2, None],
        "empty": [None, None, None],
        "method": ["raw", "raw", "raw"],
    }
)


@pytest.fixture
def view() -> TableView:
    return TableView.of(Table("t", FRAME, "A note.", first=("x",)))


def test_limits_fold_into_their_column_and_empty_columns_go(view: TableView) -> None:
    assert view.shown == ("model", "beta", "seeds", "x", "method")
    assert view.naming == ("model", "beta", "method")
    (x,) = view.columns(["x"])
    first, second, last = x.estimates
    assert first is not None
    assert second is not None
    assert (first.low, first.high, first.is_significant, second.is_significant) == (0.5, 1.5, True, False)
    assert last is None or not last.is_bounded
    assert x.is_numeric
    assert not x.more_is_better


def test_a_missing_value_is_one_of_its_own_unless_told_otherwise(view: TableView) -> None:
    assert view.alike(["model", "seeds", "beta", "nowhere"]) == ["model"]
    alike = view.alike(["model", "seeds", "beta"], missing_counts=False)
    assert view.sentence(alike) == "model: mlp; seeds: 3."
    assert view.sentence([]) == ""
    assert view.with_rows(FRAME.head(1)).alike(["model"]) == []


def test_declared_columns_come_first_and_all_where_none_is_there(view: TableView) -> None:
    assert view.first(["beta", "x"]) == ["x"]
    assert view.first(["beta", "seeds"]) == ["beta", "seeds"]


def test_a_cut_view_says_so_and_keeps_what_names_its_rows(view: TableView) -> None:
    cut = view.head(2)
    assert cut.note == "A note. The first 2 of 3 rows."
    assert len(cut.frame) == 2
    assert cut.naming == view.naming
    assert view.head(3) is view
