"""Partition: which rows of the data go to train, selection, calibration and test."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from calib_bench.core.task import SplitSizes
from calib_bench.errors import DataError
from calib_bench.system.random import stream


def partition(
    sizes: SplitSizes, rows: int, test_rows: int | None, *, task: str, split: int, limit: int | None
) -> dict[str, Tensor]:
    """Disjoint random rows of each split, a function of (sizes, rows, task, split).

    Args:
        sizes: examples of each split; without `sizes.train` the training split takes what is left.
        rows: size of the pool that train, selection and calibration are drawn from.
        test_rows: size of a test set of its own, used whole and in its own order; None draws test from the pool too,
            as what is left.
        task, split: decide the permutation.
        limit: at most this many of each split, the first after shuffling; it also shrinks sizes that a pool is too
            small for.

    Returns:
        int64 rows by split name: of the pool, but "test" of the test set where there is one.

    Raises:
        DataError: the pool is too small.
    """
    if limit is not None and rows < _drawn(sizes) + 1:
        sizes = _limited(sizes, limit)
    _check_pool(sizes, rows, test_rows, task)
    held = sizes.selection + sizes.calibration
    order = torch.randperm(rows, generator=stream("carve", task, split))
    end = rows if sizes.train is None else held + sizes.train
    parts = {
        "train": order[held:end],
        "selection": order[: sizes.selection],
        "calibration": order[sizes.selection : held],
    }
    if test_rows is None:
        parts["test"] = order[end:]
    else:
        parts["test"] = limited_rows(test_rows, task, limit)
    return {name: part[:limit] for name, part in parts.items()}


def _drawn(sizes: SplitSizes) -> int:
    """Rows that splits of these sizes take from the pool, but for the split that takes what is left."""
    return sizes.selection + sizes.calibration + (sizes.train or 0)


def _limited(sizes: SplitSizes, limit: int) -> SplitSizes:
    train = None if sizes.train is None else min(sizes.train, limit)
    return SplitSizes(min(sizes.selection, limit), min(sizes.calibration, limit), train)


def _check_pool(sizes: SplitSizes, rows: int, test_rows: int | None, task: str) -> None:
    """Raises DataError where the pool is too small, or train and test would both take what is left of it."""
    takes_rest = [name for name, size in (("train", sizes.train), ("test", test_rows)) if size is None]
    if len(takes_rest) == 2:
        raise DataError(
            f"Task '{task}' draws its test split from the pool, so its SplitSizes must say how large train is."
        )
    if rows >= _drawn(sizes) + len(takes_rest):
        return
    wanted = {"train": sizes.train, "selection": sizes.selection, "calibration": sizes.calibration}
    needs = ", ".join(f"{count:,} for {name}" for name, count in wanted.items() if count)
    rest = f" and at least 1 for {takes_rest[0]}" if takes_rest else ""
    raise DataError(f"Task '{task}' has too few rows: {rows:,}, where it needs {needs}{rest}. Use the whole data set.")


def limited_rows(test_rows: int, task: str, limit: int | None) -> Tensor:
    """int64 rows of a test set of its own: all in their order, or as many as the limit allows, drawn at random."""
    if limit is None or limit >= test_rows:
        return torch.arange(test_rows)
    return torch.randperm(test_rows, generator=stream("carve", task, "test"))[:limit]


def scaled(sizes: SplitSizes, fraction: float) -> SplitSizes:
    """Selection and calibration in proportion to a data set of which only `fraction` is there; at least one each."""
    return replace(
        sizes,
        selection=max(1, round(sizes.selection * fraction)),
        calibration=max(1, round(sizes.calibration * fraction)),
    )
