"""What a trial's probe measures of its model, in either loop."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calib_bench.core.splits import Splits
from calib_bench.core.study import Probe
from calib_bench.core.trial import Trial


def columns(
    probe: Probe | None, trial: Trial, model: nn.Module, splits: Splits, device: torch.device
) -> dict[str, float]:
    """The numbers by name that a probe adds to a history row; none without a probe."""
    if probe is None or probe.columns is None:
        return {}
    with torch.enable_grad():
        return {name: float(value) for name, value in probe.columns(trial, model, splits, device).items()}


def arrays(
    probe: Probe | None, trial: Trial, model: nn.Module, splits: Splits, device: torch.device
) -> dict[str, Tensor]:
    """The tensors on the CPU, by name, that a probe measures at the end of training; none without a probe."""
    if probe is None or probe.arrays is None:
        return {}
    with torch.enable_grad():
        tensors = probe.arrays(trial, model, splits, device)
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
