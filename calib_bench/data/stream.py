"""Splits too large for memory: images decoded and transformed by worker processes, in constant memory."""

from __future__ import annotations

import copy
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib_bench.data.decoding import Greys, decode
from calib_bench.data.raw_split import Part
from calib_bench.data.tensors import Normalize, normalized, order, whole_batches
from calib_bench.errors import DataError, SettingsError
from calib_bench.system import environment, shutdown
from calib_bench.system.random import seeded

Item = tuple[int, int, int]
"""(row, seed, epoch) of a training example; seed -1 asks for the evaluation transform."""
Spoil = Callable[[Tensor, int], Tensor]
"""(image uint8 [3, S, S], its row) -> the image spoiled."""


@dataclass(frozen=True)
class Preprocess:
    """How images of any size become [3, S, S]: timm's names and meanings."""

    size: int = 224
    crop_pct: float = 0.875
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def transform(self, training: bool) -> Any:
        """PIL image -> uint8 [3, S, S]: random resized crop and flip to train, resize and centre crop to evaluate.

        Every other augmentation of timm's is off.
        """
        from timm.data import create_transform

        options: dict[str, Any] = {
            "input_size": (3, self.size, self.size),
            "is_training": training,
            "use_prefetcher": True,  # uint8 out: normalization is left to the device
            "scale": (0.08, 1.0),
            "ratio": (3 / 4, 4 / 3),
            "hflip": 0.5,
            "vflip": 0.0,
            "color_jitter": None,
            "grayscale_prob": 0.0,
            "gaussian_blur_prob": 0.0,
            "auto_augment": None,
            "re_prob": 0.0,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
        }
        return create_transform(**options)

    def __str__(self) -> str:
        return f"{self.size} x {self.size}, {self.interpolation}, centre crop {self.crop_pct:g}"


def preprocess_for(model: str | None) -> Preprocess:
    """What the pretrained configuration of a timm model says ("timm/NAME"); the usual ImageNet one for other models."""
    if not (model or "").startswith("timm/"):
        return Preprocess()
    import timm

    config = timm.get_pretrained_cfg(str(model).removeprefix("timm/"))
    if config is None:
        return Preprocess()
    return Preprocess(config.input_size[-1], config.crop_pct, config.interpolation, config.mean, config.std)


def loader_workers() -> int:
    """Worker processes a loader uses: $CALIB_BENCH_LOADERS, else one core less than this process's share, 8 at most.

    Raises:
        SettingsError: the variable is not a whole number.
    """
    text = os.environ.get("CALIB_BENCH_LOADERS")
    if text is not None:
        if not text.strip().isdecimal():
            raise SettingsError(
                f"CALIB_BENCH_LOADERS={text!r} is not a number of worker processes; expected 0, 1, 2..."
            )
        return int(text)
    return max(0, min(8, environment.cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))


class Images(torch.utils.data.Dataset):
    """Rows of a `Part` as uint8 [3, S, S]; an image's augmentation is a function of (seed, epoch, row) alone."""

    def __init__(
        self, part: Part, preprocess: Preprocess, greys: Greys | None = None, spoil: Spoil | None = None
    ) -> None:
        """
        Args:
            spoil: (image, row) -> the image that is evaluated in its place; None leaves it as it is.
        """
        self.part, self.greys, self.spoil = part, greys, spoil
        self.transforms = {training: preprocess.transform(training) for training in (True, False)}

    def __getitem__(self, item: Item) -> Tensor | DataError:
        """An error is returned, not raised: a worker's traceback would be wrapped around its message."""
        row, seed, epoch = item
        try:
            image = decode(self.part.row(row), "RGB", self.part.where(row), self.greys)
        except DataError as error:
            return error
        if seed < 0:
            x = self.transforms[False](image)
            return x if self.spoil is None else self.spoil(torch.as_tensor(x), row)
        with seeded("augment", seed, epoch, row):
            return self.transforms[True](image)


def collate(images: list[Tensor | DataError]) -> Tensor | DataError:
    """Images stacked to uint8 [B, 3, S, S], or the first error among them."""
    tensors = [torch.as_tensor(image) for image in images if not isinstance(image, DataError)]
    return next((image for image in images if isinstance(image, DataError)), None) or torch.stack(tensors)


