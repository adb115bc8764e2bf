"""The analysis of early learning: the theory's numbers beside the measured ones, each met or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.analysis.result_rows import Row, fields
from calib_bench.analysis.table_notes import families, smoke_note, smoke_warnings
from calib_bench.core.fate import GUESS
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Analysis, Table
from calib_bench.core.trial import Trial
from calib_bench.inference import crossed_interval
from calib_bench.studies.early_learning import rows as read
from calib_bench.studies.early_learning.probes import COMMON, FRONTIER_STEPS, LONGEST, TOLERANCE
from calib_bench.studies.early_learning.result import EarlyLearningResult

if TYPE_CHECKING:
    import pandas as pd


SMALL, LARGE = 0.1, 1.0
"""Inverse temperatures up to the first follow the laws of small ones, from the second on those of large ones."""
SMALLEST = 0.01
"""Up to here the curvature at zero logits is proportional to beta."""
NEAR = 1 + 1e-6


def analysis(grid: Grid, store: Results, trials: Mapping[str, Sequence[Trial]]) -> Analysis:
    """From the trials of every kind of measurement, as far as the store holds them."""
    import pandas as pd

    name = read.Names(trials["stability"])
    trials = {kind: [trial for trial in planned if store.state(trial) == "done"] for kind, planned in trials.items()}
    times = [name(trial) | read.timescale(store.arrays(trial), trial.beta) for trial in trials["paths"]]
    curves = [name(trial) | _curve(trial, store) for trial in trials["curvature"]]
    common = [name(trial) | _common(trial, store) for trial in trials["common"]]
    runs, edges = [], []  # type: list[Row], list[Row]
    for trial in trials["stability"]:
        trial_runs = read.stability(store.arrays(trial))
        runs += [name(trial) | run for run in trial_runs]
        edges.append(name(trial) | read.frontier(trial_runs))
    frames = {
        name: pd.DataFrame(rows)
        for name, rows in (("times", times), ("curves", curves), ("runs", runs), ("edges", edges), ("common", common))
    }
    slopes = pd.DataFrame(_slopes(frames))
    accepted = pd.DataFrame(_acceptance(frames))
    return Analysis(
        verdict=tuple(_verdict(accepted, slopes, frames)),
        tables=_tables(grid, frames, slopes, accepted),
        warnings=tuple(_warnings(grid, frames)),
        result=EarlyLearningResult(grid.limit, grid.reference, (), **frames),
        summary=(*_summary(accepted), *_missed(frames["edges"])),
    )


def _curve(trial: Trial, store: Results) -> Row:
    logits = read.ZERO if read.starts_at_zero(trial) else read.ORDINARY
    return {"logits": logits, **read.curvature(store.arrays(trial), trial.beta)}


def _common(trial: Trial, store: Results) -> Row:
    arrays = store.arrays(trial)
    path = {key: arrays[key].numpy() for key in ("tau", "moved", "moved_linear", "apart", "loss", "loss_linear")}
    start = "zero" if read.starts_at_zero(trial) else f"those of beta={COMMON:g}"
    return {"start": start, "tau_nl": read.departed(path), "path": path}


def _each(frame: pd.DataFrame) -> Iterator[tuple[Row, pd.DataFrame]]:
    """The measurements of one model and variant, with their names."""
    if len(frame):
        for (model, variant), rows in frame.groupby(["model", "variant"], sort=False, dropna=False):
            yield {"model": model, "variant": variant if isinstance(variant, str) else None}, rows


def _slopes(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """Exponents of beta, with intervals over seeds."""

    wanted = (
        ("times", "tau_nl", "nonlinear time tau_nl", "1 at small beta"),
        ("curves", read.ORDINARY, "lambda_max, ordinary logits", "1 at small beta, 2 at large beta"),
        ("curves", read.ZERO, "lambda_max, zero logits", "1 at small beta, 2 at large beta"),
        ("edges", "critical_rate", "critical rate 2 / lambda_max", "-1 at small beta, -2 at large beta"),
        ("edges", "frontier", "rate at which descent is lost", "-1 at small beta, -2 at large beta"),
    )
    for table, column, title, theory in wanted:
        for name, rows in _each(frames[table]):
            if table == "curves":
                rows, column_ = rows[rows["logits"] == column], "lambda_max"
            else:
                column_ = column
            for end, part in (
                (f"beta up to {SMALL:g}", rows[rows["beta"] <= SMALL * NEAR]),
                (f"beta from {LARGE:g}", rows[rows["beta"] >= LARGE / NEAR]),
            ):
                slopes = [read.slope(seed_rows, column_) for _, seed_rows in part.groupby("seed")]
                slopes = [value for value in slopes if math.isfinite(value)]
                if slopes:
                    interval = fields("slope", crossed_interval([[value] for value in slopes], nested=True))
                    interval.pop("slope_p", None)
                    yield {"quantity": title, "range": end, **name, **interval, "seeds": len(slopes), "theory": theory}


def _acceptance(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    """The theory's claims, each with the worst that was found over beta and seeds."""
    for name, rows in _each(frames["times"]):
        small = rows[rows["beta"] <= SMALL * NEAR]
        yield _within(name, "time to move by ||Z0||/10, over tau_z/10", "every beta", rows, "tenth", 0.15)
        yield _within(name, "time to move by ||Z0||, over tau_z", f"beta up to {SMALL:g}", small, "whole", 0.10)
        slopes = [read.slope(seed_rows, "tau_nl") for _, seed_rows in small.groupby("seed")]
        yield _judged(name, "slope of tau_nl over beta", f"beta up to {SMALL:g}", slopes, 1 - 0.1, 1 + 0.1)
    for name, rows in _each(frames["curves"]):
        zero = rows[rows["logits"] == read.ZERO]
        for column, power, part, where in (
            ("over_beta", "beta", zero[zero["beta"] <= SMALLEST * NEAR], f"beta up to {SMALLEST:g}"),
            ("over_beta2", "beta^2", zero[zero["beta"] >= LARGE / NEAR], f"beta from {LARGE:g}"),
        ):
            spread = [
                seed_rows[column].max() / seed_rows[column].min() if len(seed_rows) > 1 else math.nan
                for _, seed_rows in part.groupby("seed")
            ]
            what = f"lambda_max/{power} at zero logits, largest over smallest"
            yield _judged(name, what, where, spread, 1.0, 1.02)
        yield _judged(
            name, f"lambda_max known to {TOLERANCE:g}, share", "every beta", [float(rows["converged"].mean())], 1.0, 1.0
        )


