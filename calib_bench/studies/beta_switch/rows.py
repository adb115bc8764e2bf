"""Rows of the switched arms: each against never switching, and against the beta it ends at all along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from calib_bench.analysis.calibration_variance import fitted_to
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import Row, bounded
from calib_bench.analysis.scores import REPAIRED
from calib_bench.analysis.tuned_arms import Reader, by_objective
from calib_bench.core.settings import Grid
from calib_bench.inference import Fitted, Interval, share
from calib_bench.planning.tuning import Arm
from calib_bench.studies.beta_switch.switches import TO, Switch, switches

NEVER, ALL_ALONG = "never switching", "that beta all along"


PARTS = {"accuracy": ("raw", "correct"), "dyn": ("temperature_scaling", "log_loss")}
"""What a switch may decide, and the method and per-example score that it is the mean of."""


def family_rows(reader: Reader, arms: Sequence[Arm], variant: str | None) -> list[Row]:
    """Rows of one family: of each objective and beta, training at it, then its switches.

    Args:
        reader: measures the arms.
        arms: of one model and recipe, switched ones among them.
        variant: what tells the family from others of its model.
    """
    unswitched, switched = _by_switch(reader.grid, arms)
    rows: list[Row] = []
    for objective, objective_arms in by_objective(unswitched):
        at_beta = {arm.trial.beta: arm for arm in objective_arms}
        if reader.grid.reference in at_beta:
            name = {"model": arms[0].trial.model, "variant": variant, "objective": objective}
            of_objective = [pair for pair in switched if pair[0].trial.objective == objective]
            rows += _objective_rows(reader, at_beta, of_objective, name)
    return rows


def _by_switch(grid: Grid, arms: Sequence[Arm]) -> tuple[list[Arm], list[tuple[Arm, Switch]]]:
    """The arms that never switch, and those that do with their switch."""
    planned = switches(grid, [arm.trial for arm in arms if not arm.trial.switch_from])
    switch_of = {switch.template: switch for switch in planned}
    unswitched = [arm for arm in arms if arm.trial not in switch_of]
    return unswitched, [(arm, switch_of[arm.trial]) for arm in arms if arm.trial in switch_of]


def _objective_rows(
    reader: Reader, at_beta: Mapping[float, Arm], switched: Sequence[tuple[Arm, Switch]], name: Row
) -> list[Row]:
    """Rows of one objective: `at_beta` are the arms that never switch, the reference's among them."""
    reference_beta = reader.grid.reference
    reference = _read(reader, at_beta[reference_beta], name).light()
    rows: list[Row] = []
    for beta in sorted(set(at_beta) - {reference_beta}):
        trained = _read(reader, at_beta[beta], name).light()
        rows.append(_unswitched_row(trained, reference, {**name, "beta": beta}, reader.nested))
        for arm, switch in switched:
            if switch.beta == beta:
                rows += _switch_rows(reader, arm, switch, (trained, reference), name)
    return rows


def _unswitched_row(trained: Measures, reference: Measures, name: Row, nested: bool) -> Row:
    """An arm that is at its beta all along against the reference."""
    about = {"way": "", "at": None, "against": "reference", "tuning": trained.arm.tuning}
    return {**name, **about, **_difference(trained, reference, nested)}


def _switch_rows(
    reader: Reader, arm: Arm, switch: Switch, unswitched: tuple[Measures, Measures], name: Row
) -> list[Row]:
    """A switched arm against each of `unswitched`, which are all along at the switch's beta and at the reference."""
    trained, reference = unswitched
    begun, ended = (reference, trained) if switch.way == TO else (trained, reference)
    betas = f"{begun.arm.trial.beta:g} to {ended.arm.trial.beta:g}"
    measures = _read(reader, arm, name | {"switch": f"{betas} at {switch.at:g}"})
    row = {**name, "beta": switch.beta, "way": switch.way, "at": switch.at, "tuning": arm.tuning}
    changed_by_rest = {"against": NEVER, **_difference(measures, begun, reader.nested)}
    changed_by_beginning = {"against": ALL_ALONG, **_difference(measures, ended, reader.nested)}
    decided = _decided(measures, begun, ended, reader.nested)
    return [{**row, **changed_by_rest}, {**row, **changed_by_beginning, **decided}]


def _read(reader: Reader, arm: Arm, name: Row) -> Measures:
    return reader.measure(arm, {**name, "beta": arm.trial.beta, "tuning": arm.tuning})


def _difference(arm: Measures, other: Measures, nested: bool) -> Row:
    contrast_row = contrast(arm, other, nested)
    keep = ("seeds", "dropped", "accuracy", "log_loss_total", "log_loss_dyn", "doubtful")
    return {key: value for key, value in contrast_row.items() if key.startswith(keep)} | two_kinds(arm, other)


def _decided(arm: Measures, begun: Measures, ended: Measures, nested: bool) -> Row:
    """What share of the difference between both betas the updates before the switch had decided (Fieller's limits).

    With last and first the arms that are all along at the beta it ends at and at the one it begins at, the share is
    (arm - last) / (first - last). The choices of the three rates count, and the calibration examples of temperatures.
    """
    seeds = [seed for seed in arm.seeds if seed in begun.seeds and seed in ended.seeds]
    row: Row = {}
    for name, (method, score) in PARTS.items() if seeds else ():
        row |= bounded(f"decided_{name}", _decided_share((arm, begun, ended), seeds, method, score, nested))
    return row


def _decided_share(
    arms: tuple[Measures, Measures, Measures], seeds: Sequence[int], method: str, score: str, nested: bool
) -> Interval:
    """The share of `_decided` of one score; `arms` are the switched one, and those that it begins and ends as."""
    arm, begun, ended = arms
    places = [measures.places(seeds) for measures in arms]
    y, first, last = (measures.scores(method, score, seeds) for measures in arms)

    def fit(part: float, total: float) -> Fitted | None:
        weights = (part, total, -part - total)
        return fitted_to(score, *zip(weights, arms, places, strict=True))

    moves = shift(arm, ended, (method, score, 1.0)), shift(begun, ended, (method, score, 1.0))
    choice = None if moves[0] is None or moves[1] is None else (moves[0], moves[1])
    return share(y - last, first - last, nested=nested, fit=fit if method == REPAIRED else None, choice=choice)
