"""What the three comparisons of `comparisons` say of each beta: a verdict, in words, a table and a figure.

trainability     the difference is established at equal epochs alone, inconclusive or equivalent in the other two
generalization   the difference is established in all three, after Holm's correction, with one sign
inconclusive     everything else
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from calib_bench.analysis.findings import EQUAL, Evidence, Finding, places
from calib_bench.analysis.result_rows import adjusted, revoked
from calib_bench.analysis.table_notes import NAMES, families
from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis
from calib_bench.planning.tuning import FEWEST_SEEDS
from calib_bench.report.panels import draw_columns, draw_families, mark_zero, rows_of
from calib_bench.studies.separation.comparisons import BEST_EPOCH, COMPARISONS, EQUAL_EPOCHS, EQUAL_LOSS, LEFT_OUT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINABILITY, GENERALIZATION, INCONCLUSIVE = "trainability", "generalization", "inconclusive"
SUGGESTIVE = "suggestive: "
"""What a verdict begins with where too few seeds chose rates, their choice is not counted, or some seeds collapsed."""
VANISHED = (Evidence.INCONCLUSIVE, Evidence.EQUIVALENT)
WHERE = {EQUAL_EPOCHS: "at equal epochs", EQUAL_LOSS: "at equal training loss", BEST_EPOCH: "at each one's best epoch"}
MEANINGS = {
    GENERALIZATION: "the change has one sign in all three comparisons",
    TRAINABILITY: "only equal epochs differ, so that it may be speed alone",
    INCONCLUSIVE: "",
}
"""Each verdict in plain words."""
REMARK = " Speed or generalization, of log loss after temperature scaling: {}{}."
LOOKS: dict[str, dict[str, Any]] = {
    EQUAL_EPOCHS: {"color": "k", "marker": "o"},
    EQUAL_LOSS: {"color": "C0", "marker": "D"},
    BEST_EPOCH: {"color": "C1", "marker": "s"},
}
PANELS = (("repaired", "change of repaired log loss (nats)"), ("raw", "change of log loss (nats)"))
ROOM = 1.3
"""Factor of beta that the axis has beyond the outermost ones."""
INTERVALS = (
    "95% intervals. At equal epochs, on the test split: as in the table of confidence and dynamics. On the selection "
    "split, which chose rates and epochs too: over seeds, the choice of rates, and selection examples, whose part is "
    "known at the last epoch alone and taken from there; they leave out the choice of the best epoch, and that the "
    "temperature is fitted to the examples that it is judged on"
)
KEPT = (
    "where equal loss on says test, trials kept their logits when an epoch's mean training loss first fell to given "
    "levels: the lowest that all seeds of both reach, temperatures from the calibration split, intervals over seeds, "
    "test and calibration examples and the choice of rates"
)
SCHEDULE = (
    "as rates follow a schedule, the run that reaches a training loss first is taken at another share of its peak rate "
    "than the other, a larger one where rates fall"
)
RULE = (
    f"verdict, on the repaired loss: {GENERALIZATION} where all three changes are established with one sign; "
    f"{TRAINABILITY} where that at equal epochs is, and the other two are inconclusive, which wide intervals are too, "
    f"or equivalent within {EQUAL.margin:g}; {INCONCLUSIVE} otherwise; suggestive where fewer than {FEWEST_SEEDS} "
    "seeds chose a rate, the choice of rates is not counted, or some seeds collapsed"
)


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparisons.rows`, Holm-adjusted over the arms within each comparison, with their verdicts."""
    if not len(frame):
        return frame
    frame = adjusted(frame)
    return frame.assign(verdict=[verdict(row) for row in frame.to_dict("records")])


def changes(row: Mapping[Any, Any]) -> dict[str, Finding]:
    """The change of the repaired log loss in each of the three comparisons."""
    return {name: Finding.of(row, f"{name}_repaired", WHERE[name], "nats", EQUAL) for name in COMPARISONS}


def verdict(row: Mapping[Any, Any]) -> str:
    """What a Holm-adjusted row says: see the module."""
    at_end, *others = (replace(change, revoked="") for change in changes(row).values())
    if not at_end.is_established:
        return INCONCLUSIVE
    if all(other.is_established and other.departure * at_end.departure > 0 for other in others):
        word = GENERALIZATION
    elif all(other.evidence in VANISHED for other in others):
        word = TRAINABILITY
    else:
        return INCONCLUSIVE
    return SUGGESTIVE + word if revoked(row) or row["choice"] == LEFT_OUT else word


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """A sentence a family: which betas are of which verdict, with the changes of those that are not inconclusive."""
    sentences = []
    for where, group in families(frame):
        rows = group.to_dict("records")
        clauses = [_clause(word, [row for row in rows if row["verdict"] == word]) for word in _verdicts(rows)]
        sentences.append(
            f"{where}Speed or generalization, of log loss after temperature scaling against beta={grid.reference:g}: "
            f"{'; '.join(clauses)}."
        )
    return sentences


