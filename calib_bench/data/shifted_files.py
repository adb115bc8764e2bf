"""Shifted test data that the user has, in the layouts in which it is published: arrays, or class folders of images.

    FOLDER/labels.npy, FOLDER/<corruption>.npy      CIFAR-10-C: severities 1 to 5 one after the other
    FOLDER/<name>_data.npy, <name>_labels.npy       CIFAR-10.1; one of its pairs by its file
    FOLDER/<corruption>/<1-5>/<class>/<image>       ImageNet-C; a folder of several such folders too
    FOLDER/<class>/<image>                          ImageNet-V2

Arrays hold images uint8 [N, H, W, C], or floats [N, D], the columns of one's own data as they were before they were
scaled; labels count the classes of CIFAR-10, or those that a file classes.txt beside them names, one a line. Class
folders are named as the task's classes, by WordNet ids, or by their numbers in ImageNet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from calib_bench.core.corruption import PAIR, SEVERITIES, source_name
from calib_bench.core.splits import Split, Splits
from calib_bench.data.decoding import Greys
from calib_bench.data.heads import Head, Unmatched, places
from calib_bench.data.loading import decoded, strings_of
from calib_bench.data.naming import listed, matched
from calib_bench.data.partition import limited_rows
from calib_bench.data.raw_split import Part, beside, folder_part
from calib_bench.data.source import check_labels, digest_of
from calib_bench.data.stream import StreamSplit
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.data.text import TextSplit
from calib_bench.errors import DataError

LABELS, NAMES = "labels.npy", "classes.txt"
CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of arrays without names, in the order of their labels."""
END = 1 << 16
"""Bytes at either end of a file of images that its digest reads."""


@dataclass(frozen=True)
class Shifted:
    """Further test splits from one folder or file, by name, and the digest of what they were read from."""

    splits: dict[str, Split]
    digest: str


def read_shifted(source: Path, splits: Splits, task: str, limit: int | None) -> Shifted:
    """The shifted test data in a folder or file.

    Args:
        source: the folder, or the file of images of a pair.
        splits: of the task, whose classes, inputs and normalization the data takes.
        task, limit: as in the trials; a limit takes the same examples of each split.

    Raises:
        DataError: the layout is none of those known, inputs are not like the task's, or classes cannot be matched.
    """
    arrays = list(_arrays(source))
    reader = Reader(splits, task, limit)
    if arrays:
        return reader.from_arrays(arrays)
    folders = dict(_class_folders(source)) if source.is_dir() else {}
    if not folders:
        raise DataError(
            f"{source} holds no shifted data: expected {LABELS} and a file <corruption>.npy for each corruption, "
            f"<name>{PAIR} with <name>_labels.npy, or class folders of images, alone or as <corruption>/<1-5>/<class>."
        )
    return reader.from_folders(folders)


@dataclass(frozen=True)
class _Images:
    """Images in one array: the splits that it holds, each as many rows, and their labels."""

    names: tuple[str, ...]
    images: Path
    labels: Path


def _arrays(source: Path) -> Iterator[_Images]:
    """The arrays of images of a folder, or the one that a file is."""
    name = source_name(str(source))
    if source.is_file():
        yield _pair(source, name)
    elif (source / LABELS).is_file():
        for path in sorted(source.glob("*.npy")):
            if path.name != LABELS:
                names = tuple(f"{name}/{path.stem}/{severity}" for severity in SEVERITIES)
                yield _Images(names, path, source / LABELS)
    else:
        pairs = sorted(source.glob(f"*{PAIR}"))
        for path in pairs:
            yield _pair(path, name if len(pairs) == 1 else f"{name}/{source_name(str(path))}")


def _pair(images: Path, name: str) -> _Images:
    labels = images.with_name(images.name.removesuffix(PAIR) + f"_{LABELS}")
    if not (images.name.endswith(PAIR) and labels.is_file()):
        raise DataError(f"{images} is no file of images with its labels: expected <name>{PAIR} and <name>_labels.npy.")
    return _Images((name,), images, labels)


def _class_folders(source: Path) -> Iterator[tuple[str, Path]]:
    """By split the folder that holds its class folders."""
    by_severity = sorted(path for path in (*source.glob("*/[1-5]"), *source.glob("*/*/[1-5]")) if path.is_dir())
    for path in by_severity:
        yield f"{source.name}/{path.parent.name}/{path.name}", path
    if not by_severity and any(child.is_dir() and not beside(child) for child in source.iterdir()):
        yield source.name, source


