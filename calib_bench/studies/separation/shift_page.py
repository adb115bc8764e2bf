"""How the page shows shifted test data: tables with their notes, what is said of them, figures over severity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.analysis.findings import Finding, evidence, overview
from calib_bench.analysis.result_rows import cell
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.analysis.table_notes import NAMES, families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.corruption import SEVERITIES
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Section
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report.drawing import by_family, family_grid, figure_legend, plain, shades
from calib_bench.report.panels import rows_of
from calib_bench.studies.separation.decisions import as_counted, finding_of
from calib_bench.studies.separation.refinement import FAMILIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SECTION = Section(
    "Under shift",
    ("shift", "shift_repaired", "shift_methods", "shift_change", "shift_controls", "shift_corruptions"),
    "The same models on shifted test inputs, temperatures and thresholds from clean data: how much of a loss a "
    "temperature that is fitted on the shifted data would repair, and how much is dynamics that survived the shift.",
)
WHERE = ("corruption", "severity")
MOST_LINES = 6
"""Methods that one panel shows."""
FIRST = ("accuracy", "log_loss", "log_loss_repaired", "log_loss_refitted", "kappa", "delta_dyn", "delta_dyn_shifted")
TOLD = {
    "delta_accuracy": "accuracy",
    "delta_dyn": "log loss after the clean temperature",
    "delta_dyn_shifted": "log loss after one of the shifted data",
}
"""Changes that sentences tell of, and their names in them."""
LEVELS = (("accuracy", "accuracy"), ("log_loss", "log loss, raw (nats)"), ("kappa", "kappa of these data"))
AFTER = (
    ("log_loss_repaired", "log loss, clean T (nats)"),
    ("log_loss_refitted", "log loss, T of these data (nats)"),
    ("lac_coverage", "coverage of LAC's 90% sets"),
)
CHANGES = (
    ("delta_total", "change of log loss (nats)"),
    ("delta_dyn", "left by the clean T"),
    ("delta_dyn_shifted", "left by the T of these data"),
)
"""Panels of each figure: column and label."""
EXPECTED = {"lac_coverage": 0.9, "kappa": 1.0, **dict.fromkeys((column for column, _ in CHANGES), 0.0)}
"""Values that are marked by a line."""


REFERENCE = (
    "{where}At severity {severity:g} ({corruption}) beta={beta:g} has accuracy {accuracy} and log loss {log_loss}, "
    "after the clean temperature {log_loss_repaired}, after one of the shifted data {log_loss_refitted}{kappa}"
)
REPAIR = "{where}Log loss after the clean temperature minus raw, beta={beta:g}: {evidence}"
PLACE = "severity {severity:g} ({corruption})"
MEASURED = ("accuracy", "log_loss", "log_loss_repaired", "log_loss_refitted")


def _words(frame: pd.DataFrame, grid: Grid) -> Iterator[str]:
    """Sentences on the strongest shift: what it does to the reference, and where another beta changes what is left."""
    for where, rows in families(frame[frame["objective"] == CROSS_ENTROPY]):
        worst = rows[rows["severity"] == rows["severity"].max()]
        worst = worst[worst["corruption"] == worst["corruption"].iloc[0]] if len(worst) else worst
        is_reference = worst["beta"] == grid.reference
        for row in worst[is_reference].to_dict("records"):
            texts = {column: cell(row, column) for column in MEASURED}
            kappa = f", kappa {cell(row, 'kappa')}" if "kappa" in row else ""
            yield REFERENCE.format(where=where, **{**row, **texts, "kappa": kappa})
        others = worst[~is_reference].to_dict("records")
        changes = [finding_of(row, column, name) for column, name in TOLD.items() if column in worst for row in others]
        if changes:
            yield f"{where}Changes there with beta: {overview(changes)}"


def _still_helps(frame: pd.DataFrame, grid: Grid) -> Iterator[str]:
    """Sentences on the reference: at which shifts temperature scaling on clean data still changes log loss."""
    is_told = (frame["objective"] == CROSS_ENTROPY) & (frame["beta"] == grid.reference)
    for where, rows in families(frame[is_told & (frame["method"] == REPAIRED)]):
        shifted = rows[rows["corruption"] != "none"].to_dict("records")
        findings = [as_counted(Finding.of(row, "from_raw", where=_place(row)), row) for row in shifted]
        yield REPAIR.format(where=where, beta=grid.reference, evidence=evidence(findings, estimates=True))


def _place(row: Mapping[Any, Any]) -> str:
    """The shift that a row is of: "severity 3 (blur)", "CIFAR-10.1"."""
    return str(row["corruption"]) if pd.isna(row["severity"]) else PLACE.format(**row)


def _cross_entropy_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("objective", key=lambda objectives: objectives != CROSS_ENTROPY, kind="stable")


TABLES = {
    "shift": TableSpec(
        "Over severity",
        (
            "{sample}; a mean over corruptions is taken for each example first. Intervals leave out the choice of "
            "rates, so that nothing is established where rates were tuned, and the fit of temperatures to the shifted "
            "data",
            "log loss repaired: after the temperature of the clean calibration split; refitted: after temperatures of "
            "the shifted data, each half of the examples with the other half's; kappa: the temperature that the "
            "shifted data need, times beta; ece repaired, auroc repaired, and sets that hold the label for 90% of "
            "clean examples (lac, aps), by the clean split alone",
            "delta: the arm minus the reference, of log loss where no score is named; total = conf + dyn with the "
            "clean temperature, = conf shifted + dyn shifted with those of the shifted data; delta auroc and those of "
            "sets after the clean temperature",
            "ECE: t intervals over seeds for this test set",
            f"{STAR} over all rows, for each column",
        ),
        names=(*NAMES, *WHERE),
        first=FIRST,
        holm=(),
        words=_words,
    ),
    "shift_methods": TableSpec(
        "Every calibrator over severity",
        (
            "Each calibrator fitted on the clean calibration split, every metric a mean over corruptions",
            "Accuracy, log loss, Brier score: {sample}. Sets, raw and after temperature scaling: the same, their "
            "threshold's calibration examples counted. All else, ECE too: t intervals over seeds for this test set. "
            "The calibration examples are counted after temperature scaling; after other calibrators intervals hold "
            "for these fits. No interval counts the choice of rates",
            "from raw: log loss after the method minus the raw predictions' of the same arm: below 0 the calibrator "
            "still helps; delta: the arm minus the reference after the same method",
            f"{STAR} over all rows of a method, for each column",
        ),
        names=(*NAMES, *WHERE, "method"),
        first=("accuracy", "log_loss", "from_raw", "brier", "ece", "classwise_ece", "delta_log_loss"),
        holm=("method",),
        rows=_cross_entropy_first,
        words=_still_helps,
    ),
    "shift_controls": TableSpec(
        "What a temperature cannot change, and what further test data must not",
        ("Counts over all arms, seeds and test splits; every one must be 0",),
        names=("model", "variant", "control"),
    ),
    "shift_corruptions": TableSpec(
        "Every corruption at every severity",
        ("Columns as in the table over severity",),
        names=(*NAMES, *WHERE),
        first=FIRST,
        holm=(),
    ),
}
"""The tables of shifted data."""


def levels(analysis: Analysis) -> Figure | None:
    """Accuracy, log loss and the kappa that the data need over severity, a colour a beta: where kappa departs from 1,
    the model is miscalibrated under shift.
    """
    return _over_severity(analysis, LEVELS)


def repaired(analysis: Analysis) -> Figure | None:
    """Log loss after temperatures of clean and of shifted data, and sets' coverage, over severity, a colour a beta:
    between the first two lies what a temperature of shifted data would gain.
    """
    return _over_severity(analysis, AFTER)


def methods(analysis: Analysis) -> Figure | None:
    """Log loss after calibrators that clean data fitted, over severity: a panel a beta, a colour a method.

    Of cross-entropy at the least beta, the reference and the greatest; of more than `MOST_LINES` methods, the raw
    predictions and the families of maps that refinement is estimated with.
    """
    frame, drawn = _of_first_set(analysis, "shift_methods")
    if frame is None:
        return None
    betas = sorted({frame["beta"].min(), analysis.result.reference, frame["beta"].max()})
    names = list(dict.fromkeys(frame["method"]))
    if len(names) > MOST_LINES:
        names = [name for name in names if name in (RAW, *FAMILIES)]
    colors = {name: f"C{i}" for i, name in enumerate(names)}
    figure, axes = family_grid(frame, len(betas), 3.1, sharey="row")
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, beta in zip(line, betas, strict=True):
            _panel(axis, rows[rows["beta"] == beta], "log_loss", "method", colors)
            axis.set_yscale("log")
            plain(axis.yaxis)
            axis.set_title(f"beta = {beta:.3g}", loc="right")
        line[0].set_ylabel("log loss (nats)")
        line[0].set_title(f"{name}, {drawn}" if len(betas) == 1 else name, loc="left")
    figure_legend(figure, [(name.replace("_", " "), {"color": color}) for name, color in colors.items()])
    return figure


def change(analysis: Analysis) -> Figure | None:
    """Log loss minus the reference's over severity: in all, and what either temperature leaves of it. Below 0 an arm is
    better than the reference.
    """
    return _over_severity(analysis, CHANGES)


def _over_severity(analysis: Analysis, panels: tuple[tuple[str, str], ...]) -> Figure | None:
    """Panels over severity of cross-entropy's arms on the first set of corruptions; None where there is none."""
    frame, drawn = _of_first_set(analysis, "shift")
    if frame is None or not all(column in frame for column, _ in panels):
        return None
    figure, axes = family_grid(frame, len(panels), 3.1)
    colors = shades(frame["beta"])
    for (name, rows), line in zip(by_family(frame), axes, strict=False):
        for axis, (column, label) in zip(line, panels, strict=True):
            _panel(axis, rows, column, "beta", colors)
            axis.set_ylabel(label)
        line[0].set_title(f"{name}, {drawn}", loc="left")
    shown = set(frame.loc[frame[panels[0][0]].notna(), "beta"])  # the reference has no change
    figure_legend(figure, [(f"beta = {beta:.3g}", {"color": colors[beta]}) for beta in colors if beta in shown])
    return figure