def apart(number: int) -> None:
    """For a loader's process: signals are for the one that it loads for. Terminals and launchers send them to whole
    process groups, and a loader that died of one would fail the training which is about to save."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    for ignored in (signal.SIGINT, *shutdown.WARNINGS):
        signal.signal(ignored, signal.SIG_IGN)


class Batches(torch.utils.data.Sampler[list[Item]]):
    """The batches of the coming pass; replaced before each one, so that worker processes outlive an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[np.ndarray] = []
        self.seed, self.epoch = -1, 0

    def __iter__(self) -> Iterator[list[Item]]:
        return ([(int(row), self.seed, self.epoch) for row in batch] for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class StreamSplit:
    """Rows `rows` of a `Part`, decoded as they are needed.

    Attributes:
        labels: int64 [N].
    """

    def __init__(self, part: Part, rows: Tensor, preprocess: Preprocess, greys: Greys | None = None) -> None:
        self.rows = rows
        self.labels = torch.from_numpy(part.labels)[rows]
        self.preprocess = preprocess
        self.normalize: Normalize = (preprocess.mean, preprocess.std)
        self._images = Images(part, preprocess, greys)
        self._train: torch.utils.data.DataLoader | None = None

    def spoiled(self, spoil: Spoil) -> StreamSplit:
        """The split with its images spoiled as they are evaluated."""
        changed = copy.copy(self)
        changed._images = Images(self._images.part, self.preprocess, self._images.greys, spoil)
        return changed

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, batch: int) -> int:
        return len(self) // min(batch, len(self))

    def train_batches(
        self, *, seed: int, epoch: int, batch: int, device: torch.device, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        index_SB = whole_batches(order(len(self), seed, epoch), batch)[skip:, rank::world]
        workers, pinned = self._workers(self.steps(batch)), device.type == "cuda"
        loader = self._train
        if loader is None or loader.pin_memory != pinned or loader.num_workers < workers:
            self._train = self._loader(device, workers, persistent=True)
        images = self._pass(self._train, list(index_SB), device, seed, epoch)
        for index_B, x in zip(index_SB, images, strict=True):
            yield x, self.labels[index_B].to(device, non_blocking=True)

    def eval_batches(
        self, *, batch: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        indices = [mine for index in torch.arange(len(self)).split(batch) if len(mine := index[rank::world])]
        images = self._pass(self._loader(device, self._workers(len(indices)), persistent=False), indices, device)
        for index_B, x in zip(indices, images, strict=True):
            yield x, index_B

    @staticmethod
    def _workers(batches: int) -> int:
        """Loader processes for so many batches: one batch is decoded sooner than a process starts."""
        return min(loader_workers(), max(0, batches - 1))

    def _loader(self, device: torch.device, workers: int, persistent: bool) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(
            self._images,
            batch_sampler=Batches(),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=device.type == "cuda",
            persistent_workers=persistent and workers > 0,
            prefetch_factor=2 if workers else None,
            worker_init_fn=apart,
            generator=torch.Generator(),  # its seeds would otherwise come from the global state
        )

    def _pass(
        self, loader: Any, indices: list[Tensor], device: torch.device, seed: int = -1, epoch: int = 0
    ) -> Iterator[Tensor]:
        """Normalized images of each batch of `indices`, in order.

        Raises:
            DataError: an image cannot be decoded.
        """
        plan = loader.batch_sampler
        plan.batches, plan.seed, plan.epoch = [self.rows[index].numpy() for index in indices], seed, epoch
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            out = _unpooled(batch.shape) if device.type == "cpu" else None
            yield normalized(batch.to(device, non_blocking=True), self.normalize, out)


def _unpooled(shape: torch.Size) -> Tensor:
    """An uninitialized float32 tensor in pages of its own, which go back to the system with it.

    Batches of tens of megabytes taken from glibc's heap fragment it: it grows by a batch a step.
    """
    return torch.frombuffer(mmap.mmap(-1, 4 * shape.numel()), dtype=torch.float32).view(shape)
