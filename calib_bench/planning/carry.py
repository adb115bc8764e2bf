"""What of a recipe follows beta: the setting `carry` as fields of trials."""

from __future__ import annotations

from typing import Any

from calib_bench.core.settings import Space, UserSettings
from calib_bench.core.trial import RateUnit, Trial
from calib_bench.dynamics.scaling_law import powers
from calib_bench.errors import SettingsError

FOLLOWERS = {"weight_decay": "decay_scale", "eps": "eps_scale", "clip": "clip_scale"}
"""Fields of a trial that `carry=all` carries, and the field that says so of each."""
HAVE_EPS = ("adam", "adamw")
"""Optimizers with an eps."""


def rate_unit(typed: UserSettings, unit: RateUnit) -> RateUnit:
    """The unit in which rates are trained: with `carry=none`, a rate in lr_hom is taken as it stands.

    Raises:
        SettingsError: with `carry=none`, the unit makes rates follow beta in another way.
    """
    if typed.carry != "none":
        return unit
    if unit not in ("lr", "lr_hom"):
        raise SettingsError(
            f"carry=none takes learning rates as they stand, and {unit} makes them follow beta: give lr="
        )
    return "lr"


def add_scales(typed: UserSettings, space: Space) -> None:
    """Put into a model's grid that weight decay, eps and clip follow beta, and the degree by which they do.

    Raises:
        SettingsError: nothing follows beta by the degree that is given, or it is given for several models; or the
            optimizer's numbers are not known to follow.
    """
    if typed.carry == "all":
        space.update(dict.fromkeys(FOLLOWERS.values(), ("beta",)))
    follows = space["lr_unit"] == ("lr_hom",) or typed.carry == "all" or typed.eps_scale == "beta"
    if follows:
        for optimizer in space["optimizer"]:
            powers(optimizer)
    if typed.degree is None:
        return
    if not follows:
        raise SettingsError("degree= is what lr_hom, carry=all and eps_scale=beta use, and none is given: leave it out")
    if len(typed.model or ()) > 1:
        raise SettingsError("degree= is that of one model, and there are several: leave it out, so that it is measured")
    space["degree"] = (typed.degree,)


def without_idle(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a trial without those that change nothing in it: a scale of what it does not have, an unused degree."""
    kept = dict(fields)
    for name, scale in FOLLOWERS.items():
        unused = fields["optimizer"] not in HAVE_EPS if name == "eps" else not fields.get(name)
        if unused:
            kept.pop(scale, None)
    neutral = Trial.model_fields["eps_scale"].default
    follows = kept["lr_unit"] == "lr_hom" or any(kept.get(scale, neutral) != neutral for scale in FOLLOWERS.values())
    if not follows:
        kept.pop("degree", None)
    return kept
