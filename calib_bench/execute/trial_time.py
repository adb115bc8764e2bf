"""How long a trial takes, before it runs: guessed from its operations, or a few updates of a small one are timed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from calib_bench import registry
from calib_bench.core.splits import SPLITS, Split, Splits
from calib_bench.core.trial import Trial
from calib_bench.data.text import TextSplit
from calib_bench.models import flops as operations
from calib_bench.system.device import as_in_worker
from calib_bench.system.random import seeded, stream
from calib_bench.train import distributed
from calib_bench.train.train import train

FEW, MORE = 2, 10
"""Updates of two short runs, whose difference in time is that of their updates: they start alike, once one has run."""
WORTH = 0.2
"""Most seconds that an update may take, by its operations, to be timed."""
PLAIN = {"epochs": 1, "warmup": 0.0, "lr_unit": "lr", "lr": 1e-3, "limit": None, "probe": None, "keep": None, "seed": 0,
         "switch_from": None, "switch_at": 0.0, "label_noise": 0.0, "beta": 1.0, "weights": None, "pretrained": False,
         "degree": None, "eps_scale": "none", "decay_scale": "none", "clip_scale": "none"}  # fmt: skip
"""What an update's time does not depend on, as a short run has it."""


def seconds(trials: Sequence[Trial], splits: Splits, device: str, threads: int = 1) -> list[float | None]:
    """Estimated time of each trial on a device; None where it is not known.

    Texts are counted as long as they are on average. On a CPU, where the operations of an update on them take little
    time, a few updates are timed, once for all trials alike: reading and adding then take longer than multiplying.

    Args:
        threads: of a worker.

    Raises:
        SettingsError: a model does not take the task's inputs.
    """
    timed: dict[Trial, float | None] = {}
    estimates = []
    for trial in trials:
        plain = trial.model_copy(update=PLAIN)
        if plain not in timed:
            with seeded("timed"), as_in_worker(threads):
                timed[plain] = _update_seconds(plain, splits, device)
        update = timed[plain]
        estimates.append(None if update is None else update * _updates(trial, splits))
    return estimates


def _updates(trial: Trial, splits: Splits) -> float:
    """Updates of a trial, and how many take as long as its predictions at the end."""
    batch = min(trial.batch, len(splits.train))
    predicted = sum(len(splits[name]) for name in SPLITS)
    return (len(splits.train) * trial.epochs + predicted / operations.TRAINING) / batch


def _update_seconds(plain: Trial, splits: Splits, device: str) -> float | None:
    spec, batch = splits.spec, min(plain.batch, len(splits.train))
    if isinstance(splits.train, TextSplit):
        spec = replace(spec, shape=(round(float(splits.train.lengths.double().mean())),))
    flops = plain.copies * operations.flops_per_example(plain.model, spec, splits.classes)
    by_operations = operations.estimate_seconds(flops, 1, batch, device, plain.precision)
    if by_operations is None or by_operations > WORTH or not _can_be_timed(splits, device):
        return by_operations
    try:
        _, few, more = (_run_seconds(plain, splits, batch * updates) for updates in (FEW, FEW, MORE))
    except Exception:  # whatever a plug-in raises: its trials will say so
        return by_operations
    return max((more - few) / (MORE - FEW), by_operations)


def _can_be_timed(splits: Splits, device: str) -> bool:
    """Texts, on this processor; under torchrun a process that trained alone would wait for the others for ever."""
    return isinstance(splits.train, TextSplit) and device == "cpu" and distributed.world() == 1


def _run_seconds(plain: Trial, splits: Splits, examples: int) -> float:
    """Seconds of a short run on some of the training texts, on this processor."""
    one = _drawn(splits.test, 1)
    short = replace(splits, train=_drawn(splits.train, examples), selection=one, calibration=one, test=one, shifted={})
    start = time.perf_counter()
    train([plain], short, device=torch.device("cpu"), objectives=registry.objectives(), compile="no")
    return time.perf_counter() - start


def _drawn(split: Split, count: int) -> Split:
    """`count` random texts of a split, some of them twice where it has fewer."""
    assert isinstance(split, TextSplit)
    chosen = torch.randint(len(split), (count,), generator=stream("timed", count))
    return replace(split, rows=split.rows[chosen], labels=split.labels[chosen])
