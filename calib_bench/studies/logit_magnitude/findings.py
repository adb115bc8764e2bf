"""What the plane of beta and the initial logit magnitude says, in tables and in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from calib_bench.analysis import collapse, controls, interventions
from calib_bench.analysis.arms import rates_note, trials_note
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.result_rows import (  # fmt: skip
    TRIALS_DOUBTFUL,
    Row,
    cell,
    excludes_zero,
    is_significant,
    marks,
    revoked,
    why_loose,
)
from calib_bench.analysis.table_notes import display_columns, families, rate_unit, sample, table_note
from calib_bench.core.settings import Settings
from calib_bench.core.study import Table
from calib_bench.studies.logit_magnitude.plane import ALIKE, BETA, MAGNITUDE

if TYPE_CHECKING:
    import pandas as pd


WEAK = 0.1
"""A share of variance that is surely smaller than this is called small."""
NORM = "||Z0||"
FAMILY = ("model", "variant", "objective")
SHARES = ("other_share", "magnitude_share")
MARK = "* Holm-adjusted p < .05 over the rows of"


def verdict(frames: Mapping[str, pd.DataFrame], settings: Settings) -> tuple[str, ...]:
    """The answer for each plane, what moves at fixed beta and at fixed magnitude, then the 2x2."""
    shares = frames["shares"]
    planes = shares[shares["other"] == BETA] if len(shares) else shares
    if not len(planes) or "other_share" not in planes:
        return ("There is nothing to compare yet: no plane has finished seeds in every cell of two betas.",)
    sentences = []
    for where, some in _planes(planes):
        sentences.append(
            f"{where}Does generalization depend strongly on beta and weakly on the initial logit magnitude? "
        )
        sentences[-1] += " ".join(_answer(row) for row in some.to_dict("records"))
    for where, some in _planes(frames["contrasts"]):
        sentences += [f"{where}{_moved(some[some['moves'] == moves], moves)}" for moves in (BETA, MAGNITUDE)]
    sentences += interventions.words({**frames, "interventions": shares.iloc[:0]}, settings)
    return (*sentences, *collapse.words(collapse.rows(frames["trials"], settings)))


def _planes(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Rows of one plane, with the words that begin a sentence on them: none when there is one."""
    several = len(frame) > 0 and frame["objective"].nunique() > 1
    for where, family_rows in families(frame):
        for objective, rows in family_rows.groupby("objective", sort=False):
            begin = ", ".join(text for text in (where.removesuffix(": "), str(objective)) if text)
            yield (f"{begin}: " if several else where), rows


def _answer(row: Row) -> str:
    """One metric of one plane."""
    loose = "" if row["tuning"] == "tuned" else f", rates not all tuned: {row['tuning']}"
    what = f"{row['metric'].capitalize()} ({row['design']}, {row['seeds']} seeds{loose})"
    values = f"{_share(row, 'other_share')} of the variance is beta's and {_share(row, 'magnitude_share')} the initial "
    values += "magnitude's at fixed beta"
    return f"{what}: {answer(row)}; {values}."


def answer(row: Row) -> str:
    """What the intervals of the two shares let one say."""
    if why := revoked(row):
        return f"the data cannot say, since {why}"
    (_, beta_low, beta_high), (_, low, high) = (_limits(row, column) for column in SHARES)
    if math.isnan(beta_low + low):
        return "the data cannot say (shares have no intervals)"
    if beta_low > high:
        if high < WEAK:
            return f"yes, on beta, and on the initial magnitude weakly if at all (below {WEAK:.0%} of the variance)"
        how = ", on which it depends too" if _moves(row, SHARES[1]) else ", on which the data show no dependence"
        return f"it depends more on beta than on the initial magnitude{how}"
    if low > beta_high:
        return "no, it depends more on the initial magnitude than on beta"
    sure = [name for name, c in (("beta", SHARES[0]), ("initial magnitude", SHARES[1])) if _moves(row, c)]
    dependence = f" (it does depend on {' and on '.join(sure)})" if sure else ""
    return f"the data cannot say on which of the two it depends more{dependence}"


def _limits(row: Row, column: str) -> tuple[float, float, float]:
    return row[column], row.get(f"{column}_low", math.nan), row.get(f"{column}_high", math.nan)


def _moves(row: Row, column: str) -> bool:
    return bool(row.get(f"{column}_holm", math.nan) < ALPHA) and not revoked(row)


