"""Training: one loop for a single model, one for a stack of models that differ only in numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from calib_bench.core.baseline import NO_OBJECTIVES, Objectives
from calib_bench.core.splits import Splits
from calib_bench.core.study import Probe
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.data.tensors import TensorSplit
from calib_bench.errors import OutOfMemory, SettingsError
from calib_bench.train import distributed
from calib_bench.train.fusion import fuse_key
from calib_bench.train.single_loop import train_single
from calib_bench.train.stacked_loop import train_fused
from calib_bench.train.update import Compile

__all__ = ["fuse_key", "train"]
log = logging.getLogger(__name__)


def train(
    trials: Sequence[Trial],
    splits: Splits,
    *,
    device: torch.device,
    objectives: Objectives = NO_OBJECTIVES,
    probe: Probe | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    progress: Callable[[int], None] = lambda steps: None,
    compile: Compile = "auto",
    micro_batch: int | None = None,
) -> list[TrialResult]:
    """Train trials that share their data: as one stack when they share a `fuse_key`, else one after another.

    A trial that can be stacked goes through the stacked loop even when alone, so that its result does not depend on
    which others happened to be left to run. Under distributed data parallel every trial goes through the single loop.

    Args:
        trials: what to train, of one task, split and limit.
        splits: their data.
        device: where to train.
        objectives: those that the trials name, or more.
        probe: what the trials' field `probe` names, the same for all; None where they name none.
        checkpoint: file to resume from and to save to; it holds the end too, until the caller has stored the results
            and removes it. None saves nothing.
        checkpoint_seconds: at most this often; 0 is after every step.
        progress: called now and then with how many optimizer steps were done since; a step of a stack of S models
            counts S, and the total is the sum over trials of `epochs * steps`, also when a trial diverges.
        compile: of trials that train alone: "auto" compiles long ones and records CUDA graphs, "no" and "yes" insist.
        micro_batch: of trials that train alone: most examples that a process takes at once. One that does not fit in
            memory in a single process is halved until it does, where that changes no more than rounding.

    Raises:
        OutOfMemory: the device has not enough memory.
        SettingsError: a trial cannot be trained as it is set.
    """
    if any((trial.probe is None) != (probe is None) for trial in trials):
        raise ValueError("every trial or none has a probe, and `train` is given it")
    options = {
        "device": device,
        "objectives": objectives,
        "probe": probe,
        "checkpoint_seconds": checkpoint_seconds,
        "progress": progress,
    }
    try:
        if _make_one_stack(trials, splits, objectives, device):
            return train_fused(trials, splits, checkpoint=checkpoint, **options)  # type: ignore[arg-type]
        results = []
        for trial in trials:
            path = checkpoint and (checkpoint if len(trials) == 1 else Path(f"{checkpoint}.{trial.key}"))
            results.append(_fitting(trial, splits, micro_batch, checkpoint=path, compile=compile, **options))
        return results
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"device {device} ran out of memory training {trials[0].model!r} with batch={trials[0].batch} and "
            f"{len(trials)} model(s) at once; choose a smaller batch, or precision=bf16"
        ) from error


def _make_one_stack(trials: Sequence[Trial], splits: Splits, objectives: Objectives, device: torch.device) -> bool:
    """Whether trials train as one stack: they share a key, and one process has their data in memory."""
    keys = {fuse_key(trial, objectives, device.type) for trial in trials}
    return len(keys) == 1 and None not in keys and distributed.world() == 1 and isinstance(splits.train, TensorSplit)


def _fitting(trial: Trial, splits: Splits, micro_batch: int | None, **options: Any) -> TrialResult:
    """Train one trial, its batches in ever smaller parts while they do not fit, from the last checkpoint each time."""
    failed: Exception | None = None
    while True:
        try:
            return train_single(trial, splits, micro_batch=micro_batch, **options)
        except SettingsError:
            if failed is None:
                raise
            raise failed from None  # in parts it would be another trial
        except (RuntimeError, MemoryError) as error:
            most = min(micro_batch or trial.batch, trial.batch, len(splits.train))
            if distributed.world() > 1 or most < 2 or not _is_out_of_memory(error):
                raise
            failed, micro_batch = error.with_traceback(None), most // 2  # frames would hold on to the memory
            log.warning("%s: batches do not fit in memory; taken %d examples at a time", trial.key, micro_batch)


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
