"""What the study of tuning beta leaves for its figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calib_bench.core.study import StudyResult
from calib_bench.studies.tune.searches import Pair


@dataclass(frozen=True, kw_only=True)
class TuneResult(StudyResult):
    """What figures of the study of tuning beta read, see `StudyResult`.

    Attributes:
        pairs: the pairs of searches.
    """

    pairs: Sequence[Pair]