@dataclass(frozen=True)
class Reader:
    """Reads further test splits that are like a task's own."""

    splits: Splits
    task: str
    limit: int | None

    def from_arrays(self, arrays: list[_Images]) -> Shifted:
        digest = hashlib.sha256()
        further: dict[str, Split] = {}
        for one in arrays:
            x, labels_N = self._inputs(one.images), self._labels(one.labels)
            if len(x) != len(labels_N):
                raise DataError(f"{one.images} holds {len(x):,} inputs and {one.labels} {len(labels_N):,} labels.")
            digest.update(f"{one.images.name}:{_ends(one.images)}:{labels_N.tobytes()!r}".encode())
            size, base = len(labels_N) // len(one.names), DeviceCache(x)
            for i, name in enumerate(one.names):
                rows = i * size + limited_rows(size, self.task, self.limit)
                further[name] = self._like_test(base, rows, labels_N)
        return Shifted(further, digest.hexdigest())

    def from_folders(self, folders: dict[str, Path]) -> Shifted:
        parts = [folder_part(name, folder) for name, folder in folders.items()]
        for part in parts:
            if part.names != parts[0].names or not np.array_equal(part.labels, parts[0].labels):
                raise DataError(f"{part.name} and {parts[0].name} hold other numbers of images of a class.")
        further = {part.name: self.split_of(replace(part, labels=self.labels_of(part))) for part in parts}
        return Shifted(further, digest_of(*parts))

    def split_of(self, part: Part) -> Split:
        """The examples of a part, prepared as the task's test split.

        Raises:
            DataError: they are not like the task's.
        """
        rows, test = limited_rows(len(part), self.task, self.limit), self.splits.test
        if isinstance(test, StreamSplit):
            return StreamSplit(part, rows, test.preprocess, Greys((part,)))
        if isinstance(test, TextSplit) and test.source is not None:
            texts = [test.source.prepared(text) for text in strings_of(part)]
            tokens, offsets = map(torch.from_numpy, test.source.encode(texts))
            return TextSplit(DeviceCache(tokens), offsets, rows, torch.from_numpy(part.labels)[rows])
        x_NCHW = decoded(part, "L" if self.splits.spec.shape[0] == 1 else "RGB", Greys((part,)))
        self._check_inputs(x_NCHW.shape[1:], x_NCHW.dtype, part.name)
        return self._like_test(DeviceCache(torch.from_numpy(x_NCHW)), rows, part.labels)

    def _like_test(self, base: DeviceCache, rows: torch.Tensor, labels_N: np.ndarray) -> TensorSplit:
        test = self.splits.test
        assert isinstance(test, TensorSplit)
        return TensorSplit(base, rows, torch.from_numpy(labels_N)[rows], normalize=test.normalize)

    def _inputs(self, path: Path) -> torch.Tensor:
        """Images uint8 [N, C, H, W], memory-mapped, or numbers float32 [N, D], scaled as the task's own."""
        array, columns = _loaded(path), self.splits.columns
        if columns is not None and columns.scale is not None:
            return columns.scaled(torch.from_numpy(self._numbers(array, path)))
        self._check_inputs((*array.shape[3:], *array.shape[1:3]), array.dtype, str(path))
        return torch.from_numpy(array.transpose(0, 3, 1, 2))

    def _numbers(self, x_ND: np.ndarray, path: Path) -> np.ndarray:
        """The array, which must hold finite floats for each of the task's columns."""
        if x_ND.dtype.kind != "f" or x_ND.shape[1:] != self.splits.spec.shape:
            raise DataError(
                f"{path} holds {x_ND.dtype} of shape {x_ND.shape}, and task '{self.task}' takes floats "
                f"[N, {self.splits.spec.shape[0]}], a value for each of its columns in their order."
            )
        if not (finite_N := np.isfinite(x_ND).all(1)).all():
            raise DataError(f"{path}: row {np.argmin(finite_N)} has a number that is not finite.")
        return x_ND

    def _check_inputs(self, shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
        """Raises DataError where images are not like those of the task."""
        test, of_task = self.splits.test, tuple(self.splits.spec.shape)
        is_pixels = isinstance(test, TensorSplit) and test.base.on(torch.device("cpu")).dtype == torch.uint8
        if not (is_pixels and dtype == np.uint8 and shape == of_task):
            raise DataError(
                f"{where} holds {dtype} images of shape {shape}, and task '{self.task}' takes "
                f"{'uint8' if is_pixels else 'other'} inputs of shape {of_task}: they must be alike."
            )

    def _labels(self, path: Path) -> np.ndarray:
        """int64 [N], of the task's classes."""
        labels_N = _loaded(path)
        if labels_N.ndim != 1 or labels_N.dtype.kind not in "iu":
            raise DataError(
                f"{path} holds {labels_N.dtype} of shape {labels_N.shape}, and labels are whole numbers [N]."
            )
        names_file = path.with_name(NAMES)
        names, origin = CIFAR10, f"{path}, whose labels count CIFAR-10's classes without {NAMES} beside it,"
        if names_file.is_file():
            names, origin = tuple(filter(None, names_file.read_text().split("\n"))), str(path)
        check_labels(str(path), labels_N, len(names))
        return matched(np.array(labels_N, dtype=np.int64), names, self.splits.class_names, origin)

    def labels_of(self, part: Part) -> np.ndarray:
        """Labels int64 [N] of a part as the task counts its classes, by the names that the part has for them.

        Raises:
            DataError: it names another class.
        """
        task_names = self.splits.class_names
        if self.splits.columns is not None or set(part.names) <= set(task_names):
            return matched(part.labels, part.names, task_names, part.name)
        head = imagenet()
        try:
            here = [head.synsets[place] for place in places(part.names, head)]
            there = [head.synsets[place] for place in places(task_names, head)]
        except Unmatched as error:
            strange = next(name for name in part.names if name not in task_names)
            raise DataError(
                f"{part.name} has a class '{strange}', which is no class of task '{self.task}' "
                f"({listed(task_names)}), nor do the names match as ImageNet's classes: {error}."
            ) from None
        return matched(part.labels, here, there, part.name)


def imagenet() -> Head:
    """The 1,000 classes of ImageNet in their order, by which numbers and WordNet ids are matched."""
    from timm.data import ImageNetInfo

    classes = ImageNetInfo("imagenet-1k")
    return Head(tuple(classes.label_names()), tuple(classes.label_descriptions()))


def _loaded(path: Path) -> np.ndarray:
    """An array, memory-mapped copy-on-write.

    Raises:
        DataError: the file holds none.
    """
    try:
        array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an array: {error}") from error
    return array


def _ends(path: Path) -> str:
    """SHA-256 of a file's size and its first and last bytes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(END)
        file.seek(max(0, size - END))
        return hashlib.sha256(str(size).encode() + head + file.read(END)).hexdigest()
