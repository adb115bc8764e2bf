"""What confidence is worth to a decision, arm against reference, before and after temperature scaling.

A temperature changes no answer and, within an example, no order of classes. It may change which of two examples has
more confidence, and so all of these metrics: what is left after it is what no temperature repairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib_bench.analysis.calibration_variance import set_influence
from calib_bench.analysis.contrast import difference_of
from calib_bench.analysis.findings import Finding, overview
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import Row, row_of
from calib_bench.analysis.scores import SETS
from calib_bench.analysis.table_notes import NAMES, families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.analysis.trial_predictions import RAW, REPAIRED
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference import DECISIONS, Fitted, Interval, at_threshold, decision_intervals
from calib_bench.report.drawing import WIDTH, by_family, dodge_factor, draw_line, figure_legend, set_beta_axis
from calib_bench.report.panels import ZERO_LINE, new_figure, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


TOLD = {
    "auroc": "AUROC of confidence",
    "coverage_at_5_risk": "coverage at 5% risk",
    "lac_size": "size of 90% sets (lac)",
}
"""Metrics that the note tells of, and their names in it."""
PANELS = {
    "auroc": "AUROC",
    "coverage_at_5_risk": "coverage at 5% risk",
    "lac_size": "size of LAC's 90% sets",
    "augrc": "AUGRC",
    "risk_at_80_coverage": "risk at 80% coverage",
    "aps_size": "size of APS's 90% sets",
}
"""Metrics of the figure and their names in it, line by line."""
ACROSS = 3
LOOKS: dict[str, dict[str, Any]] = {RAW: {"linestyle": "--", "fillstyle": "none"}, REPAIRED: {"linestyle": "-"}}
UNCOUNTED = "intervals leave out the choice of rates"
"""Reason why no change of a decision is called established where rates were tuned."""


def rows(arm: Measures, reference: Measures | None, name: Row, nested: bool) -> list[Row]:
    """The arm minus the reference in every metric of a decision, over the seeds that finished in both: a row a method.

    Args:
        name: the columns that name the arm.
        nested: seeds have test examples of their own.
    """
    seeds = [seed for seed in arm.seeds if reference is not None and seed in reference.seeds]
    if reference is None or not seeds:
        return []
    ours, theirs = ([one.seeds.index(seed) for seed in seeds] for one in (arm, reference))
    examples = arm.examples[RAW]["correct"].shape[1]
    base = {**name, "seeds": len(seeds), "examples": examples, "nested": nested}
    return [
        {**base, "method": method, **row_of(_intervals((arm, ours), (reference, theirs), method, nested))}
        for method in (RAW, REPAIRED)
    ]


Side = tuple[Measures, Sequence[int]]
"""An arm and the places of the seeds that are compared."""


def _intervals(side: Side, other: Side, method: str, nested: bool) -> dict[str, Interval]:
    """Differences of the arm from the other after one method, by metric."""
    intervals = decision_intervals(*_top(side, method), _top(other, method), nested=nested)
    for metric in SETS:
        a_SN, b_SN = (one.sets[method][metric][list(places)] for one, places in (side, other))
        intervals[metric] = difference_of(metric, a_SN - b_SN, nested, _threshold(side, other, method, metric))
    return intervals


def _top(side: Side, method: str) -> tuple[Any, Any]:
    """Confidences and whether the top label was right [S, N]."""
    arm, places = side
    scores = arm.examples[method]
    return scores["confidence"][list(places)].numpy(), scores["correct"][list(places)].numpy()


def _threshold(side: Side, other: Side, method: str, metric: str) -> Fitted | None:
    """What the calibration examples behind both thresholds add to a difference; the same examples in both."""
    sides = [set_influence((weight, *one), method, metric) for weight, one in ((1.0, side), (-1.0, other))]
    influences = [one.influence_SM for one in sides if one is not None and one.influence_SM is not None]
    if len(influences) < 2 or influences[0].shape != influences[1].shape:
        return None
    return at_threshold(np.add(*influences))


def _words(frame: pd.DataFrame, grid: Grid) -> Iterator[str]:
    """Sentences on where training at another beta changes decisions even after temperature scaling."""
    repaired = frame[frame["method"] == REPAIRED]
    other_betas = repaired[(repaired["objective"] == CROSS_ENTROPY) & (repaired["beta"] != grid.reference)]
    for where, group in families(other_betas):
        rows = group.to_dict("records")
        changes = [finding_of(row, column, name) for column, name in TOLD.items() for row in rows]
        yield f"{where}Changes after temperature scaling. {overview(changes)}"


TABLE = TableSpec(
    "Decisions: change of ranking, selective prediction and conformal sets",
    (
        "Each arm minus {reference} with cross-entropy, before (raw) and after temperature scaling",
        "auroc: the chance that a right answer has more confidence than a wrong one; augrc: the share of examples "
        "that are answered, and wrongly, mean over all shares answered; coverage at 5 risk: the share of examples, "
        "the most confident first, that can be answered with 5% errors; risk at 80 coverage: the share of errors "
        "among the 80% with most confidence",
        "lac, aps, raps: split conformal sets with thresholds from the calibration split, made to hold the label "
        "for 90% of the examples: the share that they do hold, and classes in a set; nothing is drawn at random, "
        "so that sets of aps and raps, never empty, may cover more",
        "{sample}; of the coverage at 5% risk by bootstrap. The calibration examples behind the thresholds are "
        "counted, those behind temperatures and the choice of rates are not",
        f"{STAR} over the arms, for each method and column",
    ),
    names=(*NAMES, "method"),
    first=(*DECISIONS, "lac_size", "aps_size"),
    holm=("method",),
    words=_words,
)


def finding_of(row: Row, column: str, name: str) -> Finding:
    """The change of one arm, of which nothing is established where its rate was tuned."""
    return as_counted(Finding.of(row, column, name), row)


def as_counted(finding: Finding, row: Mapping[Any, Any]) -> Finding:
    """The finding, revoked where its row's rate was tuned: intervals of decisions leave out that choice."""
    return finding if finding.revoked or row["tuning"] == "fixed" else replace(finding, revoked=UNCOUNTED)


