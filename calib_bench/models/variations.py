"""Architectures by what their names tell: width, depth, normalization; and a model's variations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from calib_bench.errors import SettingsError
from calib_bench.models import canonical


@dataclass(frozen=True)
class Form:
    """What of an architecture its name tells."""

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
    if match := re.fullmatch(r"(mlp|cnn)((?:_\d+)+)(_nobias|_layernorm)?", name):
        widths = [int(width) for width in match[2].split("_")[1:]]
        width = math.prod(widths) ** (1 / len(widths))
        return Form(match[1], round(width, 6), len(widths), "layer" if match[3] == "_layernorm" else "none")
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
    for pattern, vary in _VARIATIONS.items():
        if match := re.fullmatch(pattern, name):
            return tuple(dict.fromkeys(vary(match[1], [int(number) for number in match[2].split("_")])))
    raise SettingsError(
        f"study=width_depth knows no variations of {name}: give several, for example model=timm/resnet18,timm/resnet34"
    )


def _mlps(family: str, widths: list[int]) -> list[str]:
    shapes = [widths, _divided(widths, 4), _doubled(widths), widths[:1], widths * 2]
    return [*(_named(family, shape) for shape in shapes), f"{_named(family, widths)}_layernorm"]


def _cnns(family: str, widths: list[int]) -> list[str]:
    return [_named(family, shape) for shape in (widths, _divided(widths, 2), _doubled(widths))]


def _wide_resnets(family: str, numbers: list[int]) -> list[str]:
    depth, width = numbers
    shapes = [[depth, width], [depth, *_divided([width], 2)], [depth + 6, width]]
    return [*(_named(family, shape) for shape in shapes), f"{_named(family, numbers)}_nonorm"]


def _one_layer(family: str, widths: list[int]) -> list[str]:
    return [_named(family, shape) for shape in (widths, _divided(widths, 4), _doubled(widths))]


def _named(family: str, numbers: list[int]) -> str:
    return "_".join([family, *map(str, numbers)])


def _divided(widths: list[int], by: int) -> list[int]:
    return [max(width // by, 1) for width in widths]


def _doubled(widths: list[int]) -> list[int]:
    return [2 * width for width in widths]


_VARIATIONS: dict[str, Callable[[str, list[int]], list[str]]] = {
    r"(mlp)_(\d+(?:_\d+)*)": _mlps,
    r"(cnn)_(\d+(?:_\d+)*)": _cnns,
    r"(wrn)_(\d+_\d+)(?:_nonorm)?": _wide_resnets,
    r"(gru|lstm|bag)_(\d+)": _one_layer,
}
"""Names whose variations are known, as patterns of a family and its numbers, and what makes the names of these."""