def _within(name: Row, claim: str, where: str, frame: pd.DataFrame, column: str, by: float) -> Row:
    return _judged(name, claim, where, list(frame[column]), 1 - by, 1 + by)


def _judged(name: Row, claim: str, where: str, values: Sequence[float], low: float, high: float) -> Row:
    """A claim that every value is met by, or not; None where it was not measured."""
    unknown = not values or any(math.isnan(value) for value in values)
    row = {**name, "claim": claim, "where": where, "wanted": f"{low:.3g} to {high:.3g}"}
    if unknown:
        return {**row, "smallest": math.nan, "largest": math.nan, "met": "not measured"}
    met = all(low <= value <= high for value in values)
    return {**row, "smallest": min(values), "largest": max(values), "met": "met" if met else "not met"}


def _summary(accepted: pd.DataFrame) -> Iterator[str]:
    if not len(accepted):
        yield "Nothing has been measured yet."
        return
    counts = accepted["met"].value_counts()
    parts = ", ".join(f"{counts.get(state, 0)} {state}" for state in ("met", "not met", "not measured"))
    yield f"Of {len(accepted)} numbers that the theory of early learning gives: {parts}."


def _verdict(accepted: pd.DataFrame, slopes: pd.DataFrame, frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    yield from _summary(accepted)
    for row in accepted.to_dict("records"):
        measured = "" if row["met"] == "not measured" else f": {row['smallest']:.3f} to {row['largest']:.3f}"
        yield f"{row['met']}{_of(row, accepted)}: {row['claim']}, {row['where']}, expected {row['wanted']}{measured}."
    yield from _saturation(frames["curves"])
    yield from _lost(frames["edges"], slopes)
    yield from _parted(frames["common"])


def _of(row: Mapping[str, Any], frame: pd.DataFrame) -> str:
    several = len(frame[["model", "variant"]].drop_duplicates()) > 1
    return f" ({row['model']}{', ' + row['variant'] if row['variant'] else ''})" if several else ""


def _saturation(curves: pd.DataFrame) -> Iterator[str]:
    """How ordinary logits bend the second law: confident predictions have no curvature."""
    for where, rows in families(curves):
        large = rows[(rows["beta"] >= LARGE / NEAR) & (rows["logits"] == read.ORDINARY)]
        mean = large.groupby("beta")["over_beta2"].mean()
        if len(mean) > 1:
            values = ", ".join(
                _at(mean, beta) for beta in dict.fromkeys((mean.index[0], mean.idxmax(), mean.index[-1]))
            )
            yield f"{where}Saturation bends the second law: at ordinary initial logits lambda_max/beta^2 is {values}."


def _at(values: pd.Series, beta: float) -> str:
    """One value of a series over beta, with its beta."""
    return f"{values[beta]:.3g} at beta={beta:.3g}"


def _relative(edges: pd.DataFrame) -> pd.Series:
    """By beta, the rate at which descent is lost in critical rates: the geometric mean over seeds."""
    finite = edges[edges["relative"].notna()]
    mean: pd.Series = np.exp(np.log(finite["relative"]).groupby(finite["beta"]).mean())
    return mean


def _is_missed(relative: pd.Series) -> bool:
    """Whether descent is lost at other rates than the critical one, by more than a factor of two at some beta."""
    return bool(len(relative) and np.abs(np.log(relative)).max() > math.log(2))


def _missed(edges: pd.DataFrame) -> Iterator[str]:
    """Sentences on where the critical rate misses that at which descent is lost, see `_is_missed`."""
    for where, rows in families(edges):
        relative = _relative(rows)
        if _is_missed(relative):
            ends = " and ".join(_at(relative, beta) for beta in (relative.idxmin(), relative.idxmax()))
            yield f"{where}2 / lambda_max misses where descent is lost; the ratio of the two rates is {ends}."


def _lost(edges: pd.DataFrame, slopes: pd.DataFrame) -> Iterator[str]:
    """Sentences on the rate at which descent is lost, its exponents over beta, and the catapults above it."""
    for where, rows in families(edges):
        relative = _relative(rows)
        if not len(relative):
            continue
        ends = " and ".join(_at(relative, beta) for beta in (relative.index[0], relative.index[-1]))
        yield f"{where}The rate at which descent is lost, in critical rates: {ends}."
        catapults = sorted(set(rows[rows["catapults"] > 0]["beta"]))
        if catapults:
            yield f"{where}Above the critical rate the loss rose and came back at beta={_listed(catapults)}."
        exponents = _exponents(slopes, rows["model"].iloc[0], rows["variant"].iloc[0])
        if exponents:
            yield f"{where}Slopes over beta: {exponents}."
        if _is_missed(relative):
            yield f"{where}The curvature of the start does not set where descent is lost."


def _exponents(slopes: pd.DataFrame, model: str, variant: str | None) -> str:
    """The exponents of the rates of one model and variant, with the range of each."""
    if not len(slopes):
        return ""
    rates = slopes[slopes["quantity"].str.startswith(("rate at", "critical"))].to_dict("records")
    model_rates = [row for row in rates if (row["model"], row["variant"]) == (model, variant)]
    return "; ".join(f"{row['quantity']} {row['slope']:.2f} ({row['range']})" for row in model_rates)


def _listed(betas: Sequence[float]) -> str:
    return ", ".join(f"{beta:.3g}" for beta in betas)


def _parted(common: pd.DataFrame) -> Iterator[str]:
    """Sentences on when networks leave the path that all betas share, by the logits that they start from."""
    for where, family_rows in families(common):
        for start, rows in family_rows.groupby("start", sort=False):
            stayed = list(rows[rows["tau_nl"].isna()]["beta"])
            times = ", ".join(
                f"{row.tau_nl:.2g} at beta={row.beta:.3g}" for row in rows.dropna(subset="tau_nl").itertuples()
            )
            together = f"; not within the path followed at beta={_listed(stayed)}" if stayed else ""
            path = "leave the tangent model's common path, by a tenth of the way"
            yield f"{where}From equal initial logits ({start}) networks {path}, at tau {times or 'none'}{together}."


def _warnings(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    yield from smoke_warnings(grid)
    curves = frames["curves"]
    if len(curves) and not curves["converged"].all():
        betas = _listed(sorted(set(curves[~curves["converged"]]["beta"])))
        yield f"lambda_max has not converged to {TOLERANCE:g} at beta={betas}: it is an underestimate there."
    edges = frames["edges"]
    if len(edges) and edges["frontier"].isna().any():
        yield "For some seeds training was lost at no rate tried, or at every rate: their frontier is missing."
    if len(grid.seed) == 1:
        yield "One seed: variation between initializations is unknown."


def _tables(
    grid: Grid, frames: Mapping[str, pd.DataFrame], slopes: pd.DataFrame, accepted: pd.DataFrame
) -> dict[str, Table]:
    import pandas as pd

    smoke = smoke_note(grid)
    over = "Geometric means over seeds, 95% t intervals of the logarithms. "
    name = ["model", "variant", "beta"]

    def mean(table: str, by: list[str], columns: list[str]) -> pd.DataFrame:
        frame = frames[table]
        return pd.DataFrame(read.over_seeds(frame, by, columns) if len(frame) else [])

    common = frames["common"].drop(columns="path", errors="ignore")
    return {
        "acceptance": Table(
            "The theory's numbers",
            accepted,
            f"{smoke}Smallest and largest over inverse temperatures and seeds; met when every one of them is within.",
            paper=True,
        ),
        "slopes": Table(
            "Exponents of beta", slopes, f"{smoke}Log-log slopes, fitted seed by seed; 95% t intervals.", paper=True
        ),
        "timescales": Table(
            "Early learning",
            mean("times", name, ["tenth", "whole", "tau_z", "tau_nl", "critical_tau", "norm"]),
            f"{smoke}{over}tenth: time to move by ||Z0||/10, over tau_z/10; whole: by ||Z0||, over tau_z. tau_nl: when "
            "||Z - Z_lin|| is a tenth of ||Z_lin - Z0||; missing where a seed's path ended before. critical tau: "
            f"beta^2 times the critical rate. Full-batch gradient descent in steps of at most {LONGEST:g} of that.",
            paper=True,
        ),
        "collapse": Table(
            "When networks leave the common path",
            common,
            f"{smoke}First seed. A constant is added to each logit so that Z0 is that of beta={COMMON:g}; or two "
            "copies in opposition start from zero, where the leading change of the kernel cancels.",
        ),
        "curvature": Table(
            "Largest curvature at initialization",
            mean(
                "curves", [*name, "logits"], ["lambda_max", "over_beta", "over_beta2", "norm", "residual", "products"]
            ),
            f"{smoke}{over}Zero logits: two copies of the body under opposite heads. residual: relative residual of "
            f"Lanczos' iteration, stopped at {TOLERANCE:g}; products: Hessian-vector products used; the "
            "largest over seeds.",
        ),
        "frontier": Table(
            "Where descent is lost",
            mean("edges", name, ["critical_rate", "frontier", "relative", "catapults", "beyond"]),
            f"{smoke}{over}{FRONTIER_STEPS} steps of full-batch gradient descent at each rate. Lost: the loss is "
            f"not finite, or ends at {GUESS:.0%} or more of that of the best constant prediction, unless it never rose "
            "and still falls. relative: the frontier in critical rates; "
            "catapults: rates tried above the critical one at which the loss rose and came back, beyond: the largest "
            "rate at which it did, both the most over seeds.",
        ),
        "measurements": Table("Every path", frames["times"], smoke),
    }
