"""The test split as corruptions spoil it: what an input becomes depends on corruption, severity and example alone."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib_bench.core.corruption import SEVERITIES, Corruption
from calib_bench.core.splits import Split, Splits
from calib_bench.data.cache import Arrays, cached
from calib_bench.data.stream import StreamSplit
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.data.text import TextSplit
from calib_bench.errors import DataError
from calib_bench.system.random import seeded

READ_ON = 2
"""How many times as many words of a text are spoiled as a model reads: others come in where some are left out."""


def code_of(corruption: Corruption) -> str:
    """SHA-256 of the code of the file that has the corruption, whatever its comments."""
    tree = ast.parse(Path(inspect.getfile(corruption.apply)).read_text())
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def spoiled(corruption: Corruption, name: str, severity: int, x: Any, row: int) -> Any:
    """One input after the corruption of that name.

    Args:
        x: as `Corruption.apply` takes it.
        row: the example's number in its data set.

    Raises:
        DataError: an image or vector came back in another shape or type.
    """
    with seeded("corruption", name, severity, row):
        out = corruption.apply(x, severity)
    if _form(out) != _form(x):
        raise DataError(f"corruption {name} makes {_form(out)} of {_form(x)}, and must keep shape and type.")
    return out


def _form(x: Any) -> str:
    return f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def corrupted(task: str, splits: Splits, image: Sequence[int], name: str, corruption: Corruption) -> dict[str, Split]:
    """The test split under a corruption, by "NAME/SEVERITY".

    Args:
        task: the task's name.
        splits: its data.
        image: shape [C, H, W] of the images that its vectors are the rows of; empty where they are none.

    Raises:
        DataError: the corruption is not for the task's inputs, or its data was not made by a loader of this package.
    """
    kind = _kind(splits.spec.kind, image)
    if corruption.kind != kind:
        raise DataError(f"corruption {name} is for {corruption.kind} inputs, and those of task '{task}' are {kind}.")
    test, spoil = splits.test, partial(spoiled, corruption, name)
    key = ("corrupted", 1, splits.digest, splits.preparation, name, code_of(corruption), torch.__version__)
    if isinstance(test, StreamSplit):
        each: list[Split] = [test.spoiled(partial(spoil, severity)) for severity in SEVERITIES]
    elif isinstance(test, TextSplit) and test.source is not None:
        each = _of_texts(test, cached(task, key, partial(_spoiled_texts, test, spoil)))
    elif isinstance(test, TensorSplit):
        shape = tuple(image or splits.spec.shape)
        each = _of_tensors(test, cached(task, key, partial(_spoiled_tensors, test, spoil, shape, name)))
    else:
        raise DataError(f"corruptions spoil data that this package's loaders make, not a {type(test).__name__}.")
    return {f"{name}/{severity}": split for severity, split in zip(SEVERITIES, each, strict=True)}


def _kind(kind: str, image: Sequence[int]) -> str:
    """What an input is to a corruption, which `InputSpec` names otherwise."""
    return "text" if kind == "tokens" else "image" if image else kind


def _spoiled_tensors(test: TensorSplit, spoil: Any, shape: tuple[int, ...], name: str) -> Arrays:
    """By severity the inputs [N, *shape]: images as uint8, vectors as they are."""
    x_N = test.x.view(-1, *shape)
    if len(shape) == 3 and x_N.dtype != torch.uint8:
        if x_N.min() < 0 or x_N.max() > 1:
            raise DataError(
                f"corruption {name} needs pixels from 0 to 1, and these are {x_N.min():g} to {x_N.max():g}."
            )
        x_N = (x_N * 255).round().to(torch.uint8)
    rows = test.rows.tolist()
    return {
        str(severity): torch.stack([spoil(severity, x, row) for x, row in zip(x_N, rows, strict=True)]).numpy()
        for severity in SEVERITIES
    }


def _of_tensors(test: TensorSplit, arrays: Arrays) -> list[Split]:
    inputs = test.base.on(torch.device("cpu"))
    splits: list[Split] = []
    for severity in SEVERITIES:
        x_N = torch.from_numpy(arrays[str(severity)])
        if x_N.dtype != inputs.dtype:
            x_N = (x_N.to(inputs.dtype) / 255).view(-1, *inputs.shape[1:])
        splits.append(replace(test, base=DeviceCache(x_N), rows=torch.arange(len(test))))
    return splits


def _spoiled_texts(test: TextSplit, spoil: Any) -> Arrays:
    """By severity tokens and offsets, see `data.text.encode`, of the texts in the order of the split."""
    assert test.source is not None
    strings = test.source.strings()
    arrays: dict[str, np.ndarray] = {}
    for severity in SEVERITIES:
        texts = [spoil(severity, test.source.prepared(strings[row], READ_ON), row) for row in test.rows.tolist()]
        arrays[f"tokens{severity}"], arrays[f"offsets{severity}"] = test.source.encode(texts)
    return arrays


def _of_texts(test: TextSplit, arrays: Arrays) -> list[Split]:
    return [
        replace(
            test,
            tokens=DeviceCache(torch.from_numpy(arrays[f"tokens{severity}"])),
            offsets=torch.from_numpy(arrays[f"offsets{severity}"]),
            rows=torch.arange(len(test)),
        )
        for severity in SEVERITIES
    ]
