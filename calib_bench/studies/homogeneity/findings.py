"""Sentences on where rates follow the law of the degree, what a carried rate costs, and where the law stops."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.format import number
from calib_bench.analysis.result_rows import Row, cell
from calib_bench.analysis.table_notes import smoke_warnings
from calib_bench.core.settings import Grid
from calib_bench.studies.homogeneity.measure import BEST, EQUIVALENT, FAILURE, INCONCLUSIVE, MISSED, SUGGESTIVE
from calib_bench.studies.homogeneity.nets import RANGE
from calib_bench.studies.homogeneity.options import Options

if TYPE_CHECKING:
    import pandas as pd

LATE = 0.25
"""A run that spends this share of its updates near its start has not forgotten it."""
APART = 0.01
"""Slopes by the measured degree and by the number of layers that differ by less need not both be told."""
SUBJECTS = {BEST: "the best rate", FAILURE: "the rate where training begins to fail"}


def verdict(frames: Mapping[str, pd.DataFrame], options: Options) -> tuple[str, ...]:
    """All sentences, the slopes first."""
    slopes = _judged(frames)
    if not slopes:
        return ("Whether rates follow the law is inconclusive: no net has all its rates yet.",)
    sentences = [sentence for quantity in SUBJECTS for sentence in _slopes(slopes, quantity, options)]
    sentences += _where_it_stops(slopes, _records(frames["saddle"]))
    sentences += _regret(_records(frames["regret"]), options)
    return (*sentences, *_scaled_start(_records(frames["scaled_start"])), *_exact(_records(frames["exact"])))


def summary(frames: Mapping[str, pd.DataFrame], options: Options) -> tuple[str, ...]:
    """How many nets follow the law, by quantity, and what the carried rate costs."""
    slopes = _judged(frames)
    if not slopes:
        return ()
    rows = {quantity: _of(slopes, quantity) for quantity in SUBJECTS}
    counts = [f"{SUBJECTS[quantity]}: {_counts(tested)}" for quantity, tested in rows.items() if tested]
    first = (
        f"Against the slope that the degree L predicts over {RANGE}, within ±{options.margin:g}: {'; '.join(counts)}."
    )
    return (first, *_regret(_records(frames["regret"]), options)[:1])


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _judged(frames: Mapping[str, pd.DataFrame]) -> list[Row]:
    """The rows of slopes in the range where the law is judged."""
    return [row for row in _records(frames["slopes"]) if row["range"] == RANGE]


def _of(slopes: Sequence[Row], quantity: str) -> list[Row]:
    return [row for row in slopes if row["rate"] == quantity]


def _counts(rows: Sequence[Row]) -> str:
    """ "5 nets equivalent, 1 net established miss"."""
    parts = []
    for word in (EQUIVALENT, MISSED, SUGGESTIVE, INCONCLUSIVE):
        count = sum(row["verdict"] == word for row in rows)
        if count:
            parts.append(f"{count} {'net' if count == 1 else 'nets'} {word}")
    return ", ".join(parts)


def name(row: Mapping[str, Any]) -> str:
    """The net of a row."""
    return f"{row['model']} ({row['optimizer']})"


def _slopes(slopes: Sequence[Row], quantity: str, options: Options) -> Iterator[str]:
    """A sentence for each verdict on one quantity, with every net's slope beside its prediction."""
    words = {
        EQUIVALENT: f"goes as the law predicts, equivalent within ±{options.margin:g} in the slope over {RANGE}, for",
        MISSED: "misses the law (established, after Holm's correction) for",
        SUGGESTIVE: "may miss the law (suggestive, not after Holm's correction) for",
        INCONCLUSIVE: "neither agrees with the law nor misses it (inconclusive) for",
    }
    for verdict_word, text in words.items():
        rows = [row for row in _of(slopes, quantity) if row["verdict"] == verdict_word]
        if rows:
            listed = "; ".join(_slope(row) for row in rows)
            yield f"{SUBJECTS[quantity].capitalize()} {text} {listed}."


def _slope(row: Row) -> str:
    estimate = cell(row, "slope") if "slope" in row and row["slope"] == row["slope"] else "no slope"
    prediction, by_layers = (number(round(float(row[key]), 3)) for key in ("prediction", "by_layers"))
    layers = f", by its layers {by_layers}" if abs(row["by_layers"] - row["prediction"]) > APART else ""
    return f"{name(row)} {estimate} (L = {row['degree']:.2f}, predicted {prediction}{layers})"


def _where_it_stops(slopes: Sequence[Row], saddle: Sequence[Row]) -> Iterator[str]:
    """Of nets whose run ends before the start is forgotten, and of misses that this does not explain."""
    missed = {name(row) for row in slopes if row["verdict"] in (MISSED, SUGGESTIVE)}
    late = {}
    for row in saddle:
        slow = row["never"] == row["seeds"] or row["share"] > LATE
        if slow and name(row) not in late:
            late[name(row)] = row
    if late:
        listed = "; ".join(_late(row) for row in late.values())
        yield (
            f"Where it stops: a run that has not left its start within {LATE:.0%} of its updates has not forgotten it. "
            f"That holds for {listed}."
        )
    else:
        yield f"At the carried rate every net leaves its start within {LATE:.0%} of its updates, at every beta."
    others = sorted(missed - set(late))
    if others:
        yield f"A late start does not explain why the law is missed, or may be, by {', '.join(others)}."


