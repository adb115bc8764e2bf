"""Where each architecture comes from: keys of references.bib, by the beginning of a model's full name."""

from __future__ import annotations

import re

from calib_bench import models
from calib_bench.models import canonical

REFERENCES: dict[str, tuple[str, ...]] = {
    r"mlp_": ("rumelhart1986", "he2015"),
    r"linear": ("hastie2009",),
    r"scalar": ("mandt2017",),
    r"cnn_": ("lecun1998",),
    r"wrn_\d+_\d+$": ("zagoruyko2016",),
    r"wrn_\d+_\d+_nonorm": ("zagoruyko2016", "zhang2019fixup"),
    r"airbench_": ("jordan2024",),
    r"gru_": ("cho2014",),
    r"lstm_": ("hochreiter1997",),
    r"bag_": ("joulin2017",),
}
TIMM: dict[str, str] = {
    r"(wide_)?resnet": "he2016",
    r"resnetv2": "he2016",
    r"vit_": "dosovitskiy2021",
    r"deit": "touvron2021",
    r"convnext": "liu2022",
    r"efficientnet|tf_efficientnet": "tan2019",
    r"densenet": "huang2017",
}
"""Of models of timm, beside timm's own."""


def references(name: str) -> tuple[str, ...]:
    """The keys to cite for a model.

    Raises:
        SettingsError: no such model.

    >>> references("wrn_16_4_nonorm"), references("timm/resnet50.a1_in1k")
    (('zagoruyko2016', 'zhang2019fixup'), ('wightman2019', 'he2016'))
    """
    if declared := models.declared_references(name):
        return declared
    full = canonical(name)
    if full.startswith("timm/"):
        name_there = full.removeprefix("timm/")
        return ("wightman2019", *(key for pattern, key in TIMM.items() if re.match(pattern, name_there)))
    if full.startswith("hf/"):
        return ("wolf2020",)
    return next((keys for pattern, keys in REFERENCES.items() if re.match(pattern, full)), ())
