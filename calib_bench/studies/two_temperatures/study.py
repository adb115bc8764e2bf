"""What do the two temperatures of training, the softmax's 1 / beta and SGD's eta0, have in common?

In the lazy regime beta and the rate enter through beta^2 eta0 alone, eta0 = rate / ((1 - momentum) B) (Agarwala et al.,
arXiv 2010.07344): what is equal along lines of equal beta^2 eta0 is shared, and what changes along them is beta's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import controls
from calib_bench.analysis.arms import named
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import (
    TWO_KINDS,
    Row,
    adjusted,
    cell,
    drop_single_seed_intervals,
    excludes_zero,
    fields,
    is_significant,
    marks,
    why_loose,
)
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Section, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.inference import Fitted, difference_interval, fitted, rate, variance_shares
from calib_bench.inference.grouped import explained
from calib_bench.planning.tuning import Arm, unique
from calib_bench.studies.two_temperatures import figures as plots
from calib_bench.studies.two_temperatures import plane
from calib_bench.studies.two_temperatures.plane import METRICS, Cell

if TYPE_CHECKING:
    import pandas as pd


GROUPINGS = {"effective": "beta^2 eta0", "eta0": "eta0", "beta": "beta"}
NAMES = {
    "error": "error rate", "log_loss": "log loss", "repaired_log_loss": "log loss after temperature scaling",
    "kappa": "kappa",
}  # fmt: skip
SETS = ("all that finished", "all that learned")


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every beta at every rate with every seed, and the positive control of each family."""
    families = plane.families(settings)
    cells = [trial for family in families for trials in family for trial in trials]
    bases = (plane.base(settings, family, scores) for family in families)
    return unique([*cells, *(trial for base in bases for trial in controls.positive(base))])


def analyse(settings: Settings, store: Results) -> Analysis:
    """Shares of variance, and what beta adds at equal beta^2 eta0.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families, scores = plane.families(settings), store.scores(settings.select)
    family_cells = [[plane.read(store, trials) for trials in family] for family in families]
    rows: dict[str, list[Row]] = {"shares": [], "block": [], "at_equal": [], "controls": [], "cells": []}
    for cells, family in zip(family_cells, families, strict=True):
        name = _name(cells, family_cells)
        rows["controls"] += _controls(settings, store, plane.base(settings, family, scores), name)
        classes = int(store.split_info(cells[0].trials[0])["classes"])
        rows["shares"] += [name | row for row in _shares(cells, classes)]
        rows["block"] += [name | row for row in _block(cells)]
        rows["at_equal"] += [name | row for row in _at_equal(cells, settings)]
        rows["cells"] += [name | row for row in _cells(cells)]
    frames = {key: pd.DataFrame(table_rows) for key, table_rows in rows.items()}
    frames["at_equal"] = adjusted(frames["at_equal"]) if len(frames["at_equal"]) else frames["at_equal"]
    control = frames["controls"] = drop_single_seed_intervals(frames["controls"], settings)
    verdict = tuple(sentence for cells in family_cells for sentence in _verdict(_name(cells, family_cells), frames))
    return Analysis(
        verdict=(*(verdict or ("No two cells have finished: nothing can be compared.",)), *controls.told(control)),
        tables=_tables(settings, frames),
        warnings=_warnings(settings, family_cells),
        data={"found": family_cells, "limit": settings.limit, "reference": settings.reference},
        summary=(*verdict[:2], *controls.outcome(control)) if verdict else (),
    )


def _controls(settings: Settings, store: Results, base: Arm | None, name: Row) -> list[Row]:
    """The controls of a family's cell that does best at the reference's beta."""
    if base is None:
        return []

    differs = ", ".join(f"{key}={value}" for key, value in name.items() if key not in ("model", "objective"))
    return controls.of_arm(store, base, named(base, differs or None), own_tests(store, [base]))


def _name(cells: list[Cell], family_cells: list[list[Cell]]) -> Row:
    """What tells a family from the others."""
    mine = cells[0].trials[0]
    others = [one[0].trials[0] for one in family_cells]
    differs = [key for key in ("objective", "batch", "momentum", "epochs", "schedule", "label_noise", "sampling")
               if len({getattr(trial, key) for trial in others}) > 1]  # fmt: skip
    return {"model": mine.model} | {key: getattr(mine, key) for key in differs}


def _shares(cells: list[Cell], classes: int) -> list[Row]:
    rows = []
    complete = [one for one in cells if one.whole]
    for label, subset in zip(SETS, (complete, plane.learned(cells, classes)), strict=True):
        for metric in METRICS if len(subset) > 2 else ():
            row: Row = {"metric": metric, "cells": len(subset), "of": label}
            for grouping in GROUPINGS:
                share = explained(plane.measured(subset, metric), [one.level(grouping) for one in subset])
                row |= fields(grouping, share)
            rows.append({key: value for key, value in row.items() if not key.endswith("_p")})
    return rows


def _block(cells: list[Cell]) -> list[Row]:
    """The complete layout of beta^2 eta0 by beta, every cell of which finished."""
    import numpy as np

    layout = plane.block(cells)
    if not layout:
        return []
    rows = []
    for metric in METRICS:
        shares = variance_shares(np.stack([plane.measured(line, metric) for line in layout]))
        row: Row = {"metric": metric, "temperatures": len(layout), "betas": len(layout[0])}
        parts = zip(("effective", "beta", "interaction", "seed"),
                    (shares.first, shares.second, shares.interaction, shares.seed), strict=True)  # fmt: skip
        for part, share in parts:
            row |= {key: value for key, value in fields(part, share).items() if not key.endswith("_p")}
        rows.append(row | {"p_effective": shares.p_first, "p_beta": shares.p_second})
    return rows


def _at_equal(cells: list[Cell], settings: Settings) -> list[Row]:
    """Each beta against the reference at the same beta^2 eta0, paired by seed and example."""
    base = {one.level("effective"): one for one in cells if one.beta == settings.reference and one.examples}
    rows = []
    for one in cells:
        against = base.get(one.level("effective"))
        if against is None or one.beta == settings.reference or not one.examples:
            continue
        row: Row = {"beta": one.beta, "effective": one.effective}
        if one.mixed or against.mixed:
            row[TWO_KINDS] = "this arm" if one.mixed else "reference"
        nested = settings.split == "seed"
        for metric, values in one.examples.items():
            fit = _fitted(one, against, not nested) if metric == "repaired_log_loss" else None
            row |= fields(metric, difference_interval(metric, values - against.examples[metric], nested, fit))
        rows.append(row)
    return rows


def _fitted(one: Cell, against: Cell, shared: bool) -> Fitted | None:
    """What calibration examples add to the difference of two cells' repaired log losses."""
    import numpy as np

    if one.temperatures is None or against.temperatures is None:
        return None
    (log_T, slopes), (other_T, others) = one.temperatures, against.temperatures
    if log_T.shape != other_T.shape:
        return None
    slope, curvature = np.stack([slopes, others], 1)
    return fitted(np.stack([log_T, other_T]), slope, curvature, (1, -1), shared)


