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
    if found := re.fullmatch(r"(mlp|cnn)((?:_\d+)+)(_nobias|_layernorm)?", name):
        widths = [int(width) for width in found[2].split("_")[1:]]
        width = math.prod(widths) ** (1 / len(widths))
        return Form(found[1], round(width, 6), len(widths), "layer" if found[3] == "_layernorm" else "none")
    if found := re.fullmatch(r"wrn_(\d+)_(\d+)(_nonorm)?", name):
        return Form("wrn", float(found[2]), int(found[1]), "none" if found[3] else "batch")
    if found := re.fullmatch(r"(gru|lstm|bag)_(\d+)", name):
        return Form(found[1], float(found[2]), 1, "none")
    return None


def variations(model: str) -> tuple[str, ...]:
    """The model itself, narrower, wider, shallower and deeper ones, and one with or without normalization.

    >>> variations("cnn_8_16")
    ('cnn_8_16', 'cnn_4_8', 'cnn_16_32')

    Raises:
        SettingsError: none are known.
    """
    name = canonical(model)
    if found := re.fullmatch(r"mlp((?:_\d+)+)", name):
        widths = [int(width) for width in found[1].split("_")[1:]]
        forms = [widths, [max(w // 4, 1) for w in widths], [2 * w for w in widths], widths[:1], widths * 2]
        names = ["_".join(["mlp", *map(str, some)]) for some in forms]
        return tuple(dict.fromkeys([*names, f"{name}_layernorm"]))
    if found := re.fullmatch(r"cnn((?:_\d+)+)", name):
        widths = [int(width) for width in found[1].split("_")[1:]]
        forms = [widths, [max(w // 2, 1) for w in widths], [2 * w for w in widths]]
        return tuple("_".join(["cnn", *map(str, some)]) for some in forms)
    if found := re.fullmatch(r"wrn_(\d+)_(\d+)(_nonorm)?", name):
        depth, width = int(found[1]), int(found[2])
        shapes = [(depth, width), (depth, max(width // 2, 1)), (depth + 6, width)]
        normed = dict.fromkeys(f"wrn_{d}_{w}" for d, w in shapes)
        return (*normed, f"wrn_{depth}_{width}_nonorm")
    if found := re.fullmatch(r"(gru|lstm|bag)_(\d+)", name):
        width = int(found[2])
        return tuple(f"{found[1]}_{w}" for w in (width, max(width // 4, 1), 2 * width))
    raise SettingsError(
        f"study=width_depth knows no variations of {name}: give several, for example model=timm/resnet18,timm/resnet34"
    )
