"""What a trial's probe measures of its model, in either loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from calib_bench import registry
from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial

if TYPE_CHECKING:
    from calib_bench.core.study import Probe


def columns(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, float]:
    """Further columns of a history row; none without a probe.

    Raises:
        SettingsError: there is no such probe.
    """
    measure = _of(trial).columns if trial.probe else None
    if measure is None:
        return {}
    with torch.enable_grad():
        return {name: float(value) for name, value in measure(trial, model, splits, device).items()}


def arrays(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    """Tensors on the CPU that a trial leaves when it is done; none without a probe.

    Raises:
        SettingsError: there is no such probe.
    """
    measure = _of(trial).arrays if trial.probe else None
    if measure is None:
        return {}
    with torch.enable_grad():
        found = measure(trial, model, splits, device)
    return {name: value.detach().cpu().contiguous() for name, value in found.items()}


def _of(trial: Trial) -> Probe:
    assert trial.probe is not None, "asked only of a trial with a probe"
    return registry.probe(trial.probe)
