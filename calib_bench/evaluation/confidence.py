"""Confidence and correctness alone, two columns: a problem of two classes, a wrong answer (0) and a right one (1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from calib_bench.evaluation import Array
from calib_bench.evaluation.class_names import class_of
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import (
    CONFIDENCE,
    CORRECT,
    kind_of,
    letters,
    names_rows,
    not_used,
    says_something_else,
)
from calib_bench.metrics import measure_confidence

KIND = "confidence"
"""The kind of such predictions, which no user can give: the names of both columns say it."""
CLASSES = ("wrong", "right")


@dataclass(frozen=True)
class ConfidenceAlone:
    """Confidences [N] and whether the answers were right [N]; what names the rows, and what a reader should know."""

    pair: tuple[Array, Array]
    notes: tuple[str, ...] = ()
    ids: Mapping[str, Array] = field(default_factory=dict)


def confidence_of(arrays: Mapping[str, Array], origin: str, label: str | None = None) -> ConfidenceAlone | None:
    """The two columns, where a file has both and nothing that says the probability of a class; else None.

    Args:
        label: the name of the labels that the user gives.

    Raises:
        DataError: what says whether answers were right holds something else.
    """
    confidence, correct = (_named(arrays, names) for names in (CONFIDENCE, CORRECT))
    others = [name for name in arrays if name not in (confidence, correct)]
    if not (correct and is_alone(arrays)) or any(_may_be_class(name, arrays[name]) for name in others):
        return None
    if label not in (None, correct):
        return None
    right = arrays[correct]
    if not _are_outcomes(right):
        raise Refusal.NOT_CORRECT.of(origin, name=correct)
    ids = {name: arrays[name] for name in filter(names_rows, others)}
    return ConfidenceAlone((arrays[confidence], right), tuple(not_used([*filter(_is_unused, others)])), ids)


def _is_unused(name: str) -> bool:
    return not names_rows(name)


def is_alone(arrays: Iterable[str]) -> bool:
    """Whether arrays are a confidence and nothing that says the probability of a class, by their names."""
    names = list(arrays)
    return bool(_named(names, CONFIDENCE)) and not any(map(_of_classes, names))


def _named(arrays: Iterable[str], names: Iterable[str]) -> str:
    """The first array of some names; empty where there is none."""
    return next((name for name in arrays if letters(name) in names), "")


def _may_be_class(name: str, values: Array) -> bool:
    """Whether a column of fractions may be a class's, by a name of the user's own."""
    return values.dtype.kind == "f" and not says_something_else(name)


def _are_outcomes(right: Array) -> bool:
    return right.dtype.kind in "biuf" and set(np.unique(right).tolist()) <= {0, 1}


def _of_classes(name: str) -> bool:
    """Whether a name says that it holds predictions of classes."""
    return kind_of(name) is not None or class_of(name) is not None


def measure_alone(logp_N2: Tensor, right_N: Tensor, bins: int) -> dict[str, Tensor]:
    """Every metric that needs a confidence alone, and its Brier score, mean (c - right)^2, of log probabilities [N, 2].

    Args:
        right_N: [N], 1 where the answer was right.
    """
    c_N, right = logp_N2[:, 1].double().exp(), right_N.double()
    brier_n = (c_N - right).square()
    return {**measure_confidence(c_N, right, bins), "brier": brier_n.mean(), "brier_n": brier_n}
