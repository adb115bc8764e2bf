"""Test examples that occur outside the test split too: by a digest of each example, eight bytes of memory apiece."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

WHERE = {"train": "training", "selection": "selection", "calibration": "calibration"}


def digests(examples: Iterable[Any]) -> np.ndarray:
    """uint64 [N]: 64 bits of BLAKE2 of each example, an array, bytes or a text; equal examples have equal ones.

    Among 10^6 examples the chance that any two others have equal ones is 3e-8.
    """
    values = (hashlib.blake2b(_bytes(example), digest_size=8).digest() for example in examples)
    return np.frombuffer(b"".join(values), dtype="<u8")


def _bytes(example: Any) -> bytes:
    if isinstance(example, str):
        return example.encode("utf-8", "surrogatepass")
    return example.tobytes() if isinstance(example, np.ndarray) else bytes(example or b"")


def note(digests_of: Mapping[str, np.ndarray], rows: Mapping[str, Tensor]) -> dict[str, str]:
    """A note on test examples that are equal to ones of other splits; empty where there are none.

    Args:
        digests_of: uint64 of each row, by pool: "train", and "test" where the test split has a pool of its own.
        rows: int64 [N] by split name, into its pool.
    """
    test_N = digests_of.get("test", digests_of["train"])[rows["test"].numpy()]
    repeated = {name: np.isin(test_N, digests_of["train"][rows[name].numpy()]) for name in WHERE}
    anywhere = int(np.logical_or.reduce(list(repeated.values())).sum())
    if not anywhere:
        return {}
    each = ", ".join(
        f"{int(repeated[name].sum()):,} in {where}" for name, where in WHERE.items() if repeated[name].any()
    )
    sentence = (
        f"{anywhere:,} of {len(test_N):,} test examples also occur outside the test split, input for input ({each})"
    )
    return {"duplicates": f"{sentence}, so that not every one is new to what was trained and fitted"}
