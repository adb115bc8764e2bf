"""Models to evaluate: test predictions paired with calibration predictions, and what a calibrator makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from calib_bench.analysis.fitting import calibrate
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.errors import SettingsError
from calib_bench.evaluation.censored import Zeros, filled, joint_zeros, share_of
from calib_bench.evaluation.matching import match, paired, same_classes, same_rows
from calib_bench.evaluation.predictions import Predictions
from calib_bench.evaluation.refusals import Refusal
from calib_bench.inference import collapsed

FOLDS = "--cross-fit {folds} is out of range for {N:,} examples: give 2 folds or more, with 2 examples or more in each"


@dataclass(frozen=True)
class Model:
    """One seed: what it predicts on the test examples and, where there is one, on a calibration set."""

    test: Predictions
    calibration: Predictions | None = None

    @property
    def sets(self) -> dict[str, Predictions]:
        """The sets of predictions by their role, "test" and, where there is one, "calibration"."""
        return {"test": self.test} | ({} if self.calibration is None else {"calibration": self.calibration})

    @property
    def to_fit(self) -> Predictions:
        """The set that calibrators are fitted to: the calibration set or, without one, the test set, by folds."""
        return self.test if self.calibration is None else self.calibration

    @property
    def exact(self) -> bool:
        """Whether calibrators see the model's own logits; else they see log probabilities."""
        return all(predictions.exact for predictions in self.sets.values())

    @cached_property
    def zeros(self) -> Zeros | None:
        """The probabilities of zero in its files that stand for numbers below the last digit kept; None without any."""
        return joint_zeros(self.test.zeros, self.calibration.zeros if self.calibration is not None else None)

    @cached_property
    def shares(self) -> dict[tuple[int, ...], float]:
        """The shares of the last digit that stood for zeros, by the rows that they were found from."""
        return {}

    def share(self, rows: Tensor | None = None) -> float:
        """The share of the last digit that stands for a zero, found on the calibration set, or on some test rows."""
        assert self.zeros is not None
        key = () if rows is None else tuple(rows.nonzero()[:, 0].tolist())
        if key not in self.shares:
            Z_NK, y_N = self.to_fit.Z_NK, self.to_fit.y_N
            if rows is not None:
                Z_NK, y_N = Z_NK[rows], y_N[rows]
            self.shares[key] = share_of(Z_NK, y_N, self.zeros)
        return self.shares[key]


def pair_up(tests: Sequence[Predictions], calibrations: Sequence[Predictions]) -> list[Model]:
    """Models by seed, in order: calibration sets by the seeds in their names, classes by theirs, rows by their ids.

    Raises:
        DataError: counts, numbers or names of classes, or seeds differ, a calibration file is its test file, or two
            files hold the same predictions.
    """
    if calibrations:
        calibrations = paired(tests, calibrations, ("the test set", "the calibration set"))
    tests, calibrations = distinct(tests), distinct(calibrations)
    if calibrations and len(calibrations) != len(tests):
        raise Refusal.FILE_COUNT.of("", tests=len(tests), calibrations=len(calibrations))
    refuse_other_classes((*tests, *calibrations))
    _refuse_mixed((*tests, *calibrations))
    first = next((p for p in (*tests, *calibrations) if p.classes is not None), tests[0])
    tests, calibrations = (_like_first([same_classes(first, p) for p in each]) for each in (tests, calibrations))
    _refuse_twins(tests)
    if not calibrations:
        return [*map(Model, tests)]
    for test, calibration in zip(tests, calibrations, strict=True):
        _refuse_copy(test, calibration)
    return [*map(Model, tests, calibrations)]


def _refuse_twins(tests: Sequence[Predictions]) -> None:
    """Raises DataError where two files hold the same predictions, which no two trainings give."""
    by_edges: dict[tuple[float, ...], Predictions] = {}
    for test in (test for test in tests if test.file):
        edges = (*test.Z_NK[0].tolist(), *test.Z_NK[-1].tolist())
        twin = by_edges.setdefault(edges, test)
        if twin is not test and torch.equal(twin.Z_NK, test.Z_NK) and torch.equal(twin.y_N, test.y_N):
            raise Refusal.TWINS.of(test.name, twin=twin.name)


