"""Splits: what a task's data looks like to everything downstream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

SPLITS = ("selection", "calibration", "test")
"""The splits on which every trial leaves logits."""


@dataclass(frozen=True)
class Request:
    """What a task is asked to load.

    Attributes:
        task: the task's name, for messages and for the folder under the data root.
        data: folder named by the user, or None to look in $CALIB_BENCH_DATA/<task> and then on the Hub.
        split: seed of the partition.
        limit: at most this many training examples, and of each other split; None is all.
        model: the model's name, where preprocessing depends on it (timm's transforms).
        fetch: whether data that is not on this machine is downloaded.
        input, label: columns that the user named, of a task whose data the user brings.
    """

    task: str
    data: Path | None = None
    split: int = 0
    limit: int | None = None
    model: str | None = None
    fetch: bool = True
    input: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class InputSpec:
    """What a model must accept: kind "vector" (shape [D]), "image" (shape [C, H, W]) or "tokens" (vocabulary size)."""

    kind: str
    shape: tuple[int, ...] = ()
    vocabulary: int = 0


@dataclass(frozen=True, eq=False)
class Columns:
    """What the user's own data is read by.

    Attributes:
        input: columns of inputs; none in class folders.
        label: the column of classes.
        scale: mean and deviation of numbers in the training split, float64 [D]; None of other inputs.
    """

    input: tuple[str, ...]
    label: str
    scale: tuple[Tensor, Tensor] | None = None

    def scaled(self, x_ND: Tensor) -> Tensor:
        """Numbers [N, D] as networks get them, float32: less the mean, over the deviation; others as they are."""
        if self.scale is None or x_ND.shape[1:] != self.scale[0].shape:
            return x_ND
        mean_D, std_D = self.scale
        return ((x_ND.double() - mean_D) / std_D).float()


class Split(Protocol):
    """Examples of one split, delivered in batches on a device.

    A batch's `x` is a tensor, or for text a pair (tokens [B, L] int64 right-padded, lengths [B] int64).
    """

    labels: Tensor
    """int64 [N]."""

    def __len__(self) -> int: ...

    def steps(self, batch: int) -> int:
        """Training steps in an epoch of whole global batches; at least 1."""
        ...

    def train_batches(
        self, *, seed: int, epoch: int, batch: int, device: torch.device, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Any, Tensor]]:
        """(x, y) of every step of an epoch from step `skip` on: a pure function of (seed, epoch, step).

        `batch` is the global batch; with `world` > 1 this process gets rows rank::world of each, in the order of one
        process, with the same augmentation.
        """
        ...

    def eval_batches(
        self, *, batch: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Any, Tensor]]:
        """(x, index) over every example once, without augmentation; index is int64 [B] on the CPU, rows of `labels`."""
        ...


@dataclass(frozen=True, eq=False)
class Splits:
    """The four splits with their origin.

    Attributes:
        source: where the data came from, for people.
        digest: SHA-256 of the content that was used, before it is partitioned.
        preparation: SHA-256 of what was made of it: the rows of each split, and how they were prepared.
        classes: number of classes K.
        class_names: K names.
        shifted: further test splits by name, see `calib_bench.core.corruption.ShiftedSplit`.
        columns: of the user's own data.
    """

    train: Split
    selection: Split
    calibration: Split
    test: Split
    spec: InputSpec
    classes: int
    class_names: tuple[str, ...]
    source: str
    digest: str
    notes: Mapping[str, str]
    preparation: str = ""
    shifted: Mapping[str, Split] = field(default_factory=dict)
    columns: Columns | None = None

    def __getitem__(self, name: str) -> Split:
        return self.shifted[name] if name in self.shifted else getattr(self, name)

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the splits on which a trial leaves logits."""
        return (*SPLITS, *self.shifted)

    def labels(self) -> dict[str, Tensor]:
        """Labels int64 [N] of `SPLITS`, and of further test splits with other labels than the test split's."""
        shifted = {name: split.labels for name, split in self.shifted.items()}
        other = {name: y_N for name, y_N in shifted.items() if not torch.equal(y_N, self.test.labels)}
        return {name: self[name].labels for name in SPLITS} | other
