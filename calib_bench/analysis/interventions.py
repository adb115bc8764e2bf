"""Arms that change one part of what beta does in training, each with a rate tuned like every other arm's.

**The 2x2.** Gradient descent, with or without momentum, at inverse temperature beta is gradient descent at the
reference beta0 with the linear head's rate times (beta / beta0)^2 and its initial weights times beta / beta0: the same
beta z at every update (Agarwala et al., 2023, arXiv 2010.07344). So beta is two factors, the head's rate and the
initial magnitude of the logits, and the four cells of {rate x 1, x (beta / beta0)^2} x {initial head x 1, x beta /
beta0} are the reference, either factor alone, and training at beta, which is the arm itself. Adam divides a gradient by
its size, so that there the rate's factor is beta / beta0 (exactly, as its epsilon goes to 0).

**The switch.** Training goes from one beta to another at some update while the head's weights are rescaled so that no
prediction changes there: what differs afterwards is learning alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from calib_bench.analysis.calibration_variance import fitted_to
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.contrast import DIFFERENCES, contrast
from calib_bench.analysis.findings import Finding, at_beta, changes, findings_of, largest, overview
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import (  # fmt: skip
    MAGNITUDE,
    RATE,
    TRAINED,
    TWO_KINDS,
    Row,
    adjusted,
    doubtful,
    fields,
)
from calib_bench.analysis.scores import REPAIRED
from calib_bench.analysis.table_notes import families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY, Trial
from calib_bench.inference import Fitted, within
from calib_bench.inference import two_by_two as contrasts
from calib_bench.inference.scores import with_doubt
from calib_bench.planning.tuning import More, together

SWITCH_TO, SWITCH_FROM = "switch to beta", "switch from beta"
KINDS = (TRAINED, RATE, MAGNITUDE, SWITCH_TO, SWITCH_FROM)
METRICS = {
    "accuracy": ("raw", "correct"),
    "repaired log loss": ("temperature_scaling", "log_loss"),
    "log loss": ("raw", "log_loss"),
}
"""Metrics of the 2x2: the method, and the per-example score each is the mean of."""
EFFECTS = ("total", "head_rate", "initial_magnitude", "interaction")
ALONE = ("head_rate_alone", "initial_magnitude_alone")


@dataclass(frozen=True)
class Part:
    """An intervention on the reference: which, at which beta, and its template (rate and seed of no meaning)."""

    kind: str
    beta: float
    template: Trial


def parts(grid: Grid, templates: Iterable[Trial]) -> list[Part]:
    """The interventions of a family, given its templates of the grid; none where they are off or do not apply."""
    at_beta = {template.beta: template for template in templates if template.objective == CROSS_ENTROPY}
    reference = at_beta.pop(grid.reference, None)
    if reference is None or grid.interventions != "yes" or why_not(reference):
        return []
    return [part for beta in sorted(at_beta) for part in _at(grid, reference, beta)]


def why_not(reference: Trial) -> str:
    """Why a family's reference cannot be intervened on; empty when it can."""
    if reference.optimizer not in FACTORS:
        return f"what beta does to the head's rate is not known for {reference.optimizer}"
    if reference.head_lr != 1 or reference.head_init != 1:
        return "its head's factors are set by hand"
    if reference.clip:
        return "a bound on the gradient's norm depends on the scale of the head"
    if reference.eps_scale != "none":
        return "Adam's eps follows beta, and the head's factors do not move it"
    return "" if reference.epochs else "it does not train"


FACTORS = {"sgd": 2, "adam": 1, "adamw": 1}
"""By optimizer, the power of beta by which training at beta multiplies the head's rate."""


def _at(grid: Grid, reference: Trial, beta: float) -> list[Part]:
    factor = beta / grid.reference
    power = FACTORS[reference.optimizer]
    # The head's decay is divided by its rate's factor; Adam's, which it adds to a gradient, by another one.
    decay = reference.head_decay / (factor if reference.optimizer == "adam" else 1.0)
    changes = {
        RATE: {"head_lr": factor**power, "head_decay": decay},
        MAGNITUDE: {"head_init": factor},
        SWITCH_TO: {"beta": beta, "switch_from": grid.reference, "switch_at": grid.switch_at},
        SWITCH_FROM: {"switch_from": beta, "switch_at": grid.switch_at},
    }
    return [Part(kind, beta, reference.model_copy(update=update)) for kind, update in changes.items()]