def _refuse_mixed(predictions: Sequence[Predictions]) -> None:
    """Raises DataError where predictions of classes stand beside confidences alone."""
    alone = [p.name for p in predictions if p.alone]
    of_classes = [p.name for p in predictions if not p.alone]
    if alone and of_classes:
        raise Refusal.CONFIDENCE_MIXED.of("", one=alone[0], other=of_classes[0])


def _like_first(predictions: Sequence[Predictions]) -> list[Predictions]:
    """The predictions, their rows in the order of the first's."""
    return [*predictions[:1], *(same_rows(predictions[0], other) for other in predictions[1:])]


def refuse_other_classes(predictions: Sequence[Predictions]) -> None:
    """Raises DataError where predictions differ in their number of classes."""
    if len({p.Z_NK.shape[1] for p in predictions}) > 1:
        raise Refusal.CLASS_COUNTS.of("", counts=", ".join(f"{p.name}: {p.Z_NK.shape[1]}" for p in predictions))


def distinct(predictions: Sequence[Predictions]) -> list[Predictions]:
    """The predictions, those of the same name told apart by their folders."""
    times = Counter(p.name for p in predictions)
    folders = [Path(p.file).parent.name for p in predictions]
    return [
        replace(p, name=f"{folder}/{p.name}") if times[p.name] > 1 and folder else p
        for p, folder in zip(predictions, folders, strict=True)
    ]


def aligned(a: Sequence[Model], b: Sequence[Model]) -> list[Model]:
    """The models of b as those of a stand: by the seeds in their names, classes by theirs, rows by their ids.

    Raises:
        DataError: seeds, classes or ids differ.
    """
    if len(a) == len(b) > 1:
        tests = paired([m.test for m in a], [m.test for m in b], ("A", "B"))
        b = [next(m for m in b if m.test is test) for test in tests]
    matched = [_as_it_stands(one, other) for one, other in zip(a, b, strict=False)]
    return [*matched, *b[len(matched) :]]


def _as_it_stands(one: Model, other: Model) -> Model:
    """The model `other` with its classes and rows in the order of those of `one`.

    Raises:
        DataError: they have other classes or test examples.
    """
    test = same_classes(one.test, other.test)
    row_match = match(one.test, test)
    if row_match.kind == "other":
        raise Refusal.OTHER_EXAMPLES.of(other.test.name, one=one.test.name, reason=row_match.reason)
    calibration = other.calibration
    if calibration is not None:
        calibration = same_classes(one.test, calibration)
    if calibration is not None and one.calibration is not None:
        calibration = same_rows(one.calibration, calibration)
    return Model(same_rows(one.test, test), calibration)


def shared_rows(model: Model) -> int:
    """How many calibration rows, label and all numbers, are rows of the test set, if more than would be by chance.

    Numbers that were written with fewer digits, or as another type, are compared as logits less their largest to four
    decimals, or two, as long as not one test row in a hundred is then like another.

    Coarse numbers repeat by chance: a test row then has twins in the test set too. That rate r is expected between
    the sets, and only a count above n r + 3 sqrt(n r), n the calibration rows, is returned; else 0.
    """
    if model.calibration is None:
        return 0
    n = len(model.calibration.y_N)
    N, K = model.test.Z_NK.shape
    for digits in (None, *DIGITS) if K > 2 or N <= MOST_OF_TWO else (None,):
        shared, r = _shared_rows(model, model.calibration, digits)
        is_telling = digits is None or (r <= RARE and shared > RARE * n)
        if is_telling and shared > n * r + 3 * math.sqrt(n * r):
            return shared
    return 0


