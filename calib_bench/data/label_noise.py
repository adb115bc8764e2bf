"""The training split as a trial asks for it: with noise in its labels, and its batches drawn with replacement."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from calib_bench.core.splits import Splits
from calib_bench.core.trial import Trial
from calib_bench.data.tensors import TensorSplit, with_labels
from calib_bench.errors import SettingsError
from calib_bench.system.random import stream


def training(splits: Splits, trial: Trial) -> Splits:
    """The splits on which a trial trains; those that are given where it asks for nothing. Others than train stay.

    Raises:
        SettingsError: batches are to be drawn with replacement from data that is not in memory as tensors.
    """
    train = splits.train
    if trial.label_noise:
        train = with_labels(train, noisy(train.labels, trial.label_noise, splits.classes, trial.split))
    if trial.sampling == "independent":
        if not isinstance(train, TensorSplit):
            raise SettingsError(
                f"sampling=independent draws single examples of data that is in memory as tensors, and that of task "
                f"{trial.task!r} is not: leave it at shuffled"
            )
        train = replace(train, independent=True)
    return splits if train is splits.train else replace(splits, train=train)


def noisy(labels_N: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """Labels of which `share` (rounded to whole examples) are another class, each other one with equal chance.

    The same examples for the same seed, and those of a smaller share are among those of a larger one.
    """
    g = stream("label_noise", seed)
    order_N = torch.randperm(len(labels_N), generator=g)
    shift_N = torch.randint(1, classes, (len(labels_N),), generator=g)
    chosen = order_N[: round(share * len(labels_N))]
    out_N = labels_N.clone()
    out_N[chosen] = (labels_N[chosen] + shift_N[chosen]) % classes
    return out_N
