"""Fully connected network with ReLU; images are flattened. He et al. (2015, arXiv 1502.01852) initialization."""

from __future__ import annotations

import math

from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec


class MLP(nn.Module):
    """Hidden layers of the given widths, then a linear head.

    Hidden weights are He-normal with zero biases; the head has torch's own initialization. Without biases the network
    is homogeneous of degree len(widths) + 1 in its parameters.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], classes: int, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for width in widths:
            layer = nn.Linear(inputs, width, bias=bias)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if bias:
                nn.init.zeros_(layer.bias)
            self.body.extend((layer, nn.ReLU()))
            inputs = width
        self.head = nn.Linear(inputs, classes, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *shape] -> logits [B, K]."""
        return self.head(self.body(x.flatten(1)))


class LayerNormMLP(nn.Module):
    """The same with layer normalization (Ba et al., 2016, arXiv 1607.06450) of every hidden layer before its ReLU."""

    def __init__(self, inputs: int, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        plain = MLP(inputs, widths, classes)
        self.body = nn.Sequential()
        for layer in plain.body:
            self.body.append(layer)
            if isinstance(layer, nn.Linear):
                self.body.append(nn.LayerNorm(layer.out_features))
        self.head = plain.head

    def forward(self, x: Tensor) -> Tensor:
        """x [B, *shape] -> logits [B, K]."""
        return self.head(self.body(x.flatten(1)))


def build(spec: InputSpec, classes: int, widths: str, option: str | None) -> nn.Module:
    """With widths such as "_128_128" and the option "_nobias" or "_layernorm"."""
    inputs, hidden = math.prod(spec.shape), tuple(int(w) for w in widths.split("_")[1:])
    return LayerNormMLP(inputs, hidden, classes) if option == "_layernorm" else MLP(inputs, hidden, classes, not option)


MODEL = Model(
    build,
    kinds=("vector", "image"),
    parameters=r"((?:_[1-9]\d{0,4})+)(_nobias|_layernorm)?",
    stackable=r".*",
    examples={
        "mlp_128_128": "fully connected, ReLU, one hidden layer per width; mlp_128_128_nobias has no biases "
        "(homogeneous), mlp_128_128_layernorm normalizes them",
    },
)
