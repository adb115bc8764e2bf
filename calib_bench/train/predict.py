"""A model's raw logits of a split."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from calib_bench.core.splits import Split, Splits
from calib_bench.core.trial import Trial
from calib_bench.train import distributed, initialize
from calib_bench.train.history import EVAL_BATCH


@torch.no_grad()
def predict(model: nn.Module, trial: Trial, splits: Splits, split: Split, device: torch.device) -> Tensor:
    """Raw logits z [N, K] of a split on the device, rows as its labels; the model is in evaluation mode from then on.

    Args:
        model: as `initialize.initial_model` makes it for the trial, on `device`.
        trial: whose precision is used.
        splits: what its inputs and classes are.
        split: one of those, or of the same inputs. In a process group each process takes a share of it.
    """
    parts, indices = [], []
    model.eval()
    batch = _batch(splits, device)
    for x, index in split.eval_batches(batch=batch, device=device, rank=distributed.rank(), world=distributed.world()):
        with initialize.autocast(trial, device):
            z = model(initialize.prepare(x, trial.precision))
        parts.append(z if z.dtype == torch.float64 else z.float())
        indices.append(index)
    dtype = torch.float64 if trial.precision == "fp64" else torch.float32
    empty = torch.zeros((0, splits.classes), device=device, dtype=dtype)
    index = torch.cat([*indices, torch.zeros(0, dtype=torch.int64)])
    return distributed.gather_rows(torch.cat([*parts, empty]), index, len(split))


def _batch(splits: Splits, device: torch.device) -> int:
    """A GPU needs more examples at once to be busy."""
    values = max(1, math.prod(splits.spec.shape))
    return max(EVAL_BATCH, min(2048, 2**23 // values)) if device.type == "cuda" else EVAL_BATCH