def _cells(cells: list[Cell]) -> list[Row]:
    rows = []
    for one in sorted(cells, key=lambda c: (c.beta, c.eta0)):
        row: Row = {"beta": one.beta, "eta0": one.eta0, "effective": one.effective, "failed": one.failed}
        if one.lost:
            row |= fields("collapsed", rate(one.lost, len(one.trials)))
        for metric in METRICS:
            row |= {metric: float(one.values[metric].mean())}
        rows.append(row)
    return rows


def _verdict(name: Row, frames: dict[str, pd.DataFrame]) -> list[str]:
    """What the two share, and what not."""
    sentences: list[str] = []
    shares = _own(frames["shares"], name)
    for label in SETS:
        share_rows = [row for row in shares if row["of"] == label]
        if share_rows:
            cells = share_rows[0]["cells"]
            parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'effective')}" for row in share_rows)
            sentences.append(
                f"{name['model']}, {cells} cells, {label}: beta^2 eta0 alone accounts for these shares of the variance "
                f"between cells: {parts}."
            )
            parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'eta0')}" for row in share_rows)
            sentences.append(f"The rate alone, eta0, accounts for: {parts}.")
    block = _own(frames["block"], name)
    if block:
        parts = "; ".join(f"{NAMES[row['metric']]} {cell(row, 'beta')} and {cell(row, 'interaction')}" for row in block)
        sentences.append(
            f"At equal beta^2 eta0, in the {block[0]['temperatures']} x {block[0]['betas']} cells that all finished, "
            f"beta adds a share of its own and one that depends on the temperature: {parts}."
        )
    equal = _own(frames["at_equal"], name)
    return [*sentences, _differ(equal)] if equal else sentences


