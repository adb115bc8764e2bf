"""The corruption contract, and names of further test splits.

A corruption is one file in `calib_bench/data/corruptions/` (or a user's plug-in folder) with one constant `CORRUPTION`;
its file name is its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Input = Literal["image", "text", "vector"]
SEVERITIES = (1, 2, 3, 4, 5)
"""Of every corruption, from weak to strong; the clean test split counts as severity 0."""
PAIR = "_data.npy"
"""How the name of a file of images ends that has its labels beside it, in a file that ends in "_labels.npy"."""
PACKAGE_SET = "corruptions"
"""The set of further test splits that the package's and plugged-in corruptions make."""


@dataclass(frozen=True)
class Corruption:
    """A way to spoil test inputs.

    Attributes:
        apply: (one input, severity) -> the input spoiled. An image is uint8 [C, H, W] and stays so, a vector is float32
            [D], a text is str. Random numbers come from torch's default generator or Python's `random`: both are seeded
            while it runs, by corruption, severity and example, and set back afterwards. An input is not to be changed
            in place.
        kind: what it spoils.
        title: one line for people.
    """

    apply: Callable[[Any, int], Any]
    kind: Input
    title: str


class ShiftedSplit(NamedTuple):
    """What the name of a further test split says: "noise/3", "CIFAR-10-C/fog/1" or "CIFAR-10.1".

    Attributes:
        set: splits of one set and severity have the same examples in the same order, so that they may be averaged.
        corruption: the corruption's name; the split's own where it has no severity.
        severity: 1 to 5; None of data that were shifted by other means.
    """

    set: str
    corruption: str
    severity: int | None

    @classmethod
    def of(cls, name: str) -> ShiftedSplit:
        """
        >>> ShiftedSplit.of("CIFAR-10-C/fog/1")
        ShiftedSplit(set='CIFAR-10-C', corruption='fog', severity=1)
        """
        *parents, last = name.split("/")
        if not parents or not last.isdecimal():
            return cls(name, name, None)
        *sets, corruption = parents
        return cls("/".join(sets) or PACKAGE_SET, corruption, int(last))


def source_name(source: str) -> str:
    """The name of a corruption, or of a user's folder or file of shifted data, as trials have it.

    >>> source_name("noise"), source_name("/data/CIFAR-10-C"), source_name("/data/cifar10.1_v6_data.npy")
    ('noise', 'CIFAR-10-C', 'cifar10.1_v6')
    """
    return Path(source).name.removesuffix(PAIR)
