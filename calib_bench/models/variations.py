"""Architectures by what their names tell: width, depth, normalization; and a model's variations."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from calib_bench.errors import SettingsError
from calib_bench.models import canonical


@dataclass(frozen=True)
class Form:
    """Family, width, depth and normalization of an architecture, as its name tells them."""

    kind: str
    width: float
    depth: int
    norm: str


def form(model: str) -> Form | None:
    """Width (the geometric mean of an MLP's), depth and normalization of a model, of those whose names tell them.

    >>> form("mlp_128_32"), form("wrn_16_4_nonorm")
    (Form(kind='mlp', width=64.0, depth=2, norm='none'), Form(kind='wrn', width=4.0, depth=16, norm='none'))
    """
    name = canonical(model)
    if match := re.fullmatch(r"(mlp|cnn|airbench)((?:_\d+)+)(_nobias|_layernorm)?", name):
        widths = [int(width) for width in match[2].split("_")[1:]]
        width = math.prod(widths) ** (1 / len(widths))
        norm = "batch" if match[1] == "airbench" else "layer" if match[3] == "_layernorm" else "none"
        return Form(match[1], round(width, 6), len(widths), norm)
    if match := re.fullmatch(r"wrn_(\d+)_(\d+)(_nonorm)?", name):
        return Form("wrn", float(match[2]), int(match[1]), "none" if match[3] else "batch")
    if match := re.fullmatch(r"(gru|lstm|bag)_(\d+)", name):
        return Form(match[1], float(match[2]), 1, "none")
    return None


def variations(model: str) -> tuple[str, ...]:
    """The model itself, narrower, wider, shallower and deeper ones, and one with or without normalization.

    >>> variations("cnn_8_16")
    ('cnn_8_16', 'cnn_4_8', 'cnn_16_32')

    Raises:
        SettingsError: none are known.
    """
    name = canonical(model)
    match = re.fullmatch(r"(mlp|cnn|gru|lstm|bag|airbench)((?:_\d+)+)|(wrn)(_\d+_\d+)(?:_nonorm)?", name)
    if match is None:
        raise SettingsError(
            f"study=width_depth knows no variations of {name}: give several, for example "
            f"model=timm/resnet18,timm/resnet34"
        )
    family, numbers = match[1] or match[3], [int(number) for number in (match[2] or match[4]).split("_")[1:]]
    names = [f"{family}_{'_'.join(map(str, shape))}" for shape in _shapes(family, numbers)]
    if family in _NORMALIZED:
        names.append(f"{names[0]}_{_NORMALIZED[family]}")
    return tuple(dict.fromkeys(names))


_NORMALIZED = {"mlp": "layernorm", "wrn": "nonorm"}
"""What the name ends in of a model of a family with other normalization."""


def _shapes(family: str, numbers: list[int]) -> list[list[int]]:
    """Numbers of a model's name, those given first: narrower, wider and, where depth can change, other depths."""
    if family == "wrn":
        depth, width = numbers
        return [numbers, [depth, max(width // 2, 1)], [depth + 6, width]]
    narrower = [max(width // (2 if family in ("cnn", "airbench") else 4), 1) for width in numbers]
    wider = [2 * width for width in numbers]
    depths = [numbers[:1], numbers * 2] if family == "mlp" else []
    return [numbers, narrower, wider, *depths]