def _late(row: Row) -> str:
    """The smallest beta of a net that leaves its start late."""
    if math.isfinite(row["share"]):
        when = f"its start takes {row['share']:.0%} of the run"
    else:
        when = "no run leaves its start"
    never = f", {row['never']} of {row['seeds']} seeds never" if row["never"] else ""
    growth = ""
    if row.get("growth", math.nan) == row.get("growth", math.nan):
        law = number(round(float(row["law"]), 2))
        growth = f", steps growing as s^{cell(row, 'growth')} with the scale s of the start (law {law})"
    return f"{name(row)} at beta={row['beta']:.3g} ({when}{never}{growth})"


def _regret(rows: Sequence[Row], options: Options) -> list[str]:
    """What the carried rate costs against the tuned one, and what the unscaled rate would have cost."""
    if not rows:
        return []
    alike = sum(math.isclose(row["ratio"], 1) for row in _with(rows, EQUIVALENT))
    text = (
        "On fresh seeds, a rate tuned at beta = 1 and carried in lr_hom has the test log loss of one tuned at each "
        f"beta, equivalent within ±{options.regret_margin:g} nats, in {len(_with(rows, EQUIVALENT))} of {len(rows)} "
        f"cases of net and beta ({alike} because both are the same rate)"
    )
    return ["; ".join([text, *_unequal(rows)]) + ".", *_typical_cost(rows)]


def _with(rows: Sequence[Row], *verdicts: str) -> list[Row]:
    return [row for row in rows if row["verdict"] in verdicts]


def _unequal(rows: Sequence[Row]) -> Iterator[str]:
    """Clauses on the cases where the carried rate costs more or less, and on those that are inconclusive."""
    for word, text in {
        MISSED: "it surely costs more (established) in",
        SUGGESTIVE: "it may cost more (suggestive, not after Holm's correction) in",
    }.items():
        costs = [row for row in _with(rows, word) if row["test"] > 0]
        if costs:
            yield f"{text} {len(costs)}: {_listed(costs)}"
    gains = sum(row["test"] < 0 for row in _with(rows, MISSED, SUGGESTIVE))
    if gains:
        yield f"it costs less (established or suggestive) in {gains}"
    silent = len(_with(rows, INCONCLUSIVE))
    if silent:
        yield f"{silent} are inconclusive"


def _typical_cost(rows: Sequence[Row]) -> list[str]:
    """Median and largest cost of the carried rate beside those of the rate of beta = 1 as it stands."""
    both = [row for row in rows if math.isfinite(row["test"]) and math.isfinite(row["same_rate"])]
    if not both:
        return []
    carried, same = ([float(row[key]) for row in both] for key in ("test", "same_rate"))
    failed = sum(row["failed"] for row in rows)
    return [
        f"The median cost is {_nats(statistics.median(carried))} nats, the largest {_nats(max(carried))}; the same "
        f"rate at every beta costs {_nats(statistics.median(same))} and up to {_nats(max(same))}. Of the carried runs "
        f"{failed or 'none'} failed."
    ]


def _nats(value: float) -> str:
    return number(round(value, 3))


def _listed(rows: Sequence[Row]) -> str:
    return "; ".join(f"{name(row)} at beta={row['beta']:.3g} {cell(row, 'test')}" for row in rows)


def _scaled_start(rows: Sequence[Row]) -> list[str]:
    """Whether a smaller start at beta = 1 fails where the smaller beta does."""
    if not rows:
        return []
    parts = []
    for word in (EQUIVALENT, MISSED, SUGGESTIVE, INCONCLUSIVE):
        of_word = [row for row in rows if row["verdict"] == word]
        if of_word:
            parts.append(f"{word} for {', '.join(name(row) + ' ' + cell(row, 'log_ratio') for row in of_word)}")
    return [
        "Training at beta fails at the rate at which training at beta = 1 from smaller initial weights fails, by the "
        f"log of their ratio (margin {math.log(beta_rate_plane.FINE):.2f}): {'; '.join(parts)}."
    ]


def _exact(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    worst = max(rows, key=lambda row: float(row["difference"]))
    failed = [name(row) for row in rows if not row["passed"]]
    outcome = f"FAILED for {', '.join(failed)}" if failed else "as it must"
    return [
        f"Exact control: without biases, from scaled weights in float64, {len(rows)} runs at another beta give the "
        f"logits of beta = 1 to {worst['difference']:.1g} of the largest, {outcome}."
    ]


def warnings(grid: Grid, frames: Mapping[str, pd.DataFrame], pending: int) -> tuple[str, ...]:
    """What a reader must know before quoting a number."""
    messages = smoke_warnings(grid)
    if pending:
        messages.append(f"{pending} nets have trials that are missing or failed to run, and are left out.")
    if grid.tune_seeds >= len(grid.seed):
        messages.append(
            "Every seed tunes, so none is left to judge the carried rate: give more seeds than tune_seeds=."
        )
    elif grid.tune_seeds < 3:
        messages.append("Fewer than three seeds choose the carried rate.")
    in_range = sum(beta <= 0.1 for beta in grid.beta)
    short = [row for row in _judged(frames) if row["left_out"] or row["betas"] < in_range]
    messages += [
        f"{name(row)}, {row['rate']}: {row['left_out']} seeds and {in_range - row['betas']} betas are left out of the "
        "slope; more rates in lr_hom=, or extend=, would find them."
        for row in short
    ]
    return tuple(messages)
