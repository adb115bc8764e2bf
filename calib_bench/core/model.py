"""A model: a file sets MODEL, and its name is the model's name, or the beginning of it. Plug-ins do as the package."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Model:
    r"""An architecture that trains under `model=NAME`.

    Attributes:
        build: (what inputs are like, number of classes K, and what `parameters` found in the name, as text) -> a new
            model on torch's default device, its weights from torch's global seed. The model is called with one
            argument: x [B, *shape], or for tokens the pair (tokens [B, L] int64 right-padded with 0, lengths [B]
            int64, at least 1). It returns logits z [B, K], and its last layer is an `nn.Linear` in its attribute
            `head`.
        kinds: of inputs that it takes, of "vector", "image" and "tokens", see `core.splits.InputSpec`.
        parameters: a regular expression of what follows the file's name in the model's; its groups are parameters. In
            `net.py`, r"_(\d+)" makes net_16 and net_32 models, and `build` gets "16" or "32".
        stackable: a regular expression of full names. Such a model may be trained in a stack with others by
            `torch.func.vmap`: without buffers or in-place writes. Any other trains alone.
        examples: names to start from, each with a line for people; of a model with parameters at least one.
        title: the line of a model without parameters.
        references: BibTeX keys in references.bib.
    """

    build: Callable[..., nn.Module]
    kinds: tuple[str, ...]
    parameters: str = ""
    stackable: str = ""
    examples: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    references: tuple[str, ...] = ()

    def match(self, family: str, name: str) -> re.Match[str] | None:
        """The parameters in a model's full name, where the model is of this file; None of any other name."""
        return re.fullmatch(f"{re.escape(family)}(?:{self.parameters})", name)
