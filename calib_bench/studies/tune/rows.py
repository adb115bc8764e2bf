"""Rows on the winners of both searches, and on the configurations they tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import choice, collapse, controls
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.measure import Measures, measure_arm, own_tests
from calib_bench.analysis.result_rows import Row
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.planning import tuning
from calib_bench.studies.tune.searches import SEARCHES, Pair, final_arm


@dataclass(frozen=True)
class Gain:
    """The winner over beta and rate against the winner over the rate at the reference.

    Attributes:
        row: the difference, with what each search chose and spent.
        arms: of both winners.
        controls: rows of the controls of the reference's winner.
        trials: rows of both winners' trials.
        alternatives: what the gain is at the runner-up, and at configurations that might have been chosen.
    """

    row: Row
    arms: list[tuning.Arm]
    controls: list[Row]
    trials: list[Row]
    alternatives: list[Row]


def name_of(template: Trial, variant: str | None) -> Row:
    """Columns that name a pair of searches."""
    name = {"model": template.model, "objective": template.objective}
    return name | ({"variant": variant} if variant else {})


def gain_of(grid: Grid, store: Results, pair: Pair) -> Gain:
    """Both winners of a pair of searches that are over, measured on the test split.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    repair = registry.calibrators(("temperature_scaling",))
    scores = store.scores(grid.select)
    measured, row = [], {}  # type: list[Measures], Row
    for label, side in (("tuned", pair.joint), ("reference", pair.plain)):
        best = side.best
        assert best is not None, "checked by the caller"
        measured.append(measure_arm(store, final_arm(grid, side, scores), repair))
        row |= {f"{label}_beta": best.trial.beta, f"{label}_rate": best.trial.lr, f"{label}_epochs_spent": side.cost}
    arms = [measures.arm for measures in measured]
    nested = own_tests(store, arms)
    row |= {"tuning": tuning.together(arms), "nested": nested} | contrast(measured[0], measured[1], nested)
    row |= {"elsewhere": _elsewhere(arms)} | collapse.two_kinds(*measured)
    control_rows = controls.both(store, measured[1], repair, nested)
    return Gain(row, arms, control_rows, _trials(store, measured), _alternatives(pair, measured))


def _trials(store: Results, measured: Sequence[Measures]) -> list[Row]:
    """A row a trial of both winners."""
    rows: list[Row] = []
    for measures, searched in zip(measured, SEARCHES, strict=True):
        about = {"beta": measures.arm.trial.beta, "search": searched}
        rows += [about | trial for trial in each.trials(store, measures)]
    return rows


def _elsewhere(arms: Sequence[tuning.Arm]) -> str | None:
    """The seeds that are reported at another configuration than the one that all chose."""
    moved = [
        f"seed {seed} at beta={arm.trials[seed].beta:.3g}, {rate:.3g}"
        for arm in arms
        for seed, rate in arm.elsewhere.items()
    ]
    return "; ".join(moved) or None


def _alternatives(pair: Pair, measured: Sequence[Measures]) -> list[Row]:
    """What the gain is at the runner-up, and at configurations that might have been chosen, see `choice.rows`."""
    betas = {tried.trial.lr: tried.trial.beta for tried in pair.joint.full_length}
    rows = choice.rows(measured[0], measured[1], {"beta": measured[0].arm.trial.beta})
    return [row | ({"runner_up_beta": betas[row["runner_up"]]} if "runner_up" in row else {}) for row in rows]


def configurations(pair: Pair) -> list[Row]:
    """A row a configuration that either search tried, with its score and length."""
    rows: list[Row] = []
    for name, side in zip(SEARCHES, (pair.joint, pair.plain), strict=True):
        for order, tried in enumerate(side.tried):
            row = {"search": name, "order": order, "beta": tried.trial.beta, "rate": tried.trial.lr}
            row |= {"unit": tried.trial.lr_unit, "epochs": tried.epochs[-1] if tried.epochs else 0}
            row |= {"score": tried.scores[-1] if tried.scores else math.nan, "chosen": tried is side.best}
            rows.append(row)
    return rows
