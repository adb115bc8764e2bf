"""Arrays in files of numpy and safetensors, by name. Nothing pickled is read, so no file can run code."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from calib_bench.evaluation import Array
from calib_bench.evaluation.refusals import UNREADABLE, Refusal, refuse_repeated, unreadable

if TYPE_CHECKING:
    from torch import Tensor


class LazyArrays(Mapping[str, "Array"]):
    """Arrays by name, each read when it is asked for: an array that is not used is not read."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Array]) -> None:
        self.names, self.read = list(names), read

    def __getitem__(self, name: str) -> Array:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __len__(self) -> int:
        return len(self.names)


def npz(path: Path) -> Mapping[str, Array]:
    """The arrays of an npz archive.

    Raises:
        DataError: it cannot be read, now or when one of its arrays is asked for.
    """

    def member(name: str) -> Array:
        try:
            with np.load(path, allow_pickle=False) as file:
                return decoded(file[name])
        except UNREADABLE as error:
            raise unreadable(path, error, f"the array {name!r}") from None

    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise Refusal.NO_ARCHIVE.of(path)
            names = list(file.files)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    refuse_repeated(names, path, "array")
    return LazyArrays(names, member)


def decoded(array: Array) -> Array:
    """The array; texts in UTF-8 bytes, as `S4`, become texts, and all texts take Unicode's composed form.

    Raises:
        UnicodeDecodeError: its bytes are not UTF-8.
    """
    texts = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    return composed(texts).astype(str) if texts.dtype.kind == "U" else texts


def composed(texts: Array) -> Array:
    """Texts in Unicode's composed form, in which one word has one spelling, as an array of objects."""
    words = [unicodedata.normalize("NFC", str(text)) for text in texts.ravel().tolist()]
    return np.array(words, dtype=object).reshape(texts.shape)


def npy(path: Path) -> Array:
    """The array of an npy file.

    Raises:
        DataError: it cannot be read, or is an archive.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        raise Refusal.ARCHIVE.of(path)
    return array


def safetensors(path: Path) -> Mapping[str, Array]:
    """The arrays of a safetensors file; see `npz` for errors."""

    def member(name: str) -> Array:
        try:
            with safe_open(path, "pt") as file:
                return from_torch(file.get_tensor(name))
        except (SafetensorError, *UNREADABLE) as error:
            raise unreadable(path, error) from None

    try:
        with safe_open(path, "pt") as file:
            return LazyArrays(file.keys(), member)
    except (SafetensorError, *UNREADABLE) as error:
        raise unreadable(path, error) from None


def from_torch(tensor: Tensor) -> Array:
    """A CPU tensor as an array; types that numpy lacks, as bfloat16, become float32, which holds the same numbers."""
    import torch

    if not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64):
        return tensor.numpy()
    return tensor.float().numpy()