def _of_first_set(analysis: Analysis, table: str) -> tuple[pd.DataFrame | None, str]:
    """A table's rows of cross-entropy's arms on clean data and the first set of corruptions, and the set's name."""
    frame = rows_of(analysis, table, "severity")
    frame = frame[frame["objective"] == CROSS_ENTROPY] if len(frame) else frame.assign(corruption=[])
    drawn = next((name for name in frame["corruption"] if name != "none"), None)
    return (None, "") if drawn is None else (frame[frame["corruption"].isin(("none", drawn))], drawn)


def _panel(axis: Axes, rows: pd.DataFrame, column: str, by: str, colors: Mapping[Any, Any]) -> None:
    """Lines over severity, one for each value of the column `by`; a logarithmic scale for kappa."""
    for i, (value, color) in enumerate(colors.items()):
        series = rows[(rows[by] == value) & rows[column].notna()].sort_values("severity")
        x = series["severity"] + 0.06 * (i - (len(colors) - 1) / 2)
        axis.plot(x, series[column], color=color, marker="o", markersize=3)
        limits = series[f"{column}_low"], series[f"{column}_high"]
        axis.vlines(x, *limits, color=color, linewidth=0.9, alpha=0.6)
    if column in EXPECTED:
        axis.axhline(EXPECTED[column], color="0.4", linewidth=0.8)
    if column == "kappa":
        axis.set_yscale("log")
        plain(axis.yaxis)
    axis.set_xticks((0, *SEVERITIES))
    axis.set_xlabel("severity (0: clean)")
