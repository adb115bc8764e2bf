"""Confidence and dynamics at every measured epoch, and where each arm is best before and after a temperature.

At each row of a trial's history a temperature is fitted to its selection logits. What that repairs is confidence, what
remains is dynamics, and kappa = beta T* says how overconfident the model is then. Refinement is done where the repaired
loss is least. Where this comes after the least raw loss, "refine, then calibrate" (Berta, Holzmueller, Jordan & Bach,
2025, arXiv 2501.19195) stops the training later than early stopping does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.findings import betas
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import Row
from calib_bench.analysis.table_notes import NAMES, families
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Section
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.inference.arrays import Array
from calib_bench.report.drawing import plain, set_beta_axis, shades
from calib_bench.report.panels import ZERO_LINE, draw_families, draw_series, rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AS_MEASURED = ("train_loss", "scale_share", "kernel_drift", "weight_drift")
"""Columns of histories whose means are shown, those of a probe where trials carry it."""
RAW, REPAIRED, KAPPA = "selection_log_loss", "selection_repaired_log_loss", "selection_kappa"
SCALED = {"dyn": "log_loss", "train_loss": "log_loss", "scale_share": "accuracy"}
"""The metric on whose scale a column has its limits: of losses above 0, of shares between 0 and 1."""
MOMENTS = 5
"""Epochs of which the view over beta shows a line each."""
LACKING = (
    "Over time: some trials were stored by a version that measured no temperature at each epoch; arms with such trials "
    "are left out there."
)
OPTIMISM = (
    "All is of the selection split, where the temperature is fitted too: with its one parameter, repaired losses come "
    "out lower by about 1 / (2N) nats of N selection examples, {optimism} here"
)
HOW = "Means over seeds, 95% t intervals over seeds, for this selection split and at the chosen rates"
BEST_NOTE = (
    "Epochs and losses are chosen and read on the same examples, so the best losses are too low, and gains (last epoch "
    "minus best) too large and never negative: an interval of a gain that leaves out 0 shows nothing by itself. "
    "Later: epochs by which the best repaired loss comes after the best raw loss. Intervals are not adjusted for the "
    "number of arms"
)
SECTION = Section(
    "Over time",
    ("over_time", "best_epochs", "over_time_by_beta", "lazy"),
    "What a temperature could repair (confidence) and what it could not (dynamics) at each measured epoch of the "
    "cross-entropy arms, on the selection split; kappa above 1 is overconfident. The share along the scale is how much "
    "of the change of the logits since the last measured epoch only multiplies them all: that part changes no answer, "
    "and a temperature undoes it. Kernel drift, where measured, is 1 minus the cosine between the tangent kernel "
    "and that at initialization: near 0 learning is lazy.",
)
PANELS = (
    ("conf", "confidence (nats)"),
    ("dyn", "dynamics (nats)"),
    ("kappa", "kappa"),
    ("scale_share", "share along the scale"),
)
EXPECTED = {"conf": 0.0, "kappa": 1.0}
"""Values that are marked by a line."""


def rows(store: Results, measures: Measures, name: Row) -> tuple[list[Row], list[Row]] | None:
    """The arm at each measured epoch, and its best epochs, over the seeds that finished.

    None where a trial's history has no temperatures, as of older versions. Nothing of an arm that trains nothing or
    with another objective than cross-entropy, whose selection loss is not what it minimizes.
    """
    trial = measures.arm.trial
    if trial.objective != CROSS_ENTROPY or not trial.epochs or not measures.seeds:
        return [], []
    histories = [store.history(measures.arm.trials[seed]) for seed in measures.seeds]
    if not all(KAPPA in history for history in histories):
        return None
    examples = len(store.labels(trial)["selection"])
    named: Row = {**name, "seeds": len(histories), "examples": examples}
    return [{**named, **row} for row in _epochs(histories)], [{**named, **_best(histories)}]


def _epochs(histories: list[pd.DataFrame]) -> list[Row]:
    """A row a measured epoch."""
    raw, repaired, kappa = (_by_seed(histories, column) for column in (RAW, REPAIRED, KAPPA))
    columns = {"log_loss": raw, "conf": raw - repaired, "dyn": repaired}
    columns |= {column: _by_seed(histories, column) for column in AS_MEASURED if column in histories[0]}
    rows = []
    for i, epoch in enumerate(histories[0]["epoch"]):
        row: Row = {"epoch": int(epoch)}
        row |= {end: math.exp(log) for end, log in _mean("kappa", np.log(kappa[:, i])).items()}
        for column, values_SE in columns.items():
            row |= _mean(column, values_SE[:, i])
        rows.append(row)
    return rows


def _best(histories: list[pd.DataFrame]) -> Row:
    """Where the raw and the repaired loss are least, by how much, and how much later the second is."""
    epochs = histories[0]["epoch"].to_numpy()
    raw, repaired = _by_seed(histories, RAW), _by_seed(histories, REPAIRED)
    best_raw, best_repaired = epochs[raw.argmin(1)], epochs[repaired.argmin(1)]
    last = float(epochs[-1])
    columns = {
        "raw_epoch": (best_raw, 0.0, last),
        "raw_gain": (raw[:, -1] - raw.min(1), 0.0, math.inf),
        "repaired_epoch": (best_repaired, 0.0, last),
        "repaired_gain": (repaired[:, -1] - repaired.min(1), 0.0, math.inf),
        "later": (best_repaired - best_raw, -last, last),
    }
    row: Row = {}
    for column, (values, least, most) in columns.items():
        limits = _mean(column, values.astype(np.float64))
        row |= {end: min(max(value, least), most) for end, value in limits.items()}
    row["later_p"] = each.p_over_seeds((best_repaired - best_raw).tolist())
    return row


def _by_seed(histories: list[pd.DataFrame], column: str) -> Array:
    """A column of the histories, [seeds, epochs]."""
    return np.stack([history[column].to_numpy(np.float64) for history in histories])


def _mean(column: str, values: Array) -> dict[str, float]:
    """The mean over the seeds that have a value, with its t interval; nan where none has or there is but one."""
    finite = values[np.isfinite(values)].tolist()
    if len(finite) < 2:
        return Estimate(finite[0] if finite else math.nan, math.nan, math.nan).limits(column)
    limits = each.over_seeds(SCALED.get(column, column), finite).values()
    return dict(zip((column, f"{column}_low", f"{column}_high"), limits, strict=True))


def _by_beta(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values(["model", "beta"], kind="stable")


def _optimism(frame: pd.DataFrame, _: Grid) -> dict[str, str]:
    """About how much too low repaired losses come out."""
    return {"optimism": f"{1 / (2 * frame['examples'].max()):.2g}"}


def words(best: pd.DataFrame) -> list[str]:
    """Where refinement ends after calibration does, as far as the seeds show it."""
    return [f"{prefix}{sentence}" for prefix, frame in families(_by_beta(best)) for sentence in _order_of_ends(frame)]


def _order_of_ends(best: pd.DataFrame) -> list[str]:
    """Sentences on one family."""
    bounded = best[best["later_low"].abs() < math.inf]
    orders = {"after": bounded[bounded["later_low"] > 0], "before": bounded[bounded["later_high"] < 0]}
    sentences = [
        f"The repaired loss is least {when} the raw loss at {betas(arms.to_dict('records'))}"
        for when, arms in orders.items()
        if len(arms)
    ]
    return [UNDECIDED] if len(bounded) and not sentences else sentences


UNDECIDED = "At no beta do the seeds show that repaired and raw loss are least at other epochs"
TABLES = {
    "best_epochs": TableSpec(
        "Best epochs by raw and by repaired selection loss",
        (HOW, OPTIMISM, BEST_NOTE),
        rows=_by_beta,
        words=lambda best, _: words(best),
        fields=_optimism,
    ),
    "over_time": TableSpec(
        "Confidence and dynamics over time, selection split (nats)",
        ("Log loss = conf + dyn", HOW, OPTIMISM),
        names=(*NAMES, "epoch"),
        first=("log_loss", "conf", "dyn", "kappa", "scale_share"),
        rows=_by_beta,
        fields=_optimism,
    ),
}
"""The arms' best epochs, and the arms over time."""


