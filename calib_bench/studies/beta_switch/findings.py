"""Sentences on when in training beta matters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from calib_bench.analysis.findings import Finding, Sentences, changes, overview, places
from calib_bench.analysis.result_rows import is_significant
from calib_bench.core.settings import Grid
from calib_bench.studies.beta_switch.rows import ALL_ALONG, NEVER
from calib_bench.studies.beta_switch.switches import FROM, TO

MOVES = {"accuracy": "accuracy", "log_loss_dyn": "repaired log loss"}
"""Results that only learning changes, and what sentences call them: no temperature after training does."""


class Says(Sentences):
    """What the study of switches says."""

    NOTHING = "There is nothing to compare: no switched arm shares a finished seed with one that never switches."
    ALL_ALONG = "{where}All along at beta={beta:.3g} instead of {reference:g}, {changes}."
    NO_SEED = "{where}All along at beta={beta:.3g} instead of {reference:g}: no seed has finished at both."
    SWITCHED = (
        "{where}From beta={first} to {last}, by the share of updates before it. Beginning at {first}, against {last} "
        "all along, {begun}. Switching to {last}, against never switching, {rest}."
    )
    MATTERED = "Training {part} the switch mattered in {number} of {of} (established){at}."
    AT = ", with the switch at {shares}"
    FROM = "{shares} from beta={first} to {last}"


def verdict(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on when in training beta matters.

    Args:
        frame: rows of `analyse`, Holm-adjusted.
        grid: whose arms they are.
    """
    if not len(frame) or "accuracy" not in frame:
        return [Says.NOTHING]
    sentences: list[str] = []
    keys = [frame[key].fillna("") for key in ("model", "variant", "objective")]
    several = frame.groupby(keys, sort=False).ngroups > 1
    for (*name, beta), beta_rows in frame.groupby([*keys, "beta"], sort=False):
        where = f"{' '.join(part for part in name if part)}: " if several else ""
        rows = beta_rows[beta_rows["accuracy"].notna()].to_dict("records")
        sentences += _beta_sentences(where, rows, float(beta), grid)
    return sentences


def _beta_sentences(where: str, rows: Sequence[Mapping[str, Any]], beta: float, grid: Grid) -> Iterator[str]:
    """On one beta of one model and objective: all along, then switches from it and to it."""
    all_along = _findings(rows, "reference")
    sentence = Says.ALL_ALONG if all_along else Says.NO_SEED
    yield sentence.of(where=where, beta=beta, reference=grid.reference, changes=changes(all_along))
    for way in (FROM, TO):
        first, last = _ends(way, beta, grid)
        switched = [row for row in rows if row["way"] == way]
        begun, rest = _findings(switched, ALL_ALONG), _findings(switched, NEVER)
        if begun and rest:
            parts = {"begun": overview(begun), "rest": overview(rest)}
            yield Says.SWITCHED.of(where=where, first=first, last=last, **parts)


def _ends(way: str, beta: float, grid: Grid) -> tuple[str, str]:
    """The betas before and after a switch, as text."""
    first, last = f"{beta:.3g}", f"{grid.reference:g}"
    return (first, last) if way == FROM else (last, first)


def _findings(rows: Iterable[Mapping[str, Any]], against: str) -> list[Finding]:
    """Both results of the rows against one thing, ordered by the share of the updates before the switch."""
    ordered = sorted((row for row in rows if row["against"] == against), key=lambda row: float(row["at"]))
    return [
        Finding.of(row, column, name, where=f"{row['at']:.3g}") for column, name in MOVES.items() for row in ordered
    ]


def summary(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Summary: in how many arms training before, or after, the switch made a significant difference, and where."""
    if not len(frame) or "accuracy" not in frame or frame.groupby(["model", "objective"]).ngroups > 1:
        return []
    rows = frame[frame["accuracy"].notna()].to_dict("records")
    sentences = []
    for against, part in ((ALL_ALONG, "before"), (NEVER, "after")):
        compared = [row for row in rows if row["against"] == against]
        sure = [row for row in compared if moved(row)]
        at = Says.AT.of(shares="; ".join(_shares_by_switch(sure, grid))) if sure else ""
        sentences.append(Says.MATTERED.of(part=part, number=len(sure), of=len(compared), at=at))
    return sentences


def _shares_by_switch(rows: Sequence[Mapping[str, Any]], grid: Grid) -> list[str]:
    """The shares of the updates after which a switch came, by beta and way."""
    groups: dict[tuple[float, str], list[float]] = {}
    for row in sorted(rows, key=lambda row: (float(row["beta"]), row["way"] == TO, float(row["at"]))):
        groups.setdefault((row["beta"], row["way"]), []).append(row["at"])
    texts = []
    for (beta, way), shares in groups.items():
        first, last = _ends(way, beta, grid)
        texts.append(Says.FROM.of(shares=places(f"{share:.3g}" for share in shares), first=first, last=last))
    return texts


def moved(row: Mapping[str, Any]) -> bool:
    """Whether accuracy or repaired log loss differs significantly."""
    return any(is_significant(row, column) for column in MOVES)
