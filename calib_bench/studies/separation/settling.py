"""The design that settles whether an effect of beta on what is learned is one of speed, or of a bad start, alone.

Every beta is trained without and with one epoch of warm-up, for the epochs of the recipe and three times as many, at
rates in factors of 2 around the one that the homogeneity law carries from beta = 1 (`calib_bench.planning.tuning`, each
tuning seed at the rate that the others choose). Trials keep their logits at log-spaced training losses, so that arms
are compared on the test split where they have fitted the training split equally well.

The rule: an effect is *established generalization* only where, with warm-up and three times the epochs, the interval of
the difference at equal training loss leaves 0 out after Holm's correction and counts the choice of rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import EQUAL, Finding, evidence
from calib_bench.analysis.table_notes import families
from calib_bench.core.settings import Grid, Settings, Space, UserSettings
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.dynamics.scaling_law import powers
from calib_bench.errors import SettingsError
from calib_bench.studies.separation.comparisons import EQUAL_LOSS, LEFT_OUT
from calib_bench.studies.separation.options import Options

FEWEST_SEEDS = 10
LONG = 3
"""Times the epochs at which an effect must still be there."""
WARMUP = 1.0
"""Epochs of warm-up with which an effect must still be there."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Rates tried at first, around the middle one of the recipe."""
NONE_KEPT = "no training loss at which every seed of both kept its logits"
UNCOUNTED = "its interval leaves out the choice of rates"
"""Reasons why nothing is established."""


def complete(typed: UserSettings, settings: Settings) -> Settings:
    """The settings with the grid that `budgets=` and `design=` make of it.

    Raises:
        SettingsError: the design contradicts another setting.
    """
    options = Options.of(settings.grid)
    if options.design == "settling":
        return _designed(typed, settings, options)
    if options.budgets == (1,):
        return settings
    return settings.model_copy(update={"spaces": _longer(settings.spaces, options.budgets)})


def _longer(spaces: Mapping[str, Space], budgets: Sequence[int]) -> dict[str, Space]:
    """The grids trained for each of so many times their epochs."""
    return {
        model: space | {"epochs": tuple(sorted({budget * epochs for budget in budgets for epochs in space["epochs"]}))}
        for model, space in spaces.items()
    }


def _designed(typed: UserSettings, settings: Settings, options: Options) -> Settings:
    """The settings of the settling design."""
    if options.budgets != (1,):
        raise SettingsError(f"design=settling trains for 1 and {LONG} times the epochs: leave budgets= out")
    seeds = settings.seed if typed.seed else tuple(range(max(FEWEST_SEEDS, len(settings.seed))))
    if len(seeds) < FEWEST_SEEDS:
        raise SettingsError(f"design=settling takes {FEWEST_SEEDS} seeds or more: give seed=0..{FEWEST_SEEDS - 1}")
    spaces = {model: _space(typed, space) for model, space in _longer(settings.spaces, (1, LONG)).items()}
    changes = {"seed": seeds, "objective": (CROSS_ENTROPY,), "interventions": "no", "spaces": spaces}
    return settings.model_copy(update=changes)


def _space(typed: UserSettings, space: Space) -> Space:
    """One model's grid: warm-up or none, rates around its middle one in lr_hom, cross-entropy, logits kept."""
    if space["lr_unit"] == ("lr_rel",) or typed.carry == "none":
        raise SettingsError(
            "design=settling takes rates that follow beta by the homogeneity law: give one as lr_hom=, say lr_hom=0.5"
        )
    if 0 in space["epochs"]:
        raise SettingsError("design=settling compares what training does, and epochs=0 trains nothing")
    for optimizer in space["optimizer"]:
        powers(optimizer)
    middle = space["lr"][len(space["lr"]) // 2]
    rates = tuple(float(f"{middle * factor:.10g}") for factor in FACTORS)
    design = {"warmup": (0.0, WARMUP), "lr_unit": ("lr_hom",), "lr": rates, "keep": ("losses",)}
    return space | design | {"objective": (CROSS_ENTROPY,)}


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """A sentence a family: at which betas generalization is established by the rule, and why not at the others.

    Args:
        frame: of `comparisons.rows`, Holm-adjusted.
    """
    if Options.of(grid).design != "settling" or not len(frame):
        return []
    decisive = frame[(frame["warmup"] == WARMUP) & (frame["epochs"] == frame["epochs"].max())]
    how = f"{LONG} times the epochs with warm-up, test split, log loss after temperature scaling at equal training loss"
    return [
        f"{where}Settling design ({how}). Generalization: "
        f"{evidence([finding(row) for row in rows.to_dict('records')], estimates=True)}."
        for where, rows in families(decisive)
    ]


def finding(row: Mapping[Any, Any]) -> Finding:
    """The change at equal training loss, revoked where the rule's conditions are not met."""
    change = Finding.of(row, f"{EQUAL_LOSS}_repaired", "generalization", "nats", EQUAL)
    if row["equal_loss_on"] != "test":
        return replace(change, revoked=NONE_KEPT)
    return replace(change, revoked=UNCOUNTED) if row["choice"] == LEFT_OUT and not change.revoked else change
