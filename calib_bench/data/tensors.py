"""Splits that live in memory: vectors and small images, batched, augmented and normalized where the model is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from calib_bench.core.splits import Split
from calib_bench.data.augment import Augment
from calib_bench.system.random import stream

Normalize = tuple[tuple[float, ...], tuple[float, ...]]
"""Channel means and deviations, of pixels in [0, 1] where the data is uint8."""


CHUNK = 64
"""Steps whose random numbers go to a GPU together: many small transfers would wait on one another."""

READY_VALUES = 1 << 22
"""Values of a split that is prepared once and for all: 16 MiB."""


class DeviceCache:
    """A CPU tensor and its copies: each device gets one, on first use, shared by every split that reads it."""

    def __init__(self, tensor: Tensor) -> None:
        self._on = {"cpu": tensor}

    def on(self, device: torch.device) -> Tensor:
        if str(device) not in self._on:
            self._on[str(device)] = self._on["cpu"].to(device)
        return self._on[str(device)]


def order(count: int, seed: int, epoch: int) -> Tensor:
    """int64 [count]: the order of the examples in an epoch, a function of (count, seed, epoch)."""
    return torch.randperm(count, generator=stream("order", seed, epoch))


def whole_batches(order_N: Tensor, batch: int) -> Tensor:
    """[N] -> [steps, B], the incomplete last batch dropped; B is `batch`, or N where that is smaller."""
    batch = min(batch, len(order_N))
    return order_N[: len(order_N) // batch * batch].view(-1, batch)


def normalized(x: Tensor, normalize: Normalize | None, out: Tensor | None = None) -> Tensor:
    """x as float32, channels (axis -3) centred and scaled; uint8 counts as pixels, and becomes [0, 1] first.

    `out`, float32 and of the shape of x, takes the result where it is given.
    """
    scale = 255.0 if x.dtype == torch.uint8 else 1.0
    out = x.to(torch.float32, copy=True) if out is None else out.copy_(x)
    if normalize is None:
        return out.div_(scale)
    mean, std = _channels(normalize, scale, x.device)
    return out.sub_(mean).div_(std)


@lru_cache(maxsize=32)
def _channels(normalize: Normalize, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Means and deviations as float32 [C, 1, 1] on the device: made once, since each is a transfer."""
    mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) * scale for values in normalize)
    return mean.to(device), std.to(device)


@dataclass(eq=False)
class TensorSplit:
    """Rows `rows` of a tensor in memory. Several passes at once do not disturb each other: models may be stacked on it.

    Attributes:
        base: [M, ...] uint8 (pixels) or floating, shared with the other splits.
        rows: int64 [N] into base, on the CPU.
        labels: int64 [N].
        augment: maps of whole image batches, applied in training in this order, before normalization.
        normalize: channel means and deviations, or None.
        independent: whether training batches are drawn with replacement, every one from all examples.
    """

    base: DeviceCache
    rows: Tensor
    labels: Tensor
    augment: tuple[Augment, ...] = ()
    normalize: Normalize | None = None
    independent: bool = False
    _labels: DeviceCache = field(init=False, repr=False)
    _rows: DeviceCache = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._labels, self._rows = DeviceCache(self.labels), DeviceCache(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Tensor:
        """[N, ...], as stored: a copy on the CPU."""
        return self.base.on(torch.device("cpu"))[self.rows]

    def order(self, seed: int, epoch: int) -> Tensor:
        """int64 [N]: the order of the examples in an epoch."""
        return order(len(self), seed, epoch)

    def steps(self, batch: int) -> int:
        return len(self) // min(batch, len(self))

    def _batches(self, seed: int, epoch: int, batch: int) -> Tensor:
        """int64 [steps, B]: the examples of each step of an epoch."""
        if not self.independent:
            return whole_batches(self.order(seed, epoch), batch)
        shape = self.steps(batch), min(batch, len(self))
        return torch.randint(len(self), shape, generator=stream("independent", seed, epoch))

    def inputs(self, index: Tensor, device: torch.device) -> Tensor:
        """Prepared x, without augmentation, of the examples at `index`, int64 of any shape [...]: [..., *shape]."""
        rows = self._rows.on(device)[index.to(device, non_blocking=True)]
        return normalized(self.base.on(device)[rows], self.normalize)

    def train_batches(
        self, *, seed: int, epoch: int, batch: int, device: torch.device, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """As in `Split`; a step's random numbers are drawn for its whole global batch."""
        labels = self._labels.on(device)
        ready = self._ready.on(device) if self._whole() else None
        base = self.base.on(device)
        index_SB = self._batches(seed, epoch, batch)
        mine_SB = index_SB[:, rank::world].to(device)
        rows_SB = self._rows.on(device)[mine_SB]
        chunk = CHUNK if device.type == "cuda" else 1
        for start in range(skip, len(index_SB), chunk):
            steps = range(start, min(start + chunk, len(index_SB)))
            drawn = self._drawn(steps, index_SB.shape[1], seed, epoch, device, rank, world)
            for at, step in enumerate(steps):
                if ready is not None:
                    yield ready[mine_SB[step]], labels[mine_SB[step]]
                    continue
                x = base[rows_SB[step]]
                for augment, drawn_SB in zip(self.augment, drawn, strict=True):
                    x = augment(x, drawn_SB[at])
                yield normalized(x, self.normalize), labels[mine_SB[step]]

    def _whole(self) -> bool:
        """Whether the split is kept as its batches are, prepared once: few values, and never augmented."""
        return not self.augment and len(self) * self.base.on(torch.device("cpu"))[0].numel() <= READY_VALUES

    @cached_property
    def _ready(self) -> DeviceCache:
        return DeviceCache(normalized(self.x, self.normalize))

    def _drawn(
        self, steps: range, batch: int, seed: int, epoch: int, device: torch.device, rank: int, world: int
    ) -> list[Tensor]:
        """Random numbers [steps, B, ...] of each augmentation, on the device: each step has a generator of its own."""
        drawn: list[list[Tensor]] = [[] for _ in self.augment]
        for step in steps if self.augment else ():
            generator = stream("augment", seed, epoch, step)
            for augment, parts in zip(self.augment, drawn, strict=True):
                parts.append(augment.draw(batch, generator)[rank::world])
        stacked = [torch.stack(parts) for parts in drawn]
        if device.type == "cuda":
            stacked = [tensor.pin_memory() for tensor in stacked]
        return [tensor.to(device, non_blocking=True) for tensor in stacked]

    def eval_batches(
        self, *, batch: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.arange(len(self)).split(batch):
            if len(index := index[rank::world]):
                yield self.inputs(index, device), index


def tensor_splits(
    x: dict[str, Tensor],
    labels: dict[str, Tensor],
    rows: dict[str, Tensor],
    augment: tuple[Augment, ...] = (),
    normalize: Normalize | None = None,
) -> dict[str, TensorSplit]:
    """A split for each entry of `rows`, over the tensor of its pool: "test" where there is one, else "train"."""
    bases = {pool: DeviceCache(tensor) for pool, tensor in x.items()}
    splits = {}
    for name, index in rows.items():
        pool = name if name in x else "train"
        maps = augment if name == "train" else ()
        splits[name] = TensorSplit(bases[pool], index, labels[pool][index], maps, normalize)
    return splits


def with_labels(split: Split, labels_N: Tensor) -> Split:
    """The split with other labels, int64 [N]."""
    if isinstance(split, TensorSplit):
        return replace(split, labels=labels_N)
    changed = copy.copy(split)
    changed.labels = labels_N
    return changed
