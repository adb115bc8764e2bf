"""One LSTM layer over word embeddings (Hochreiter & Schmidhuber, 1997)."""

from __future__ import annotations

from torch import nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec
from calib_bench.models.recurrent import Recurrent


def build(spec: InputSpec, classes: int, width: str) -> Recurrent:
    """With a width such as "64"."""
    return Recurrent(nn.LSTM, spec.vocabulary, int(width), classes)


MODEL = Model(
    build,
    kinds=("tokens",),
    parameters=r"_([1-9]\d{0,4})",
    examples={"lstm_64": "embedding and one LSTM layer of width 64, last state"},
)
