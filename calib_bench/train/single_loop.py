"""The training loop of one model, on one device or, under torchrun, on many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench import models
from calib_bench.core.splits import SPLITS, Split, Splits
from calib_bench.core.trial import Outcome, Trial
from calib_bench.data.label_noise import training
from calib_bench.errors import SettingsError
from calib_bench.system import shutdown
from calib_bench.system.random import seed_of
from calib_bench.train import callbacks, distributed, initialize, probes
from calib_bench.train.checkpoint import Checkpoint
from calib_bench.train.grad_accumulation import count_parts, ghost, track
from calib_bench.train.history import (
    CHECK_STEPS,
    EVAL_BATCH,
    Ticker,
    accurate,
    environment_facts,
    row_epochs,
    score,
    table,
)
from calib_bench.train.learning_rate import Rate, resolve
from calib_bench.train.loss import Course, Loss
from calib_bench.train.optimizer import factor, make_optimizer, switch_head
from calib_bench.train.update import Compile, Updater, choose, rows


def train_single(
    trial: Trial,
    splits: Splits,
    *,
    device: torch.device,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: initialize.Progress = initialize.silent,
    compile: Compile = "auto",
    micro_batch: int | None = None,
) -> Outcome:
    """Train one model; arguments as in `calib_bench.train.train`.

    In a process group each process takes its rows of every global batch and all return the same outcome; only the
    main process's `checkpoint` is used.

    Raises:
        SettingsError: the trial cannot be trained as it is set.
        StoreError: the checkpoint cannot be written.
    """
    _check_world(trial, splits.train)
    splits = training(splits, trial)
    saver = Checkpoint(checkpoint if distributed.is_main() else None, trial.key, checkpoint_seconds)
    run = _Run(trial, splits, device, distributed.broadcast(saver.load()), compile, micro_batch)
    ticker = Ticker(progress)
    ticker.tell(run.step)
    start = run.step
    while not run.over():
        run.epoch(saver, ticker)
    ticker.finish(trial.epochs * run.per_epoch)
    if run.step > start:
        run.save(saver, due=True)
    return run.outcome()


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


class _Run:
    """The state of one training run and what may be done with it."""

    def __init__(
        self,
        trial: Trial,
        splits: Splits,
        device: torch.device,
        saved: dict[str, Any] | None,
        compile: Compile = "auto",
        micro_batch: int | None = None,
    ) -> None:
        self.trial, self.splits, self.device = trial, splits, device
        self.model = initialize.initial_model(trial, splits, device)
        self.rate = Rate(**saved["rate"]) if saved else self._resolve()
        self.optimizer = make_optimizer(trial, self.model, self.rate.value, self.rate.eps(trial))
        self.share = min(trial.batch, len(splits.train)) // distributed.world()
        self.parts = count_parts(trial, self.model, self.share, micro_batch)
        self.norms = ghost(self.model) if trial.norm_batch else []
        self.parallel = distributed.parallel(self.model, device, synchronised=not self.norms)
        self._order_gradients()
        self.draws = initialize.stochastic(self.model)
        self.per_epoch = splits.train.steps(trial.batch)
        self.course = Course(trial, trial.epochs * self.per_epoch)
        self.course.check(splits.spec, distributed.world() * self.parts)
        self.measured = row_epochs(trial.epochs, self.per_epoch)
        self.step, self.ended, self.rows = 0, False, []  # type: int, bool, list[dict[str, float]]
        self.before, self.began = 0.0, time.monotonic()
        self.accord = distributed.Accord(device)
        if saved:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        self.updater = self._updater(compile)
        if saved:
            self._restore(saved)
        else:
            self._measure()

    def _order_gradients(self) -> None:
        """One gradient, thrown away, so that a run that goes on from a checkpoint sums as one that was never stopped.

        After its first step, `DistributedDataParallel` sorts gradients anew, by the order in which they came; and where
        a gradient lies decides in which order more than two processes add it up.
        """
        if distributed.world() == 1 or not self.trial.epochs:
            return
        kept = {name: value.clone() for name, value in self.model.state_dict().items()}
        x, y = next(iter(self._batches(0)))
        self.parallel.train()
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
        steps, alone = self.trial.epochs * self.per_epoch, not self.draws and distributed.world() * self.parts == 1
        mode = choose(self.trial, compile, self.device, self.splits.spec, self.splits.classes, steps, alone)
        loss = Loss({name: self._number(strength) for name, strength in self.trial.terms.items()})
        return Updater(self.trial, self.parallel, self.optimizer, loss, self.device, mode, parts=self.parts)

    def _number(self, value: float) -> Tensor:
        dtype = torch.float64 if self.trial.precision == "fp64" else torch.float32
        return torch.tensor(value, dtype=dtype, device=self.device)

    def _resolve(self) -> Rate:
        if not distributed.is_main():
            return distributed.broadcast(Rate(0.0))
        return distributed.broadcast(resolve(self.trial, self.model, self.splits, self.device))

    def over(self) -> bool:
        return self.ended or self.step >= self.trial.epochs * self.per_epoch

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.began

    def epoch(self, saver: Checkpoint, ticker: Ticker) -> None:
        """Train to the end of the current epoch, or to a divergence."""
        epoch, done = divmod(self.step, self.per_epoch)
        self.parallel.train()
        for x, y in self._batches(epoch, skip=done):
            self._update(x, y, epoch)
            ticker.tell(1)
            self.accord.step()
            if self.step % CHECK_STEPS == 0 and self._diverged():
                return
            if self.step % self.per_epoch:
                self.save(saver, saver.due())
        if self._diverged():
            return
        if epoch + 1 in self.measured:
            self._measure()
        self.updater.tally.zero_()
        self.save(saver, saver.due())

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
        if (change := self.course.head_factor(self.step)) != 1:
            switch_head(self.optimizer, models.head(self.model), change)
        numbers: dict[str, float | Tensor] = {"beta": self.course.beta(self.step)}
        if self.course.mixer:
            share, partner_B = self.course.mixture(epoch, self.step % self.per_epoch, len(y))
            numbers |= {"share": share, "partner": torch.from_numpy(partner_B)}
        self.updater(x, y, self.step, self._factor(self.step), numbers)
        track(self.norms)
        self.step += 1

    def _factor(self, step: int) -> float:
        total = self.trial.epochs * self.per_epoch
        return factor(self.trial.schedule, step, total, self.per_epoch, self.trial.warmup) if total else 1.0

    def _diverged(self) -> bool:
        self.ended = int(self.updater.bad) >= 0
        return self.ended

    def _measure(self) -> None:
        y_N = self.splits.selection.labels.to(self.device)
        beta = self._number(self.course.base(max(0, self.step - 1)))
        scores = score(self.predict("selection"), y_N, beta)
        loss, correct, count = self.updater.tally.tolist()
        squares = {name: accurate(p.detach()).square().sum() for name, p in self.model.named_parameters()}
        head = {id(p) for p in models.head(self.model).parameters()}
        of_head = [squares[name] for name, p in self.model.named_parameters() if id(p) in head]
        self.rows.append(
            {
                "epoch": self.step // self.per_epoch,
                "step": self.step,
                "train_loss": loss / count if count else float("nan"),
                "train_accuracy": correct / count if count else float("nan"),
                **{name: float(value) for name, value in scores.items()},
                "weight_norm": float(torch.stack(list(squares.values())).sum().sqrt()),
                "head_norm": float(torch.stack(of_head).sum().sqrt()),
                "lr": self.rate.value * self._factor(max(0, self.step - 1)),
                "seconds": self.seconds(),
                **self._probed(probes.columns),
            }
        )
        callbacks.tell((self.trial,), self.rows[-1])

    def _probed(self, measure: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """What the trial's probe finds, which the main process measures for all."""
        mine = measure(self.trial, self.model, self.splits, self.device) if distributed.is_main() else {}
        return distributed.broadcast(mine)

    def _eval_batch(self) -> int:
        """A GPU needs more examples at once to be busy."""
        values = max(1, math.prod(self.splits.spec.shape))
        return max(EVAL_BATCH, min(2048, 2**23 // values)) if self.device.type == "cuda" else EVAL_BATCH

    @torch.no_grad()
    def predict(self, name: str) -> Tensor:
        """Raw logits z [N, K] of a split on the device, rows as its labels."""
        split = self.splits[name]
        parts, indices = [], []
        self.model.eval()
        batches = split.eval_batches(
            batch=self._eval_batch(), device=self.device, rank=distributed.rank(), world=distributed.world()
        )
        for x, index in batches:
            with initialize.autocast(self.trial, self.device):
                z = self.model(initialize.prepare(x, self.trial.precision))
            parts.append(z if z.dtype == torch.float64 else z.float())
            indices.append(index)
        self.model.train()
        dtype = torch.float64 if self.trial.precision == "fp64" else torch.float32
        empty = torch.zeros((0, self.splits.classes), device=self.device, dtype=dtype)
        index = torch.cat([*indices, torch.zeros(0, dtype=torch.int64)])
        return distributed.gather_rows(torch.cat([*parts, empty]), index, len(split))

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": vars(self.rate),
            "step": self.step,
            "bad": self.updater.bad,
            "tally": self.updater.tally,
            "rows": self.rows,
            "seconds": self.seconds(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        self.step, self.rows, self.before = saved["step"], saved["rows"], saved["seconds"]
        self.updater.bad.copy_(saved["bad"])
        self.updater.tally.copy_(saved["tally"])

    def outcome(self) -> Outcome:
        """The result; a run whose last update broke the model has diverged too."""
        logits = {} if self.ended else {name: self.predict(name).cpu() for name in SPLITS}
        bad = int(self.updater.bad) if self.ended else None
        if not all(bool(z.isfinite().all()) for z in logits.values()):
            logits, bad = {}, self.step
        facts = {
            **self.rate.facts(),
            "diverged_step": bad,
            "steps": self.step if bad is None else bad,
            "seconds": self.seconds(),
            "mode": str(self.updater.mode),
            "stack": 1,
            "world": distributed.world(),
            "micro_batch": self.share // self.parts,
            "precision": self.trial.precision,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            **environment_facts(self.device),
        }
        arrays = self._probed(probes.arrays) if bad is None else {}
        status = "done" if bad is None else "diverged"
        return Outcome(self.trial, status, logits, table(self.rows, bad), facts, arrays)