def more(grid: Grid) -> More:
    """What `tuning` tunes beside the grid: the interventions' templates of a family."""
    return lambda templates: [part.template for part in parts(grid, templates)]


def rows(by_kind: Mapping[str, Measures], reference: Measures, names: Mapping[str, Row], nested: bool) -> list[Row]:
    """One row an intervention at one beta, training at it first: the contrast with the reference.

    Args:
        by_kind: by kind, some of KINDS.
        names: by kind, the columns that name the arm.
    """
    return [
        {
            **names[kind],
            "intervention": kind,
            "rate": by_kind[kind].arm.chosen,
            "nested": nested,
            "examples": _examples(reference),
            **contrast(by_kind[kind], reference, nested),
        }
        for kind in KINDS
        if kind in by_kind
    ]


def _examples(measures: Measures) -> int:
    return int(measures.examples["raw"]["correct"].shape[1]) if measures.seeds else 0


def two_by_two(by_kind: Mapping[str, Measures], reference: Measures, name: Row, nested: bool) -> list[Row]:
    """One row a metric at one beta: total = head_rate + initial_magnitude (main effects), and their interaction.

    Over the seeds that finished in all four cells; no rows when there is none, or a cell is missing. `doubtful` names
    effects whose limits are in doubt.
    """
    if not {TRAINED, RATE, MAGNITUDE} <= by_kind.keys():
        return []
    cells = [reference, by_kind[RATE], by_kind[MAGNITUDE], by_kind[TRAINED]]
    seeds = [seed for seed in reference.seeds if all(seed in measures.seeds for measures in cells)]
    if not seeds:
        return []
    either = {seed for measures in cells for seed in measures.arm.trials}
    base: Row = {**name, **_two_kinds(cells), "tuning": together(measures.arm for measures in cells)}
    counts: Row = {"seeds": len(seeds), "dropped": len(either) - len(seeds), "nested": nested}
    counts["examples"] = _examples(reference)
    return [{**base, "metric": metric, **counts, **effects(cells, seeds, metric, nested)} for metric in METRICS]


def _two_kinds(cells: Sequence[Measures]) -> Row:
    """The column TWO_KINDS of a row that rests on four cells, the reference first; no column where none is mixed."""
    reference, *arms = cells
    kinds = (two_kinds(arm) for arm in arms)
    return next(filter(None, kinds), two_kinds(arms[-1], reference))


def effects(cells: Sequence[Measures], seeds: list[int], metric: str, nested: bool) -> Row:
    """The EFFECTS of two factors on a metric, and those of each ALONE, as columns; `doubtful` where limits are.

    Args:
        cells: neither factor, the first alone, the second alone, both.
        seeds: that finished in all cells.
        metric: of METRICS.
        nested: seeds have test examples of their own.
    """
    method, score = METRICS[metric]
    y00, y10, y01, y11 = (measures.scores(method, score, seeds) for measures in cells)
    fits = tuple(_fitted(cells, seeds, weights) if method == REPAIRED else None for weights in WEIGHTS)
    effects = contrasts(y00, y10, y01, y11, nested=nested, choice=_choices(cells, method, score), fits=fits)
    by_name = dict(zip((*EFFECTS, *ALONE), effects, strict=True))
    if score == "correct":
        by_name = {effect: with_doubt(interval, (y00, y10, y01, y11), nested) for effect, interval in by_name.items()}
    row: Row = {}
    for effect, interval in by_name.items():
        row |= fields(effect, interval if effect == "interaction" else within(interval, metric, difference=True))
    return row | doubtful(by_name)


def _choices(cells: Sequence[Measures], method: str, score: str) -> list[NDArray[np.float64]] | None:
    """By how much other choices of rate would change each cell's mean; None where a cell has made none."""
    moves = [shift(measures, None, (method, score, 1.0)) for measures in cells]
    chosen_moves = [move for move in moves if move is not None]
    return chosen_moves if len(chosen_moves) == len(cells) else None


WEIGHTS = (
    (-1, 0, 0, 1), (-0.5, 0.5, -0.5, 0.5), (-0.5, -0.5, 0.5, 0.5), (1, -1, -1, 1), (-1, 1, 0, 0), (-1, 0, 1, 0)
)  # fmt: skip
"""Of the cells y00, y10, y01, y11 in each effect of `inference.two_by_two`, in its order."""


def _fitted(cells: Sequence[Measures], seeds: list[int], weights: Sequence[float]) -> Fitted | None:
    """What the calibration examples of the cells' temperatures add to an effect on repaired log loss."""
    sides = ((weight, one, one.places(seeds)) for weight, one in zip(weights, cells, strict=True))
    return fitted_to("log_loss", *sides)


