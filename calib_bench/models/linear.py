"""Softmax regression: one linear layer on the flattened input, with torch's own initialization."""

from __future__ import annotations

import math

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec
from calib_bench.models.mlp import MLP


def build(spec: InputSpec, classes: int, option: str | None) -> MLP:
    """With the option "_nobias"."""
    return MLP(math.prod(spec.shape), (), classes, bias=not option)


MODEL = Model(
    build,
    kinds=("vector", "image"),
    parameters=r"(_nobias)?",
    stackable=r".*",
    examples={"linear": "softmax regression: no hidden layer; linear_nobias has no biases"},
)
