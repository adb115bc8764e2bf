"""The training loop of one model, on one device or, under torchrun, on many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench import models
from calib_bench.core.baseline import NO_OBJECTIVES, Objectives
from calib_bench.core.splits import Split, Splits
from calib_bench.core.study import Probe
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.data.label_noise import training
from calib_bench.errors import SettingsError
from calib_bench.system import shutdown
from calib_bench.system.random import seed_of
from calib_bench.train import distributed, initialize, probes
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.grad_accumulation import count_parts, ghost, track
from calib_bench.train.history import ProgressThrottle, accurate
from calib_bench.train.learning_rate import Rate, resolve
from calib_bench.train.loop import Loop
from calib_bench.train.loss import Loss, TrialSchedule
from calib_bench.train.optimizer import make_optimizer, switch_head
from calib_bench.train.predict import predict
from calib_bench.train.update import Compile, Updater, choose, rows


def train_single(
    trial: Trial,
    splits: Splits,
    *,
    device: torch.device,
    objectives: Objectives = NO_OBJECTIVES,
    probe: Probe | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: initialize.Progress = initialize.silent,
    compile: Compile = "auto",
    micro_batch: int | None = None,
) -> TrialResult:
    """Train one model; arguments as in `calib_bench.train.train.train`.

    In a process group each process takes its rows of every global batch and all return the same result; only the
    main process's `checkpoint` is used.

    Raises:
        SettingsError: the trial cannot be trained as it is set.
        StoreError: the checkpoint cannot be written.
    """
    _check_world(trial, splits.train)
    splits = training(splits, trial)
    saver = Checkpoint(checkpoint if distributed.is_main() else None, trial.key, checkpoint_seconds)
    run = _Run(trial, splits, device, distributed.broadcast(saver.load()), objectives, probe, compile, micro_batch)
    if run.train(saver, ProgressThrottle(progress)):
        run.save(saver, due=True)
    return run.result()


def _check_world(trial: Trial, split: Split) -> None:
    world = distributed.world()
    if trial.batch % world:
        raise SettingsError(
            f"batch={trial.batch} is the global batch and must be a multiple of the {world} processes; "
            f"the nearest is {max(1, round(trial.batch / world)) * world}"
        )
    if world > 1 and len(split) < trial.batch:
        raise SettingsError(
            f"batch={trial.batch} exceeds the {len(split)} training examples, shared by {world} processes"
        )


class _Run(Loop[Checkpoint]):
    """The state of one training run and what may be done with it."""

    def __init__(
        self,
        trial: Trial,
        splits: Splits,
        device: torch.device,
        saved: dict[str, Any] | None,
        objectives: Objectives,
        probe: Probe | None,
        compile: Compile,
        micro_batch: int | None,
    ) -> None:
        super().__init__((trial,), splits, device, objectives, probe)
        self.trial = trial
        self.model = initialize.initial_model(trial, splits, device, objectives)
        self.rate = Rate(**saved["rate"]) if saved else self._resolve()
        self.applied = self.rate.applied(trial, objectives)
        self.optimizer = make_optimizer(self.applied, self.model, self.rate.value)
        self.share = min(trial.batch, len(splits.train)) // distributed.world()
        self.parts = count_parts(trial, self.model, self.share, micro_batch)
        self.norms = ghost(self.model) if trial.norm_batch else []
        self.parallel = distributed.parallel(self.model, device, synchronised=not self.norms)
        self.parallel.train()
        self._order_gradients()
        self.draws = initialize.stochastic(self.model)
        self.schedule = TrialSchedule(trial, self.total, objectives)
        self.schedule.check(splits.spec, distributed.world() * self.parts)
        self.accord = distributed.Accord(device)
        if saved:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        self.updater = self._updater(compile)
        self.bad, self.tally = self.updater.bad, self.updater.tally
        self._start(saved)

    def _order_gradients(self) -> None:
        """One gradient, thrown away, so that a run that goes on from a checkpoint sums as one that was never stopped.

        After its first step, `DistributedDataParallel` sorts gradients anew, by the order in which they came; and where
        a gradient lies decides in which order more than two processes add it up.
        """
        if distributed.world() == 1 or not self.trial.epochs:
            return
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        x, y = next(iter(self._batches(0)))
        with initialize.autocast(self.trial, self.device):
            z = self.parallel(initialize.prepare(rows(x, 0, self.parts), self.trial.precision))
        nn.functional.cross_entropy(z, y[:: self.parts]).backward()
        self.optimizer.zero_grad(set_to_none=True)
        for norm in self.norms:
            norm.seen.clear()
        self.model.load_state_dict(kept)

    def _batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """This process's rows of an epoch's batches, but for the first `skip`."""
        return self.splits.train.train_batches(
            seed=self.trial.seed,
            epoch=epoch,
            batch=self.trial.batch,
            device=self.device,
            skip=skip,
            rank=distributed.rank(),
            world=distributed.world(),
        )

    def _updater(self, compile: Compile) -> Updater:
        alone = not self.draws and distributed.world() * self.parts == 1
        mode = choose(self.trial, compile, self.device, self.splits.spec, self.splits.classes, self.total, alone)
        strengths = {name: self._numbers(strength) for name, strength in self.trial.terms.items()}
        loss = Loss(strengths, self.objectives)
        return Updater(self.applied, self.parallel, self.optimizer, loss, self.device, mode, parts=self.parts)

    def _resolve(self) -> Rate:
        if not distributed.is_main():
            return distributed.broadcast(Rate(0.0))
        return distributed.broadcast(resolve(self.trial, self.model, self.splits, self.device, self.objectives))

    def save(self, saver: Checkpoint, due: bool) -> None:
        """Save the state where it is due. Processes that have agreed to leave do so once the main one has saved.

        Raises:
            Stopped: it is saved, and the run is to leave.
        """
        keep = partial(saver.keep, self.state)
        if distributed.world() > 1 and shutdown.requested():
            distributed.leave(keep)
        elif due:
            keep()

    def _update(self, x: Any, y: Tensor, epoch: int) -> None:
        if self.draws:
            rank = distributed.rank()
            torch.manual_seed(
                seed_of("step", self.trial.seed, epoch, self.step % self.per_epoch, *([rank] if rank else []))
            )
        if (change := self.schedule.head_factor(self.step)) != 1:
            switch_head(self.optimizer, models.head(self.model), change)
        numbers: dict[str, float | Tensor] = {"beta": self.schedule.beta(self.step)}
        if self.schedule.mixer:
            share, partner_B = self.schedule.mixture(epoch, self.step % self.per_epoch, len(y))
            numbers |= {"share": share, "partner": torch.from_numpy(partner_B)}
        self.updater(x, y, self.step, self._scale(self.step), numbers)
        track(self.norms)
        self.accord.step()

    def _measure(self) -> None:
        beta = self._numbers(self.schedule.base(max(0, self.step - 1)))
        scores = self.selection(self._predict("selection"), beta)
        squares = {name: accurate(p.detach()).square().sum() for name, p in self.model.named_parameters()}
        row = self._row(scores, squares, models.head_names(self.model), self.rate.value)
        numbers = {name: value.item() if isinstance(value, Tensor) else value for name, value in row.items()}
        self._keep(numbers | self._probed(probes.columns))

    def _probed(self, measure: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """What the trial's probe finds, which the main process measures for all."""
        mine = measure(self.probe, self.trial, self.model, self.splits, self.device) if distributed.is_main() else {}
        return distributed.broadcast(mine)

    def _predict(self, name: str) -> Tensor:
        """Raw logits z [N, K] of a split on the device, rows as its labels."""
        z_NK = predict(self.model, self.trial, self.splits, self.splits[name], self.device)
        self.model.train()
        return z_NK

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": vars(self.rate),
            **super().state(),
        }

    def result(self) -> TrialResult:
        """The run's result."""
        return self._result(
            self.trial,
            int(self.bad) if self.ended else None,
            {} if self.ended else {name: self._predict(name).cpu() for name in self.splits.measured},
            self.rows,
            self.rate,
            lambda: self.model,
            lambda model: self._probed(probes.arrays),
            self.snapshots.kept[0],
            mode=str(self.updater.mode),
            stack=1,
            world=distributed.world(),
            micro_batch=self.share // self.parts,
            precision=self.trial.precision,
            parameters=sum(p.numel() for p in self.model.parameters()),
        )
