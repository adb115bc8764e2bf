"""The training loop of a stack of models that differ only in numbers: one batched forward and backward for all.

Losses are summed over members, never averaged, and no operation mixes members, so that a member's result is the same
whoever else is in the stack, and one member's divergence is its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import stack_module_state

from calib_bench import models
from calib_bench.core.baseline import NO_OBJECTIVES, Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.study import Probe
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.data.label_noise import training
from calib_bench.errors import SettingsError
from calib_bench.train import initialize, probes
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.chunks import PartSaver, parts_of
from calib_bench.train.fusion import fuse_key
from calib_bench.train.history import EVAL_BATCH, ProgressThrottle, accurate, batch_sums, first_bad, tally_dtype
from calib_bench.train.learning_rate import Rate, resolve
from calib_bench.train.loop import Loop
from calib_bench.train.loss import Loss, rate_beta
from calib_bench.train.stacked_model import Packed, StackedOptimizer, logit_gradient, stacked
from calib_bench.train.stacked_schedule import StackedSchedule

__all__ = ["fuse_key", "train_fused"]


def train_fused(
    trials: Sequence[Trial],
    splits: Splits,
    *,
    device: torch.device,
    objectives: Objectives = NO_OBJECTIVES,
    probe: Probe | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: initialize.Progress = initialize.silent,
) -> list[TrialResult]:
    """Train trials of one `fuse_key` as one stack; results in the order of `trials`.

    Arguments as in `calib_bench.train.train.train`; a checkpoint is of this very sequence of trials.

    Raises:
        SettingsError: the trials cannot be stacked.
        StoreError: the checkpoint cannot be written.
    """
    # As on a GPU: whether stacking is also faster where these trials run is for the caller to know.
    keys = {fuse_key(trial, objectives, "cuda") for trial in trials}
    if len(keys) != 1 or None in keys:
        raise SettingsError("these trials cannot be trained as one stack: they differ in more than numbers")
    splits = training(splits, trials[0])
    order = sorted(range(len(trials)), key=lambda i: (sorted(trials[i].terms), trials[i].seed))  # see parts_of
    parts = parts_of([trials[i] for i in order], splits, device, objectives)
    key = hashlib.sha256("|".join(" ".join(trial.key for trial in part) for part in parts).encode()).hexdigest()[:20]
    saver = PartSaver(Checkpoint(checkpoint, key, checkpoint_seconds))
    results: list[TrialResult] = []
    for number, part in enumerate(parts):
        stack = _Stack(part, splits, device, saver.begin(number), objectives, probe)
        went_on = stack.train(saver, ProgressThrottle(progress, weight=len(part)))
        saver.end(stack.state(), last=number == len(parts) - 1 and went_on)
        results += stack.results()
    return [one for _, one in sorted(zip(order, results, strict=True), key=lambda pair: pair[0])]


class _Stack(Loop[PartSaver]):
    """The state of S runs and what may be done with it."""

    def __init__(
        self,
        trials: Sequence[Trial],
        splits: Splits,
        device: torch.device,
        saved: dict[str, Any] | None,
        objectives: Objectives,
        probe: Probe | None,
    ) -> None:
        super().__init__(trials, splits, device, objectives, probe)
        self.seeds = sorted({trial.seed for trial in trials})
        self.seed_S = torch.tensor([self.seeds.index(trial.seed) for trial in trials], device=device)
        members = [initialize.initial_model(trial, splits, device, objectives) for trial in trials]
        self.rates = [Rate(**rate) for rate in saved["rates"]] if saved else self._resolve(members)
        self.model, self.head = members[0], models.head_names(members[0])
        self.packed = self._pack(members)
        self.params, self.grads = self.packed.by, Packed(self.packed.by)
        self.stacked = stacked(self.model, self.packed, self.grads)
        rate_S = torch.tensor([rate.value for rate in self.rates], dtype=torch.float64)
        applied = [rate.applied(trial, objectives) for rate, trial in zip(self.rates, trials, strict=True)]
        self.optimizer = StackedOptimizer(applied, self.packed, rate_S, self.head)
        self.losses = self._losses()
        self.schedule = StackedSchedule(trials, self.total, splits.spec, self.packed.all, objectives)
        self.bad = torch.full((len(trials),), -1, dtype=torch.int64, device=device)
        self.tally = torch.zeros((3, len(trials)), dtype=tally_dtype(device), device=device)
        self._start(saved)

    def _pack(self, members: Sequence[torch.nn.Module]) -> Packed:
        """The members' weights, side by side.

        Raises:
            SettingsError: they hold more than weights, or draw random numbers.
        """
        weights, buffers = stack_module_state(list(members))
        if buffers or initialize.stochastic(self.model):
            raise SettingsError(f"model {self.first.model!r} has buffers or dropout and cannot be trained as a stack")
        packed = Packed(weights)
        for name, p in weights.items():
            packed.by[name].copy_(p.detach())
        return packed

    def _resolve(self, members: Sequence[torch.nn.Module]) -> list[Rate]:
        """Rates; the curvature is measured once for members that start alike."""
        unit_rates: dict[object, Rate] = {}
        rates = []
        for trial, model in zip(self.trials, members, strict=True):
            start = (trial.seed, trial.head_lr, trial.body_lr, trial.head_init, trial.init_scale, trial.correlation)
            follows = (trial.needs_degree, trial.degree)
            alike = (trial.lr_unit, *follows, trial.beta, rate_beta(trial, self.objectives), *start)
            if alike not in unit_rates:
                unit_trial = trial.model_copy(update={"lr": 1.0})
                unit_rates[alike] = resolve(unit_trial, model, self.splits, self.device, self.objectives)
            unit = unit_rates[alike]
            rates.append(replace(unit, value=unit.value * trial.lr))
        return rates

    def _losses(self) -> list[tuple[slice, Loss]]:
        """The members of each objective, which are adjacent, with their loss."""
        groups: dict[tuple[str, ...], list[int]] = {}
        for member, trial in enumerate(self.trials):
            groups.setdefault(tuple(sorted(trial.terms)), []).append(member)
        losses = []
        for names, members in groups.items():
            strengths = {name: self._numbers([self.trials[i].terms[name] for i in members]) for name in names}
            loss = Loss({name: strength_S[:, None] for name, strength_S in strengths.items()}, self.objectives)
            losses.append((slice(members[0], members[-1] + 1), loss))
        return losses

    def _batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Each member's batch of each step, [S, B, ...] and [S, B]; members of one seed have the same."""
        options = {"epoch": epoch, "batch": self.first.batch, "device": self.device, "skip": skip}
        streams = [self.splits.train.train_batches(seed=seed, **options) for seed in self.seeds]  # type: ignore[arg-type]
        for batches in zip(*streams, strict=True):
            x_UB, y_UB = torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])
            x_SB = x_UB.index_select(0, self.seed_S)
            yield (x_SB.double() if self.first.precision == "fp64" else x_SB), y_UB.index_select(0, self.seed_S)

    def _update(self, x_SB: Tensor, y_SB: Tensor, epoch: int) -> None:
        self.schedule.switch(self.step, self.packed, self.optimizer, self.head)
        beta_S11 = self.schedule.beta(self.step)
        if not self.schedule.mixes:
            z_SBK = self.stacked.forward(x_SB)
            loss_SB, dz_SBK = self._gradient(z_SBK, y_SB, beta_S11)
        else:
            share_S1, partner_SB = self.schedule.mixture(epoch, self.step % self.per_epoch, y_SB.shape[1])
            z_SBK = self.stacked.forward(_mixed(x_SB, share_S1, partner_SB))
            (loss_SB, dz_SBK), (other_SB, d_other_SBK) = (
                self._gradient(z_SBK, labels, beta_S11) for labels in (y_SB, y_SB.gather(1, partner_SB))
            )
            loss_SB = share_S1 * loss_SB + (1 - share_S1) * other_SB
            dz_SBK = share_S1[..., None] * dz_SBK + (1 - share_S1[..., None]) * d_other_SBK
        # One layout, whoever is in the stack: it decides how sums are rounded.
        self.stacked.backward(dz_SBK.contiguous())
        self.optimizer.step(self.grads, self._scale(self.step))
        self.bad = first_bad(self.bad, loss_SB.mean(1), self.step)
        if self._tallied(epoch):
            self.tally += batch_sums(loss_SB, z_SBK, y_SB, self.tally.dtype)

    def _gradient(self, z_SBK: Tensor, y_SB: Tensor, beta_S11: Tensor) -> tuple[Tensor, Tensor]:
        """Per-example losses [S, B] and the gradient of their means by z, [S, B, K]."""
        parts = [logit_gradient(loss, z_SBK[of], y_SB[of], beta_S11[of]) for of, loss in self.losses]
        loss_SB, dz_SBK = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return loss_SB, dz_SBK

    @torch.no_grad()
    def _predict(self, name: str) -> Tensor:
        """Raw logits z [S, N, K] of a split, rows as its labels."""
        split = self.splits[name]
        z_SNK = self.packed.all.new_empty((len(self.trials), len(split), self.splits.classes))
        for x, index in split.eval_batches(batch=EVAL_BATCH, device=self.device):
            x = x.to(z_SNK.dtype)
            z_SNK[:, index.to(self.device)] = self.stacked.forward(x.expand(len(self.trials), *x.shape))
        return z_SNK

    @torch.no_grad()
    def _measure(self) -> None:
        beta_S11 = self.schedule.base(max(0, self.step - 1))
        scores = self.selection(self._predict("selection"), beta_S11)
        squares = {name: accurate(p).square().reshape(len(p), -1).sum(1) for name, p in self.params.items()}
        rate_S = torch.tensor([rate.value for rate in self.rates], dtype=torch.float64)
        row = self._row(scores, squares, self.head, rate_S) | self._columns()
        columns = {name: torch.as_tensor(value, dtype=torch.float64) for name, value in row.items()}
        self._keep({name: value.expand(len(self.trials)).cpu() for name, value in columns.items()})

    def _columns(self) -> dict[str, Tensor]:
        """Further columns, [S], that the members' probe measures: members of a stack share it."""
        if self.probe is None:
            return {}
        each = [
            probes.columns(self.probe, trial, self._member(i), self.splits, self.device)
            for i, trial in enumerate(self.trials)
        ]
        return {name: torch.tensor([one[name] for one in each], dtype=torch.float64) for name in each[0]}

    @torch.no_grad()
    def _member(self, member: int) -> torch.nn.Module:
        """A member as a model of its own, until the next one is asked for."""
        for name, p in self.model.named_parameters():
            p.copy_(self.params[name][member])
        return self.model

    def state(self) -> dict[str, Any]:
        return {
            "params": self.packed.all,
            "optimizer": self.optimizer.state(),
            "rates": [vars(rate) for rate in self.rates],
            **super().state(),
        }

    @torch.no_grad()
    def _restore(self, saved: dict[str, Any]) -> None:
        self.packed.all.copy_(saved["params"])
        self.optimizer.load(saved["optimizer"])
        super()._restore(saved)

    def results(self) -> list[TrialResult]:
        """The result of each member, in order."""
        logits = {} if self.ended else {name: self._predict(name).cpu() for name in self.splits.measured}
        return [
            self._member_result(member, {name: z[member].clone() for name, z in logits.items()})
            for member in range(len(self.trials))
        ]

    def _member_result(self, member: int, logits: dict[str, Tensor]) -> TrialResult:
        trial = self.trials[member]
        rows = [{name: float(value[member]) for name, value in row.items()} for row in self.rows]
        return self._result(
            trial,
            int(self.bad[member]) if self.bad[member] >= 0 else None,
            logits,
            [{**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in rows],
            self.rates[member],
            lambda: self._member(member),
            lambda model: probes.arrays(self.probe, trial, model, self.splits, self.device),
            self.snapshots.kept[member],
            mode="fused",
            stack=len(self.trials),
            world=1,
            precision=trial.precision,
            parameters=sum(p[member].numel() for p in self.params.values()),
        )


def _mixed(x_SB: Tensor, share_S1: Tensor, partner_SB: Tensor) -> Tensor:
    """Each member's batch [S, B, ...], every example mixed with its partner."""
    share = share_S1.view(-1, *[1] * (x_SB.dim() - 1))
    partners = x_SB[torch.arange(len(x_SB), device=x_SB.device)[:, None], partner_SB]
    return share * x_SB + (1 - share) * partners