def over_time(analysis: Analysis) -> Figure | None:
    """Confidence, dynamics, kappa and the share along the scale over epochs, a shade a beta: kappa rises above 1 where
    a net begins to be overconfident.
    """
    frame = rows_of(analysis, "over_time")
    if not len(frame):
        return None
    colors = shades(frame["beta"])

    def draw(axis: Axes, arms: pd.DataFrame, column: str) -> None:
        draw_epochs(axis, arms, column, colors)
        if column in EXPECTED:
            axis.axhline(EXPECTED[column], **ZERO_LINE)
        if column == "scale_share":
            axis.set_ylim(0, 1)

    return draw_families(frame, PANELS, 2.9, draw, [(f"beta={b:.3g}", {"color": c}) for b, c in colors.items()])


def draw_epochs(axis: Axes, arms: pd.DataFrame, column: str, shades: Mapping[float, Any]) -> None:
    """A line a beta over epochs, in the range of the lines, and their intervals as bands, cut where they leave it."""
    for beta, arm in arms.groupby("beta"):
        axis.plot(arm["epoch"], arm[column], color=shades[beta], linewidth=1.2)
    if column in ("dyn", "kappa"):
        axis.set_yscale("log")
        plain(axis.yaxis)
    axis.set_ylim(*axis.get_ylim())
    for beta, arm in arms.groupby("beta"):
        low, high = arm[f"{column}_low"], arm[f"{column}_high"]
        axis.fill_between(arm["epoch"], low, high, color=shades[beta], alpha=0.12, linewidth=0)
    last = int(arms["epoch"].max())
    axis.set_xscale("symlog", linthresh=1, linscale=0.5)
    ticks = [0, *(tick for tick in (1, 3, 10, 30, 100, 300, 1000) if tick <= last)]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlabel("epoch")


