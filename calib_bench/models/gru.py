"""One GRU layer over word embeddings (Cho et al., 2014, arXiv 1406.1078)."""

from __future__ import annotations

from torch import nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec
from calib_bench.models.recurrent import Recurrent


def build(spec: InputSpec, classes: int, width: str) -> Recurrent:
    """With a width such as "64"."""
    return Recurrent(nn.GRU, spec.vocabulary, int(width), classes)


MODEL = Model(
    build,
    kinds=("tokens",),
    parameters=r"_([1-9]\d{0,4})",
    examples={"gru_64": "embedding and one GRU layer of width 64, last state"},
)
