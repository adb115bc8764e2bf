"""A batch in parts: gradients of several passes are summed, so that the global batch fits whatever memory there is.

Without batch norm the sum is the whole batch's gradient, to rounding. Batch norm takes the moments of what it sees at
once, so there the parts are part of the result: a trial's `norm_batch` says how many examples that is ("ghost" batch
norm, Hoffer et al., 2017, arXiv 1705.08741), and its result is then the same however many processes share the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.train import distributed

Norm = nn.modules.batchnorm._BatchNorm


def count_parts(trial: Trial, model: nn.Module, share: int, micro_batch: int | None) -> int:
    """In how many equal parts a process takes its share of each batch.

    Args:
        trial: the trial.
        model: its model, on which it depends whether parts change more than rounding.
        share: examples of a batch that are this process's.
        micro_batch: most examples that it may take at once; None for no bound.

    Raises:
        SettingsError: batch norm does not allow it.
    """
    most = min(share, micro_batch or share)
    if any(isinstance(module, Norm) and module.training for module in model.modules()):
        return _count_normed(trial, share, most)
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= most)


def _count_normed(trial: Trial, share: int, most: int) -> int:
    """The number of parts for a model with batch norm, which the trial's `norm_batch` decides.

    Args:
        most: examples that a process may take at once.
    """
    if trial.norm_batch is None:
        if most < share:
            raise SettingsError(
                f"micro_batch={most}: {trial.model} has batch norm, which takes the moments of all {share} examples "
                f"at once; with norm_batch= it takes those of so many, and is then another trial"
            )
        return 1
    if share % trial.norm_batch:
        raise SettingsError(
            f"norm_batch={trial.norm_batch} does not divide the {share} examples of a batch that each process has"
        )
    if most < trial.norm_batch:
        raise SettingsError(f"micro_batch={most} is less than norm_batch={trial.norm_batch}: give as much")
    return share // trial.norm_batch


class _Ghost(Norm):
    """Batch norm over the part of a batch that it sees; running moments take the mean over all parts of the batch."""

    seen: list[tuple[Tensor, Tensor]]

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            h = x.detach() if x.dtype == torch.float64 else x.detach().float()
            dims = [0, *range(2, h.dim())]
            self.seen.append((h.mean(dims), h.var(dims)))
        running = self.running_mean, self.running_var, self.num_batches_tracked
        self.running_mean = self.running_var = self.num_batches_tracked = None
        try:
            return super().forward(x)
        finally:
            self.running_mean, self.running_var, self.num_batches_tracked = running


def ghost(model: nn.Module) -> list[_Ghost]:
    """Make every batch norm of a model take the moments of what it sees at once; returns them for `track`."""
    for module in model.modules():
        if isinstance(module, Norm) and not isinstance(module, _Ghost):
            kind = type(module)
            module.__class__ = type(f"Ghost{kind.__name__}", (_Ghost, kind), {})
            object.__setattr__(module, "seen", [])
    return [module for module in model.modules() if isinstance(module, _Ghost)]


@torch.no_grad()
def track(norms: list[_Ghost]) -> None:
    """After a whole batch: let running moments take the mean of its parts', over all processes."""
    if not norms:
        return
    means = [torch.stack([part[i] for part in norm.seen]).mean(0) for norm in norms for i in (0, 1)]
    averages = distributed.total(torch.cat(means)) / distributed.world()
    moments = iter(averages.split([len(mean) for mean in means]))
    for norm in norms:
        norm.seen.clear()
        distributed.track(norm, next(moments), next(moments))
