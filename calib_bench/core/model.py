"""A model of one's own: a plug-in file sets MODEL, and its file name is the model's name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from calib_bench.core.splits import InputSpec


@dataclass(frozen=True)
class Model:
    """An architecture that trains under `model=NAME`.

    A model trains alone, never in a stack with others, so that it may have buffers and be written in any way.

    Attributes:
        build: (what inputs are like, number of classes K) -> a new model on torch's default device, its weights from
            torch's global seed. The model is called with one argument: x [B, *shape], or for tokens the pair
            (tokens [B, L] int64 right-padded with 0, lengths [B] int64, at least 1). It returns logits z [B, K], and
            its last layer is an `nn.Linear` in its attribute `head`.
        kinds: of inputs that it takes, of "vector", "image" and "tokens", see `core.splits.InputSpec`.
        title: one line for people.
        references: BibTeX keys in references.bib.
    """

    build: Callable[[InputSpec, int], nn.Module]
    kinds: tuple[str, ...]
    title: str = ""
    references: tuple[str, ...] = ()
