"""What the study of learning rates leaves for its figures."""

from __future__ import annotations

from dataclasses import dataclass

from calib_bench.core.study import StudyResult
from calib_bench.studies.learning_rate.phase import Phase


@dataclass(frozen=True, kw_only=True)
class LearningRateResult(StudyResult):
    """What figures of the study of learning rates read, see `StudyResult`.

    Attributes:
        phases: the planes of beta and rate.
        cap: the score of guessing, where colours end.
    """

    phases: list[Phase]
    cap: float