def _shared_rows(model: Model, calibration: Predictions, digits: int | None) -> tuple[int, float]:
    """How many calibration rows are rows of the test set, and what share of those is like another row of it.

    Args:
        digits: to which numbers less the largest of their row are rounded; None to take them as they are.
    """
    stride = -(-model.test.Z_NK.shape[1] // GLANCE)
    test_glances = _row_hashes(model.test, digits, stride)
    calibration_glances = _row_hashes(calibration, digits, stride)
    times = Counter([*test_glances, *set(calibration_glances)])
    alike = [row for row, glance in enumerate(test_glances) if times[glance] > 1]
    in_test = set(test_glances)
    likewise = [row for row, glance in enumerate(calibration_glances) if glance in in_test]
    times = Counter(_row_hashes(model.test, digits, rows=alike))
    shared = sum(row in times for row in _row_hashes(calibration, digits, rows=likewise))
    return shared, sum(count for count in times.values() if count > 1) / len(test_glances)


def repeated_rows(predictions: Predictions) -> int:
    """How many rows are like another one in every logit and the label, if more than a few.

    Only of logits of three classes or more: coarse numbers, and probabilities of 1, are alike by chance.
    """
    N, K = predictions.Z_NK.shape
    if not predictions.exact or K == 2:
        return 0
    _, share = _shared_rows(Model(predictions), predictions, None)
    return round(share * N) if share > RARE else 0


def named_twice(predictions: Predictions) -> tuple[str, int]:
    """What names some rows twice, always with one label, and how many rows it does; none where it is a few at most.

    So are several views of one example named. A name with two labels is of something else, as of a person or a fold.
    """
    y = predictions.y_N.tolist()
    rows = {column: _twice(values.tolist(), y) for column, values in predictions.ids.items()}
    return next(((column, number) for column, number in rows.items() if number > RARE * len(y)), ("", 0))


def _twice(names: list[object], y: list[int]) -> int:
    """How many rows share their name with another, if a name has one label and there are more names than labels."""
    times = Counter(names)
    are_of_examples = len(times) == len({*zip(names, y, strict=True)}) > len({*y})
    return are_of_examples * sum(count for count in times.values() if count > 1)


DIGITS = (4, 2)
MOST_OF_TWO = 10_000
"""Rows of two classes, one number each, of which so few digits can tell one from another."""
RARE = 0.01
"""Test rows that may be like another one to so few digits, and calibration rows that must be more than by chance."""
GLANCE = 16
"""Numbers of a row that are looked at first: only rows in which these and the label agree are compared as a whole."""
LEAST = -1e6
"""What stands for -inf where numbers are subtracted."""


def _row_hashes(
    predictions: Predictions, digits: int | None, stride: int = 1, rows: Sequence[int] | None = None
) -> list[int]:
    """A hash of the numbers and label of each row, or each of some, in memory far below that of the rows.

    Args:
        digits: as in `_shared_rows`.
        stride: every so many numbers of a row are hashed.
    """
    Z_NK, y_N = predictions.Z_NK[:, ::stride], predictions.y_N
    rows = range(len(y_N)) if rows is None else rows
    hashes: list[int] = []
    for start in range(0, len(rows), 1000):
        Z, y = (part[list(rows[start : start + 1000])].numpy() for part in (Z_NK, y_N))
        Z = Z.astype(np.float64)
        if digits is not None:
            Z = np.round(np.maximum(Z, LEAST) - np.maximum(Z.max(1, keepdims=True), LEAST), digits)
        hashes += [hash(row.tobytes()) for row in np.column_stack([Z, y]) + 0.0]  # -0 is 0
    return hashes


def have_own_tests(models: Sequence[Model]) -> bool:
    """Whether seeds have test examples of their own, as labels and ids tell."""
    first = models[0].test
    return any(
        m.test.y_N.shape != first.y_N.shape
        or bool((m.test.y_N != first.y_N).any())
        or match(first, m.test).kind == "other"
        for m in models[1:]
    )


def calibrated(model: Model, calibrator: Calibrator | None, folds: int = 0, seed: int = 0) -> tuple[Tensor, Params]:
    """Log probabilities [N, K] of the test examples, and the parameters where one fit made them.

    Args:
        calibrator: None for the model's own.
        folds: without a calibration set, fit on all folds but one and apply to that one, in turn.

    Raises:
        UserError: the calibrator is not for such predictions, or, as CalibratorError, failed.
    """
    y_N = model.test.y_N
    if calibrator is None:
        return model.test.Z_NK.double().log_softmax(-1), {}
    if model.calibration is not None:
        return calibrate(calibrator, *calibration_set(model), calibrator_input(model, model.test))
    fold_N = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(seed)) % folds
    logp_NK = torch.empty(model.test.Z_NK.shape, dtype=torch.float64)
    for fold in range(folds):
        out = fold_N == fold
        Z_NK = calibrator_input(model, model.test, ~out)
        logp_NK[out] = calibrate(calibrator, *_offering(Z_NK[~out], y_N[~out]), Z_NK[out])[0]
    return logp_NK, {}