def remark(frame: pd.DataFrame, arm: Mapping[str, Any]) -> str:
    """Whether the change of an arm may be speed alone, as a sentence; empty where its epochs were not compared.

    Args:
        frame: the comparisons of every arm.
        arm: a row that names it.
    """
    verdicts = {_names(row): row["verdict"] for row in frame.to_dict("records")}
    if _names(arm) not in verdicts:
        return ""
    word = verdicts[_names(arm)]
    meaning = MEANINGS[word.removeprefix(SUGGESTIVE)]
    return REMARK.format(word, meaning and f" ({meaning})")


def _names(row: Mapping[Any, Any]) -> tuple[object, ...]:
    """What names an arm; a variant that is not there is None or NaN."""
    variant = row.get("variant")
    return row["model"], row["beta"], variant if isinstance(variant, str) else None


def _verdicts(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """The verdicts of rows, each once, inconclusive ones last."""
    return sorted({row["verdict"] for row in rows}, key=lambda word: (word == INCONCLUSIVE, word))


def _clause(word: str, rows: Sequence[Mapping[Any, Any]]) -> str:
    """Where a verdict holds, and what it rests on."""
    meaning = MEANINGS[word.removeprefix(SUGGESTIVE)]
    if not meaning:
        return f"{word} at {places(_at(row) for row in rows)}"
    return f"{word} ({meaning}) at " + ", ".join(f"{_at(row)} ({_estimates(row)})" for row in rows)


def _at(row: Mapping[Any, Any]) -> str:
    return changes(row)[EQUAL_EPOCHS].where


def _estimates(row: Mapping[Any, Any]) -> str:
    return ", ".join(
        f"{change.text} {name}" for name, change in zip(WHERE.values(), changes(row).values(), strict=True)
    )


def _cautions(frame: pd.DataFrame, grid: Grid) -> dict[str, str]:
    """What the note says of arms that kept their logits at training losses, and of a schedule, where there are."""
    changes = any(set(space["schedule"]) != {"constant"} for space in grid.spaces.values())
    return {"kept": KEPT if (frame["equal_loss_on"] == "test").any() else "", "schedule": SCHEDULE if changes else ""}


TABLE = TableSpec(
    "Speed or generalization: change of log loss (nats) in three comparisons",
    (
        "Each beta minus {reference}, trained with cross-entropy, paired by seed, raw and repaired, that is after "
        "temperature scaling: at the end of equal epochs; at equal training loss, the larger of the lowest that both "
        "runs of a seed reach (training loss: its geometric mean over seeds), between measured epochs on the "
        "logarithm of training loss, reached after so many epochs (epochs to it, and those of the reference); and "
        "each run at the epoch of its lowest loss",
        INTERVALS,
        "{kept}",
        "{schedule}",
        RULE,
        f"{STAR} over the arms, within each comparison",
    ),
    names=NAMES,
    first=("verdict", *(f"{name}_repaired" for name in COMPARISONS), "training_loss"),
    fields=_cautions,
)
"""All three comparisons."""


def figure(analysis: Analysis) -> Figure | None:
    """The change of repaired and of raw log loss over beta in each comparison, a row of panels a family: a change in
    black alone is one of speed, one in all three colours is not.
    """
    frame = rows_of(analysis, "comparisons")
    if not len(frame):
        return None

    def draw(axis: Axes, rows: pd.DataFrame, kind: str) -> None:
        looks = {f"{comparison}_{kind}": look for comparison, look in LOOKS.items()}
        reference = {"beta": analysis.result.reference, "tuning": rows["tuning"].iloc[0], **dict.fromkeys(looks, 0.0)}
        draw_columns(axis, pd.concat([rows, pd.DataFrame([reference])]), looks)
        betas = [*rows["beta"], analysis.result.reference]
        mark_zero(axis, betas)
        axis.set_xlim(min(betas) / ROOM, max(betas) * ROOM)

    return draw_families(frame, PANELS, 3.1, draw, [(WHERE[name], look) for name, look in LOOKS.items()])
