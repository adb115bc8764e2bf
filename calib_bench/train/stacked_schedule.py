"""The schedules of the members of a stack: what changes from update to update, for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from calib_bench.core.baseline import Objectives
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial
from calib_bench.train.loss import TrialSchedule
from calib_bench.train.stacked_model import Packed, StackedOptimizer


class StackedSchedule:
    """One `TrialSchedule` a member."""

    def __init__(
        self, trials: Sequence[Trial], total: int, spec: InputSpec, like: Tensor, objectives: Objectives
    ) -> None:
        """
        Args:
            trials: the S members.
            total: updates of the whole run, the same for all.
            spec: the inputs.
            like: a tensor of the type and on the device of the parameters.
            objectives: those that the trials name, or more.

        Raises:
            SettingsError: see `TrialSchedule`.
        """
        self.each = [TrialSchedule(trial, total, objectives) for trial in trials]
        for schedule in self.each:
            schedule.check(spec)
        self.like = like
        self.final_S11 = self._tensor([trial.beta for trial in trials])
        self.steady = all(schedule.steady for schedule in self.each)
        self.mixes = any(schedule.mixer for schedule in self.each)

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device).view(-1, 1, 1)

    def beta(self, step: int) -> Tensor:
        """Inverse temperatures in the loss of an update, [S, 1, 1]."""
        return self.final_S11 if self.steady else self._tensor([schedule.beta(step) for schedule in self.each])

    def base(self, step: int) -> Tensor:
        """Inverse temperatures of the models' own predictions before an update, [S, 1, 1]."""
        return self.final_S11 if self.steady else self._tensor([schedule.base(step) for schedule in self.each])

    @torch.no_grad()
    def switch(self, step: int, params: Packed, optimizer: StackedOptimizer, head: set[str]) -> None:
        """Just before an update, change the heads of the members that switch there, as `optim.switch_head` does."""
        if self.steady:
            return
        for member, schedule in enumerate(self.each):
            change = schedule.head_factor(step)
            if change == 1:
                continue
            for name in head:
                params.by[name][member] *= change
                for slot, power in (("momentum", 1), ("mean", 1), ("square", 2)):
                    if slot in optimizer.slots:
                        optimizer.slots[slot].by[name][member] /= change**power

    def mixture(self, epoch: int, step: int, batch: int) -> tuple[Tensor, Tensor]:
        """Shares [S, 1] and partners [S, B] of an update of an epoch; a member that does not mix keeps itself whole."""
        unmixed = (1.0, np.arange(batch))
        drawn = [schedule.mixture(epoch, step, batch) if schedule.mixer else unmixed for schedule in self.each]
        partner_SB = torch.from_numpy(np.stack([partner for _, partner in drawn])).to(self.like.device)
        return self._tensor([share for share, _ in drawn])[:, 0], partner_SB