def figure(analysis: Analysis) -> Figure | None:
    """Change of what confidence is worth to a decision over beta, before and after temperature scaling, with 95%
    intervals; a colour an objective. More is better for AUROC and coverage, less for the other four."""
    frame = rows_of(analysis, "decisions")
    if not len(frame):
        return None
    families = list(by_family(frame))
    figure, axes = new_figure(WIDTH, 5.2 * len(families), len(PANELS) // ACROSS * len(families), ACROSS)
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys((CROSS_ENTROPY, *frame["objective"])))}
    for (name, rows), panels in zip(families, axes.reshape(len(families), -1), strict=True):
        for axis, (column, label) in zip(panels, PANELS.items(), strict=True):
            _panel(axis, rows, column, colors, analysis.result.reference)
            axis.set_ylabel(f"change of\n{label}")
        panels[0].set_title(name, loc="left")
    figure_legend(figure, _keys(frame, colors))
    return figure


def _panel(axis: Axes, rows: pd.DataFrame, column: str, colors: dict[str, str], reference: float) -> None:
    """Lines over beta of one metric, one for each objective and method; cross-entropy's pass the reference at 0."""
    series = [(objective, method) for objective in colors for method in LOOKS]
    for i, (objective, method) in enumerate(series):
        line = rows[(rows["objective"] == objective) & (rows["method"] == method)]
        if objective == CROSS_ENTROPY and len(line):
            no_change = {"beta": reference, column: 0.0, "tuning": line["tuning"].iloc[0]}
            line = pd.concat([line, pd.DataFrame([no_change])])
        look = {"color": colors[objective], **LOOKS[method]}
        draw_line(axis, line.sort_values("beta"), column, dodge_factor(i, len(series)), **look)
    axis.axhline(0, **ZERO_LINE)
    set_beta_axis(axis, [*rows["beta"], reference])


def _keys(frame: pd.DataFrame, colors: dict[str, str]) -> list[tuple[str, dict[str, Any]]]:
    keys = [
        (name, {"color": color, "marker": "o"}) for name, color in colors.items() if name in set(frame["objective"])
    ]
    keys.append(("raw", {"color": "0.2", "marker": "o", **LOOKS[RAW]}))
    keys.append(("after temperature scaling", {"color": "0.2", "marker": "o", **LOOKS[REPAIRED]}))
    return keys