SHOWN = (
    "model", "variant", "beta", "intervention", "tuning", "rate", "seeds", "dropped", TWO_KINDS, "doubtful",
    *DIFFERENCES, "kappa",
)  # fmt: skip
"""Columns of the table of interventions."""
TABLES = {
    "interventions": TableSpec(
        "Interventions: what moves when one part of beta moves",
        (
            "Each arm minus {reference} with cross-entropy; {sample}",
            "Head rate and initial magnitude: trained at {reference} with the head's rate, or its initial weights, "
            "changed as beta changes them; both together are training at beta",
            "Switch: beta changes after {at} of the updates, from {reference} (to) or to {reference} (from), without "
            "changing a prediction there",
            f"Rates tuned like every arm's. {STAR} over the rows of this table",
        ),
        shown=SHOWN,
        fields=lambda _, grid: {"at": f"{grid.switch_at:.0%}"},
    ),
    "two_by_two": TableSpec(
        "Beta as two factors: the head's rate and the initial logit magnitude",
        (
            "2x2 of the two factors, cells {reference}, either alone, and training at beta; {sample}",
            "total = head rate + initial magnitude, each the mean of its effect without and with the other; alone: "
            "against {reference}; accuracy as a share, log loss in nats, repaired: after temperature scaling, whose "
            f"calibration examples are counted. {STAR} over the betas of a metric",
        ),
        paper=True,
    ),
}


def adjust(frames: dict[str, pd.DataFrame]) -> None:
    """Adds Holm-adjusted p-values to the frames "interventions" and "two_by_two"."""
    frames["interventions"] = adjusted(frames["interventions"])
    frames["two_by_two"] = adjusted(frames["two_by_two"], "metric")


def words(frames: Mapping[str, pd.DataFrame], grid: Grid) -> list[str]:
    """Sentences on the interventions, the 2x2 first."""
    sentences = []
    for where, family in families(frames["two_by_two"]):
        sentences.append(f"{where}{_design(family)}")
    for where, family in families(frames["interventions"]):
        switched = family[family["intervention"].isin((SWITCH_TO, SWITCH_FROM))]
        if len(switched) and "accuracy" in switched:
            sentences.append(f"{where}{_switches(switched, grid)}")
    return sentences


def _design(frame: pd.DataFrame) -> str:
    """The two factors on accuracy and repaired log loss, where beta's effect is largest."""
    clauses = [
        _divided(metric, frame[frame["metric"] == metric].to_dict("records"))
        for metric in ("accuracy", "repaired log loss")
    ]
    return f"Beta split into the head's learning rate and the initial logit magnitude: {'. '.join(clauses)}."


def _divided(metric: str, metric_rows: Sequence[Mapping[Any, Any]]) -> str:
    """What of beta's effect on a metric is each factor's, where the effect is largest."""
    most = largest(findings_of(metric_rows, "total"))
    if most is None:
        alone = [one for column, name in FACTOR_NAMES.items() for one in findings_of(metric_rows, column, name)]
        return f"{metric}: no effect of beta to divide is established ({overview(alone)})"
    row = next(row for row in metric_rows if at_beta(row) == most.where)
    factors = [Finding.of(row, column, name) for column, name in FACTOR_NAMES.items()]
    return f"{metric} changed by {most.text} at {most.where}, {changes(factors)}"


FACTOR_NAMES = {"head_rate": "the head's rate", "initial_magnitude": "the initial magnitude"}
"""What sentences call the two factors."""


def _switches(frame: pd.DataFrame, grid: Grid) -> str:
    ways = {SWITCH_TO: f"{grid.reference:g} to beta", SWITCH_FROM: f"beta to {grid.reference:g}"}
    clauses = []
    for kind, way in ways.items():
        switch_rows = frame[(frame["intervention"] == kind) & frame["accuracy"].notna()].to_dict("records")
        findings = [one for column, name in MOVES.items() for one in findings_of(switch_rows, column, name)]
        clauses.append(f"From {way}, {overview(findings, estimates=True)}")
    return f"Switching beta after {grid.switch_at:.0%} of training, no prediction changed there. {'. '.join(clauses)}."


MOVES = {"accuracy": "accuracy at the end", "log_loss_dyn": "repaired log loss at the end"}
"""What only learning dynamics can move, and what sentences call it."""
