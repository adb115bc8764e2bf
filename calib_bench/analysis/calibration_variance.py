"""What the calibration examples of fitted temperatures add to the variance of arms' scores and of their contrasts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from calib_bench.analysis.measure import Measures
from calib_bench.analysis.scores import REPAIRED
from calib_bench.inference import Fitted, at_threshold
from calib_bench.inference import fitted as fitted_temperatures


def log_temperatures(measures: Measures) -> Tensor | None:
    """An arm's log kappa with each calibration example's influence on it [S, M]; none on a temperature at a bound.

    None where calibration sets differ in size between seeds.
    """
    if measures.log_kappa is None:
        return None
    log_T_SM = measures.log_kappa.clone()
    for i, seed in enumerate(measures.seeds):
        if seed in measures.at_bound:
            log_T_SM[i] = log_T_SM[i].mean()
    return log_T_SM


def fitted_to(score: str, *sides: tuple[float, Measures, Sequence[int]]) -> Fitted | None:
    """What calibration examples add to a sum of arms' mean scores after their temperatures.

    The arms of one seed are fitted on the same calibration examples. A temperature at a bound is taken as it is, see
    `log_temperatures`.

    Args:
        score: of SPLIT.
        sides: an arm's weight in the sum, the arm, and the places of the seeds in it: the same seeds in all.

    Returns:
        None where calibration sets differ in size between seeds, so that only seeds are independent.
    """
    log_T, pairs = [], []
    for _, arm, places in sides:
        log_kappa = log_temperatures(arm)
        if log_kappa is None or score not in arm.slopes or not places:
            return None
        log_T.append(log_kappa[list(places)])
        pairs.append(arm.slopes[score][:, list(places)])
    if len({values.shape for values in log_T}) > 1:
        return None
    slope, curvature = torch.stack(pairs, 1)
    shared = all(same_calibration(arm) for _, arm, _ in sides)
    return fitted_temperatures(torch.stack(log_T), slope, curvature, [weight for weight, _, _ in sides], shared)


def own_fit(measures: Measures, method: str, score: str) -> Fitted | None:
    """What calibration examples add to an arm's mean score after a method; None of one that fits no temperature."""
    return fitted_to(score, (1, measures, range(len(measures.seeds)))) if method == REPAIRED else None


def set_influence(arm: tuple[float, Measures, Sequence[int]], method: str, metric: str) -> Fitted | None:
    """What calibration examples add to a mean over conformal sets, through the threshold that they gave.

    Args:
        arm: see `fitted_to`.
        method: after which the sets are made.
        metric: of `measure.SETS`.

    Returns:
        None where seeds have calibration examples of their own: their spread holds it.
    """
    weight, measures, places = arm
    influences = measures.set_influences.get(method)
    if influences is None or not same_calibration(measures):
        return None
    influence_SM = weight * influences[metric][list(places)]
    return at_threshold((influence_SM - influence_SM.mean(1, keepdim=True)).numpy())


def same_calibration(arm: Measures) -> bool:
    """Whether all seeds of an arm have the same calibration examples: one split."""
    return len({trial.split for trial in arm.arm.trials.values()}) == 1