def _share(row: Row, column: str) -> str:
    value, low, high = _limits(row, column)
    text = f"{value:.0%}" if math.isnan(low) else f"{value:.0%} [{low:.0%}, {high:.0%}]"
    return text.replace("-", "−")


def _moved(frame: pd.DataFrame, moves: str) -> str:
    """Where changing one thing alone changed accuracy or repaired log loss."""
    rows = frame.to_dict("records")
    if moves == BETA:
        head = f"Beta moved at equal {NORM} ({len(rows)} pairs)"
    else:
        head = f"{NORM} moved at fixed beta ({len(rows)} betas), from the smallest to the largest"
    clauses = []
    for metric in ("accuracy", "repaired_log_loss"):
        sure = [row for row in rows if is_significant(row, metric)]
        if not sure:
            hints = [row for row in rows if revoked(row) and excludes_zero(row, metric)]
            why = f" (in {len(hints)} it may have, {why_loose(hints)})" if hints else ""
            clauses.append(f"{metric.replace('_', ' ')} changed nowhere beyond what chance could do{why}")
            continue
        most = max(sure, key=lambda row: abs(row[metric]))
        where = f"beta={most['beta']:.3g}" + (f" against {most['from_beta']:.3g}" if moves == BETA else "")
        clauses.append(
            f"{metric.replace('_', ' ')} changed in {len(sure)}, most at {where} ({NORM} "
            f"{_norms(most, moves)}), by {cell(most, metric)}"
        )
    return f"{head}: {'; '.join(clauses)}."


def _norms(row: Row, moves: str) -> str:
    return f"{row['initial_norm']:.2g}" if moves == BETA else f"{row['from_norm']:.2g} to {row['initial_norm']:.2g}"


def tables(frames: Mapping[str, pd.DataFrame], settings: Settings) -> dict[str, Table]:
    """Every table that has rows."""
    import pandas as pd

    all_tables = {
        "plane": Table(
            "The plane: accuracy and repaired log loss (nats) over beta and correlation",
            display_columns(frames["plane"], settings),
            table_note(
                settings,
                f"initial norm: {NORM}_F / sqrt(N), Z = beta z, on the selection split before the first update, t "
                "interval over seeds; correlation: of two copies' heads, none for the model alone; repaired: after "
                f"temperature scaling; change: minus the model alone at beta={settings.reference:g}, paired by seed "
                f"and example, {MARK} the table",
                sample(frames["plane"]),
                *marks(frames["plane"]),
            ),
            paper=True,
            names=(*FAMILY, "beta", "correlation"),
        ),
        "contrasts": Table(
            f"One thing moved: beta at equal {NORM}, {NORM} at equal beta",
            display_columns(frames["contrasts"], settings),
            table_note(
                settings,
                "Differences of test accuracy and of repaired log loss (nats), paired by seed and example, against "
                f"the cell at `from`; magnitudes within a factor of {ALIKE:g} count as equal",
                sample(frames["contrasts"]),
                f"{MARK} a kind",
                *marks(frames["contrasts"]),
            ),
            names=(*FAMILY, "moves", "beta"),
        ),
        "shares": Table(
            "Shares of the variance of one trained model's result",
            display_columns(frames["shares"], settings),
            table_note(
                settings,
                "Of a model with a random cell of the design and a random seed. other: the main effect of beta, or of "
                "the head's rate; magnitude: all that the initial magnitude does at given levels of the other, so the "
                "interaction is part of it. Shares are of the ranges covered here. Intervals: jackknife over seeds; "
                f"{MARK} a metric, planes and 2x2 apart, by permutation within seeds",
                *marks(frames["shares"]),
            ),
            paper=True,
            names=(*FAMILY, "design", "metric"),
        ),
        **interventions.tables(settings, {**frames, "interventions": frames["shares"].iloc[:0]}),
        "controls": controls.table(frames["controls"], settings),
        "collapse": collapse.table(pd.DataFrame(collapse.rows(frames["trials"], settings)), settings),
        "rates": Table(
            "Learning rates tried",
            display_columns(frames["rates"], settings),
            table_note(
                settings,
                f"Mean {settings.select.replace('_', ' ')} on the selection split over the tuning seeds; inf: diverged",
                rates_note(frames["rates"]),
                rate_unit(settings),
            ),
        ),
        "trials": Table(
            "Trials at the chosen rates, test split",
            display_columns(frames["trials"], settings),
            table_note(settings, trials_note(frames["rates"]), *marks(frames["trials"], TRIALS_DOUBTFUL)),
        ),
    }
    return {name: table for name, table in all_tables.items() if len(table.frame)}
