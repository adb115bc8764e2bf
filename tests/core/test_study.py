"""The study contract: what an analysis leaves for figures and exports."""

from dataclasses import dataclass

import pytest

from calib_bench.core.study import Analysis, StudyResult


@dataclass(frozen=True, kw_only=True)
class Curves(StudyResult):
    heights: tuple[float, ...]


def test_a_figure_reads_the_result_of_its_own_study_alone() -> None:
    analysis = Analysis((), {}, result=Curves(limit=8, heights=(1.0, 2.0)))
    assert Curves.of(analysis).heights == (1.0, 2.0)
    assert StudyResult.of(analysis).limit == 8
    with pytest.raises(TypeError, match="has a StudyResult, not a Curves"):
        Curves.of(Analysis((), {}))
