"""What the parts of the separation study share: rows of intervals, Holm's correction, and words that respect both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from calib_bench.analysis.result_rows import Row
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.errors import counted

if TYPE_CHECKING:
    import pandas as pd


NAMES = ("model", "variant", "beta", "objective", "tuning")
"""Columns that name an arm."""
SMOKE = "Smoke mode"
"""How the warning of a smoke run begins; a page says it once, in a place of its own."""
HIDDEN = ("nested", "examples")
"""Columns that a note or a warning covers, hidden from the table."""


def display_columns(frame: pd.DataFrame, grid: Grid) -> pd.DataFrame:
    """The frame without the columns that only its note tells; a smoke run's limit beside every row."""
    out = frame.drop(columns=[c for c in HIDDEN if c in frame])
    return out if grid.limit is None else out.assign(limit=grid.limit)


def smoke_note(grid: Grid) -> str:
    """The sentence that begins the note of a smoke run's table, with a space; empty of any other run."""
    return "" if grid.limit is None else f"SMOKE RUN, limit={grid.limit}, not a result. "


def smoke_warnings(grid: Grid) -> list[str]:
    """The warning that a report of a smoke run begins with; empty of any other run."""
    if grid.limit is None:
        return []
    return [f"{SMOKE}: at most {grid.limit} examples of each split. These numbers are not results."]


def rate_unit(grid: Grid) -> str:
    """What the unit of the rates is relative to, for the note of a table of rates; empty of absolute ones."""
    spaces = grid.spaces.values()
    if any("lr_hom" in space["lr_unit"] for space in spaces):
        return "lr_hom: rate beta^(2/L) for sgd, rate beta^(1/L) for adam and adamw, L the Euler degree of the net"
    if not any("lr_rel" in space["lr_unit"] for space in spaces):
        return ""
    text = "lr_rel: rate lambda_max / 2 at initialization, 1 is the critical rate of plain gradient descent"
    momenta = sorted({mu for space in spaces for mu in space["momentum"] if mu})
    if momenta:
        text += f", 1 + momentum that of the heavy ball ({', '.join(f'{1 + mu:g}' for mu in momenta)} here)"
    return text


def sample(frame: pd.DataFrame) -> str:
    """n and the kind of interval of crossed differences, from the columns seeds, examples and nested."""
    if not len(frame):
        return "no arm to compare"
    seeds, examples = int(frame["seeds"].max()), int(frame["examples"].max())
    fewest = int(frame["seeds"].min())
    fewer = f" (in some rows fewer, down to {fewest})" if fewest < seeds else ""
    n = f"{counted(seeds, 'seed')}{fewer}, {examples:,} test examples"
    if bool(frame["nested"].any()):
        return f"{n} a seed; 95% t intervals over seeds, each with its own test examples"
    if seeds == 1:
        return f"{n}; 95% intervals over test examples only, since there is one seed"
    return f"{n}; 95% intervals over seeds and test examples together"


def by_model(frame: pd.DataFrame) -> Iterator[tuple[Row, pd.DataFrame]]:
    """Rows of one model and variant, with the columns that name them."""
    if len(frame):
        for (model, variant), rows in frame.groupby(["model", "variant"], sort=False, dropna=False):
            yield {"model": model, "variant": variant if isinstance(variant, str) else None}, rows


def families(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one model and variant, with the words that begin a sentence on them: none when there is one family."""
    if not len(frame):
        return
    keys = [c for c in ("model", "variant") if c in frame]
    groups = list(frame.groupby(keys, sort=False, dropna=False))
    for values, rows in groups:
        model, variant = (*values, None)[:2]
        has_variant = isinstance(variant, str)
        where = "" if len(groups) == 1 else f"{model} ({variant}): " if has_variant else f"{model}: "
        yield where, rows


def by_objective(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one model, variant and objective, with the words that begin a sentence on them, as `families`."""
    several = len(frame) > 0 and frame["objective"].nunique() > 1
    for where, family_rows in families(frame):
        for objective, rows in family_rows.groupby("objective", sort=False):
            yield (f"{where}{objective}: " if several else where), rows


def over_beta(frame: pd.DataFrame, grid: Grid) -> list[Row]:
    """Rows of cross-entropy arms at another beta than the reference's."""
    other_betas = frame[(frame["objective"] == CROSS_ENTROPY) & (frame["beta"] != grid.reference)]
    return other_betas.to_dict("records")
