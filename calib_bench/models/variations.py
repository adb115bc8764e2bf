"""Architectures by what their names tell: width, depth, normalization; and a model's variations."""

from __future__ import annotations

import math
import re
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
    if match := re.fullmatch(r"mlp((?:_\d+)+)", name):
        widths = [int(width) for width in match[1].split("_")[1:]]
        forms = [widths, [max(w // 4, 1) for w in widths], [2 * w for w in widths], widths[:1], widths * 2]
        names = ["_".join(["mlp", *map(str, sizes)]) for sizes in forms]
        return tuple(dict.fromkeys([*names, f"{name}_layernorm"]))
    if match := re.fullmatch(r"cnn((?:_\d+)+)", name):
        widths = [int(width) for width in match[1].split("_")[1:]]
        forms = [widths, [max(w // 2, 1) for w in widths], [2 * w for w in widths]]
        return tuple("_".join(["cnn", *map(str, sizes)]) for sizes in forms)
    if match := re.fullmatch(r"wrn_(\d+)_(\d+)(_nonorm)?", name):
        depth, width = int(match[1]), int(match[2])
        shapes = [(depth, width), (depth, max(width // 2, 1)), (depth + 6, width)]
        normed = dict.fromkeys(f"wrn_{d}_{w}" for d, w in shapes)
        return (*normed, f"wrn_{depth}_{width}_nonorm")
    if match := re.fullmatch(r"(gru|lstm|bag)_(\d+)", name):
        width = int(match[2])
        return tuple(f"{match[1]}_{w}" for w in (width, max(width // 4, 1), 2 * width))
    raise SettingsError(
        f"study=width_depth knows no variations of {name}: give several, for example model=timm/resnet18,timm/resnet34"
    )
