"""Models to evaluate: test predictions paired with calibration predictions, and what a calibrator makes of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from calib_bench.errors import DataError, SettingsError

if TYPE_CHECKING:
    from torch import Tensor

    from calib_bench.baseline import Calibrator, Params
    from calib_bench.predictions import Predictions


@dataclass(frozen=True)
class Model:
    """One seed: what it predicts on the test examples and, where there is one, on a calibration set."""

    test: Predictions
    calibration: Predictions | None = None

    @property
    def exact(self) -> bool:
        """Whether calibrators see the model's own logits; else they see log probabilities."""
        return self.test.exact and (self.calibration is None or self.calibration.exact)


def pair_up(tests: Sequence[Predictions], calibrations: Sequence[Predictions]) -> list[Model]:
    """Models by seed, in order.

    Raises:
        DataError: counts or numbers of classes differ, or a calibration file is its test file.
    """
    if calibrations and len(calibrations) != len(tests):
        raise DataError(
            f"{len(tests)} test files and {len(calibrations)} calibration files: give one of each for every model, in "
            f"the same order"
        )
    classes = {p.name: p.Z_NK.shape[1] for p in (*tests, *calibrations)}
    if len(set(classes.values())) > 1:
        listed = ", ".join(f"{name}: {K}" for name, K in classes.items())
        raise DataError(f"the predictions differ in their number of classes ({listed}): they are of different problems")
    for test, calibration in zip(tests, calibrations, strict=False):
        same = test.Z_NK.shape == calibration.Z_NK.shape and bool((test.Z_NK == calibration.Z_NK).all())
        if same and bool((test.y_N == calibration.y_N).all()):
            raise DataError(
                f"the calibration predictions {calibration.name} and the test predictions {test.name} are the same: "
                f"calibrators would be judged on what they were fitted to; --cross-fit 5 makes the most of one file"
            )
    paired: list[Predictions | None] = [*calibrations] or [None] * len(tests)
    return [Model(test, calibration) for test, calibration in zip(tests, paired, strict=True)]


def shared_rows(model: Model) -> int:
    """How many calibration rows, label and all numbers, are rows of the test set, if more than would be by chance.

    Coarse numbers repeat by chance: a test row then has twins in the test set too. That rate r is expected between
    the sets, and only a count above n r + 3 sqrt(n r), n the calibration rows, is returned; else 0.
    """
    import numpy as np

    if model.calibration is None:
        return 0
    test, calibration = (
        [row.tobytes() for row in np.column_stack([p.Z_NK.double().numpy(), p.y_N.numpy()]) + 0.0]  # -0 is 0
        for p in (model.test, model.calibration)
    )
    times = Counter(test)
    n, r = len(calibration), sum(count for count in times.values() if count > 1) / len(test)
    shared = sum(row in times for row in calibration)
    return shared if shared > n * r + 3 * math.sqrt(n * r) else 0


def own_tests(models: Sequence[Model]) -> bool:
    """Whether seeds have test examples of their own, as labels tell."""
    first = models[0].test.y_N
    return any(m.test.y_N.shape != first.shape or bool((m.test.y_N != first).any()) for m in models[1:])


def calibrated(model: Model, calibrator: Calibrator | None, folds: int = 0, seed: int = 0) -> tuple[Tensor, Params]:
    """Log probabilities [N, K] of the test examples, and the parameters where one fit made them.

    Args:
        calibrator: None for the model's own.
        folds: without a calibration set, fit on all folds but one and apply to that one, in turn.
    """
    import torch

    Z_NK, y_N = form(model, model.test), model.test.y_N
    if calibrator is None:
        return Z_NK.double().log_softmax(-1), {}
    if model.calibration is not None:
        params = calibrator.fit(form(model, model.calibration), model.calibration.y_N)
        return calibrator.apply(params, Z_NK), params
    fold_N = torch.randperm(len(y_N), generator=torch.Generator().manual_seed(seed)) % folds
    logp_NK = torch.empty(Z_NK.shape, dtype=torch.float64)
    for fold in range(folds):
        out = fold_N == fold
        logp_NK[out] = calibrator.apply(calibrator.fit(Z_NK[~out], y_N[~out]), Z_NK[out])
    return logp_NK, {}


def check_folds(models: Sequence[Model], folds: int) -> None:
    """Raises SettingsError where there are too few examples for so many folds, or fewer than two folds; 0 is none."""
    N = min(len(m.test.y_N) for m in models)
    if folds and not 2 <= folds <= N // 2:
        raise SettingsError(f"--cross-fit {folds} needs 2 to {N // 2} folds, for {N} examples")


def form(model: Model, predictions: Predictions) -> Tensor:
    """What calibrators see: the logits, or log probabilities of both sets where one of them leaves no choice."""
    return predictions.Z_NK if model.exact else predictions.Z_NK.double().log_softmax(-1)