def over_time_by_beta(analysis: Analysis) -> Figure | None:
    """Confidence and dynamics over beta at several epochs, a shade an epoch; bars are t intervals. The best beta is
    where the last curve is lowest.
    """
    frame = rows_of(analysis, "over_time")
    if not len(frame) or frame["beta"].nunique() < 2:
        return None
    colors = shades(_moments(sorted(set(frame["epoch"]) - {0})))

    def draw(axis: Axes, arms: pd.DataFrame, column: str) -> None:
        draw_series(axis, arms, column, "epoch", {epoch: {"color": color} for epoch, color in colors.items()})
        set_beta_axis(axis, list(arms["beta"]))
        if column == "conf":
            axis.axhline(0, **ZERO_LINE)

    keys = [(f"epoch {epoch:g}", {"color": color, "marker": "o"}) for epoch, color in colors.items()]
    return draw_families(frame, PANELS[:2], 3.1, draw, keys)


def _moments(epochs: list[float]) -> list[float]:
    """A few epochs, the first and the last among them, evenly spaced on a log scale.

    >>> _moments([1.0, 4.0, 8.0, 12.0, 16.0, 20.0, 40.0, 80.0])
    [1.0, 4.0, 8.0, 20.0, 80.0]
    """
    first, last = epochs[0], epochs[-1]
    targets = [first * (last / first) ** (i / (MOMENTS - 1)) for i in range(MOMENTS)]
    return sorted({min(epochs, key=lambda epoch: abs(math.log(epoch / target))) for target in targets})