def calibration_predictions(model: Model, calibrator: Calibrator | None) -> tuple[Tensor, Tensor]:
    """Log probabilities [M, K] of all calibration examples, fitted to those whose label is offered, and their labels.

    Args:
        calibrator: None for the model's own.
    """
    assert model.calibration is not None
    y_M = model.calibration.y_N
    if calibrator is None:
        return model.calibration.Z_NK.double().log_softmax(-1), y_M
    return calibrate(calibrator, *calibration_set(model), calibrator_input(model, model.calibration))[0], y_M


def calibration_set(model: Model) -> tuple[Tensor, Tensor]:
    """Logits and labels that calibrators are fitted to: the rows whose label is offered.

    Raises:
        DataError: there is none.
    """
    assert model.calibration is not None
    return _offering(calibrator_input(model, model.calibration), model.calibration.y_N)


def _offering(Z_NK: Tensor, y_N: Tensor) -> tuple[Tensor, Tensor]:
    rows = ~Z_NK.gather(1, y_N[:, None])[:, 0].isneginf()
    if bool(rows.all()):
        return Z_NK, y_N
    if not bool(rows.any()):
        raise Refusal.NOTHING_OFFERED.of("")
    return Z_NK[rows], y_N[rows]


def check_folds(models: Sequence[Model], folds: int) -> None:
    """Raises SettingsError where there is a calibration set, or too few examples for so many folds; 0 is none."""
    if folds and any(m.calibration is not None for m in models):
        raise SettingsError("folds (--cross-fit) are for predictions without a calibration set: give one of the two")
    N = min(len(m.test.y_N) for m in models)
    if folds and not 2 <= folds <= N // 2:
        raise SettingsError(FOLDS.format(folds=folds, N=N))


def calibrator_input(model: Model, predictions: Predictions, rows: Tensor | None = None) -> Tensor:
    """Logits [N, K] as calibrators get them; log probabilities where test or calibration set has no logits of its own.

    In log probabilities, `censored` puts a number in the place of log 0.

    Args:
        rows: without a calibration set, the test rows [N] on which that is found.
    """
    if model.exact:
        return predictions.Z_NK
    if model.zeros is not None and bool(predictions.Z_NK.isneginf().any()):
        return filled(predictions.Z_NK, model.zeros, model.share(rows))
    return predictions.Z_NK.double().log_softmax(-1)


def at_one_resolution(one: Model, other: Model) -> tuple[Model, Model]:
    """Two models as files of the coarser of their two resolutions would hold them, where one of them has zeros.

    What one file does not keep then counts neither for nor against the other.
    """
    zeros = [model.zeros for model in (one, other) if model.zeros is not None]
    if not zeros or (len(zeros) == 2 and zeros[0].resolution == zeros[1].resolution):
        return one, other
    coarsest = max(zeros, key=lambda of: of.resolution.step)
    return _read_as(one, coarsest), _read_as(other, coarsest)


def _read_as(model: Model, zeros: Zeros) -> Model:
    def read(predictions: Predictions) -> Predictions:
        p_NK = zeros.resolution.read(predictions.Z_NK.double().softmax(-1).numpy())
        return replace(predictions, Z_NK=torch.from_numpy(p_NK).log(), exact=False, zeros=zeros)

    return Model(read(model.test), read(model.calibration) if model.calibration is not None else None)


def collapsed_models(models: Sequence[Model]) -> list[Model]:
    """Models whose accuracy parts from the others' by a gap, as those of seeds that collapsed (`inference.collapsed`).

    Empty where there is one model, or where all are of one kind.
    """
    accuracies = [float(m.test.right_N.double().mean()) for m in models]
    lost = collapsed(accuracies, 1 / models[0].test.Z_NK.shape[1], largest=True)
    return [] if lost.all() else [model for model, is_lost in zip(models, lost, strict=True) if is_lost]


def _refuse_copy(test: Predictions, calibration: Predictions) -> None:
    """Raises DataError where a calibration set is its test set."""
    if torch.equal(test.Z_NK, calibration.Z_NK) and torch.equal(test.y_N, calibration.y_N):
        raise Refusal.COPY.of(calibration.name, test=test.name)