def _differ(rows: Sequence[Mapping[Any, Any]]) -> str:
    """How many pairs at equal beta^2 eta0 surely differ."""
    sure = [row for row in rows if is_significant(row, "error")]
    hints = [row for row in rows if row not in sure and excludes_zero(row, "error")]
    more = f"; {len(hints)} may, {why_loose(hints)}" if hints else ""
    return (
        f"Of {len(rows)} pairs of a beta and the reference at equal beta^2 eta0, {len(sure)} differ in error rate "
        f"after Holm's correction{more}."
    )


def _own(frame: pd.DataFrame, name: Row) -> list[dict[str, Any]]:
    rows: Any = frame.to_dict("records")
    return [row for row in rows if all(row[key] == value for key, value in name.items())]


def _warnings(settings: Settings, family_cells: list[list[Cell]]) -> tuple[str, ...]:
    messages = []
    if settings.limit is not None:
        messages.append(f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results.")
    if len(settings.seed or ()) < 3:
        messages.append("Fewer than three seeds: shares of variance have no intervals.")
    for cells in family_cells:
        lost = sum(not one.whole for one in cells)
        if lost:
            messages.append(
                f"{cells[0].trials[0].model}: in {lost} of {len(cells)} cells a seed diverged or failed; "
                "they count in no share."
            )
        split = [one for one in cells if one.mixed]
        if split:
            listed = ", ".join(f"beta={one.beta:.3g} eta0={one.eta0:.3g}" for one in split)
            messages.append(
                f"{cells[0].trials[0].model}: in {len(split)} of {len(cells)} cells some seeds collapsed and others "
                f"did not ({listed}); their means, and shares of variance that rest on them, depend on how many did, "
                "and no difference from them is established."
            )
        if not plane.block(cells):
            messages.append(f"{cells[0].trials[0].model}: no two neighbouring betas finished at two equal beta^2 eta0.")
    return tuple(messages)


def _tables(settings: Settings, frames: dict[str, pd.DataFrame]) -> dict[str, Table]:
    smoke = f"SMOKE RUN, limit={settings.limit}, not a result. " if settings.limit is not None else ""
    seeds = f"{len(settings.seed or ())} seeds, test split. "
    lost = "collapsed" in frames["cells"]
    every = {
        "shares": Table(
            "What one number accounts for, of the variance between cells", frames["shares"],
            f"{smoke}{seeds}Adjusted share of the variance between cells (means over seeds, seed noise taken out) that "
            "lies between cells of different beta^2 eta0 (effective), of different eta0, of different beta; log losses "
            "and kappa by their logarithm. 95% jackknife intervals over seeds. Learned: repaired log loss below "
            f"{plane.LEARNED:g} log K.", paper=True, names=("model", "metric", "of"),
        ),
        "block": Table(
            "Shares of variance of beta^2 eta0 and beta in the complete block", frames["block"],
            f"{smoke}{seeds}Of one run's result: main effects, interaction, seed; 95% jackknife intervals over seeds; "
            "permutation p-values within seeds.", names=("model", "metric"),
        ),
        "at_equal": Table(
            f"Each beta less beta={settings.reference:g} at equal beta^2 eta0", frames["at_equal"],
            f"{smoke}{seeds}Paired by seed and example, 95% intervals over both, which count the calibration examples "
            "that temperatures were fitted on; a star: p < .05 after Holm's "
            "correction over the table." + "".join(f" {text}." for text in marks(frames["at_equal"])),
        ),
        "controls": controls.table(frames["controls"], settings),
        "cells": Table(
            "Every cell", frames["cells"].drop(columns="collapsed_p", errors="ignore"),
            f"{smoke}{seeds}Means over seeds; failed: share not finished"
            + ("; collapsed: parted from the better half of the seeds by a gap, exact limits." * lost or "."),
        ),
    }  # fmt: skip
    return {name: table for name, table in every.items() if len(table.frame)}


STUDY = Study(
    question="Are the softmax's temperature 1/beta and SGD's temperature eta0 one, through beta^2 eta0?",
    plan=plan,
    analyse=analyse,
    figures={"plane": plots.plane, "collapse": plots.collapse},
    defaults={
        "objective": (CROSS_ENTROPY,),
        "beta": (0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
        "lr_eff": tuple(float(f"{10 ** (k / 2):.9g}") for k in range(-6, 5)),
        "schedule": ("constant",),
        "warmup": (0.0,),
        "seed": (0, 1, 2, 3),
    },
    sections=(
        Section("Shared and not", ("collapse", "shares", "block")),
        Section("At equal beta^2 eta0", ("at_equal",)),
        Section("The plane", ("plane", "cells")),
        controls.SECTION,
    ),
    references=("agarwala2023temperature", "olejnik2003"),
)
