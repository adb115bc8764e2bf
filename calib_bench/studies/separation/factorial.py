"""Beta crossed with objective: whose variance a result is, and whether beta matters once confidence is equalized.

If beta acted through confidence alone, it would have no effect once confidence is equalized. There are three ways to
equalize: by another loss in training (each objective is a level of the second factor, and beta is tested within it), by
a calibrator after training (each is tested by itself), and by setting each arm's temperature so that its mean
confidence on the calibration split is the reference's ("equal confidence", see `matched`). At whatever confidence arms
are compared, a temperature leaves their accuracies as observed, so that the test of beta's effect on accuracy is one at
equal confidence as it stands.

The tests permute the betas' results within each seed (see `inference.variance_shares`): the null hypothesis is that the
betas of one seed are exchangeable, each with the rate that was tuned for it. It is rejected if any one beta departs, so
each test is repeated without the beta that departs most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from calib_bench.analysis.findings import Sentences
from calib_bench.analysis.format import ALPHA
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import FEW_CHOSE, Row, few_chose, fields, revoked
from calib_bench.analysis.table_notes import by_model, families
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.settings import Grid
from calib_bench.inference import holm, permutation_p, variance_shares
from calib_bench.inference.arrays import Array
from calib_bench.planning.tuning import joined

RAW, REPAIRED, MATCHED = "raw", "temperature_scaling", "equal_confidence"
EQUALIZED = (
    REPAIRED, MATCHED, "vector_scaling", "structured_matrix_scaling", "isotonic", "ensemble_temperature_scaling",
)  # fmt: skip
"""Ways to equalize confidence after training that are tested, where they were measured."""
SHARES = {
    "accuracy": ("accuracy", RAW), "raw log loss": ("log_loss", RAW), "repaired log loss": ("log_loss", REPAIRED),
    "log loss at equal confidence": ("log_loss", MATCHED), "raw Brier": ("brier", RAW),
    "repaired Brier": ("brier", REPAIRED),
}  # fmt: skip
"""Results whose variance is shared out: metric and method of each."""
DRAWS = 9999


def points(measures: Measures, name: Row) -> list[Row]:
    """One point per seed and method of an arm: accuracy, log_loss, brier on the test split."""
    wanted = measures.frame[measures.frame["method"].isin((RAW, *EQUALIZED))] if len(measures.frame) else measures.frame
    return [
        {**name, **{key: row[key] for key in ("seed", "method", "accuracy", "log_loss", "brier")}}
        for row in wanted.to_dict("records")
    ]


Moves = dict[tuple[Any, ...], "dict[tuple[str, str], Array]"]
"""By model, variant, beta and objective, then metric and method: see `moves`."""
ARM = ("model", "variant", "beta", "objective")


def moves(measures: Measures, name: Row) -> Moves:
    """By how much other choices of an arm's rate would change its results of SHARES, [V, B, S]; empty where none was.

    At equal confidence results change as they do after temperature scaling, see `matched`.
    """
    out = {}
    for metric, method in SHARES.values():
        stored = REPAIRED if method == MATCHED else method
        out[metric, method] = shift(measures, None, (stored, "correct" if metric == "accuracy" else metric, 1.0))
    chosen = {key: move for key, move in out.items() if move is not None}
    return {tuple(name[key] for key in ARM): chosen} if chosen else {}


def layout(frame: pd.DataFrame, metric: str, method: str) -> tuple[Array, list[float], list[str], int]:
    """Values [A, B, S] of one family, its betas, objectives, and how many seeds had to be left out.

    A layout is whole: a beta is left out where some objective has no seed for it (or an objective, where that loses
    fewer cells), then the seeds that some cell does not have.
    """
    method_rows = frame[(frame["method"] == method) & np.isfinite(frame[metric].astype(float))]
    cells = {k: dict(zip(g["seed"], g[metric], strict=True)) for k, g in method_rows.groupby(["beta", "objective"])}
    betas, objectives = sorted(frame["beta"].unique()), list(dict.fromkeys(frame["objective"]))
    _leave_out(betas, objectives, set(cells))
    every_seed = set().union(*cells.values())
    line_cells = [[cells[beta, objective] for objective in objectives] for beta in betas]
    common = every_seed.intersection(*(cell for line in line_cells for cell in line)) if betas and objectives else set()
    seeds = sorted(common)
    values = np.array([[[cell[seed] for seed in seeds] for cell in line] for line in line_cells], np.float64)
    shape = len(betas), len(objectives), len(seeds)
    return values.reshape(shape), betas, objectives, len(every_seed) - len(seeds)


def _leave_out(betas: list[float], objectives: list[str], cells: set[tuple[float, str]]) -> None:
    """Removes betas and objectives from the lists until every cell of the two exists, the emptier one each time."""
    while betas and objectives:
        missing = [(b, o) for b in betas for o in objectives if (b, o) not in cells]
        if not missing:
            return
        missing_betas, missing_objectives = (Counter(place) for place in zip(*missing, strict=True))
        worst_beta = max(betas, key=lambda beta: missing_betas[beta])
        worst_objective = max(objectives, key=lambda objective: missing_objectives[objective])
        by_beta = missing_betas[worst_beta] / len(objectives)
        if by_beta >= missing_objectives[worst_objective] / len(betas):
            betas.remove(worst_beta)
        else:
            objectives.remove(worst_objective)


def rows(scores: Iterable[Row], choices: Moves | None = None) -> list[Row]:
    """Variance shares: one row per family and result of SHARES.

    Args:
        scores: `points` of all arms (and of `matched.points`): model, variant, beta, objective, seed, method, accuracy,
            log_loss, brier.
        choices: `moves` of all arms; shares count the choice of rates where every cell has them.

    Returns:
        `beta`, `objective`, `interaction`, `seed`: shares with `_low`, `_high`; `beta_p`, `objective_p` of no effect
        at any level of the other; `tuning`; `betas`, `objectives`, `seeds` in the layout, `dropped` seeds.
    """
    out = []
    for name, frame in by_model(pd.DataFrame(list(scores))):
        for result, (metric, method) in SHARES.items():
            values, betas, objectives, dropped = layout(frame, metric, method)
            if len(betas) < 2 or values.shape[-1] == 0:
                continue
            cells = [[(*name.values(), beta, objective) for objective in objectives] for beta in betas]
            shares = variance_shares(values, draws=DRAWS, choice=_choice(choices or {}, cells, (metric, method)))
            row: Row = {**name, "tuning": joined(frame.get("tuning", ())), "result": result}
            row |= {"betas": len(betas), "objectives": len(objectives)}
            row |= {"seeds": values.shape[-1], "dropped": dropped}
            row |= fields("beta", shares.first) | {"beta_p": shares.p_first}
            if len(objectives) > 1:
                row |= fields("objective", shares.second) | {"objective_p": shares.p_second}
                row |= fields("interaction", shares.interaction)
            out.append(row | fields("seed", shares.seed))
    return out


def _choice(choices: Moves, cells: Sequence[Sequence[tuple[Any, ...]]], where: tuple[str, str]) -> Array | None:
    """[A, B, V, D, T] of the cells of a layout; None where some cell has none, or another number of tuning seeds."""
    cell_moves = [[choices.get(cell, {}).get(where) for cell in line] for line in cells]
    shapes = {None if move is None else move.shape for line in cell_moves for move in line}
    if len(shapes) > 1 or None in shapes:
        return None
    return np.array(cell_moves, np.float64)


def tests(scores: Iterable[Row]) -> list[Row]:
    """Beta's effect within each objective once confidence is equalized: one row per family, objective and test.

    Returns:
        `result` "accuracy" (with method "any temperature") or "log loss" by each method of EQUALIZED; `p` of no effect
        of beta, `holm` its Holm adjustment over all rows of the family; `best`, the beta with the best mean, and
        `range` of the means over beta; `extreme`, the beta that departs most from the median, and without it
        `p_without`, `holm_without`; `betas`, `seeds`, `dropped`; `least_p`, the smallest p that so many seeds allow.
    """
    out = []
    for name, frame in by_model(pd.DataFrame(list(scores))):
        mine: list[Row] = []
        present = set(frame["method"])
        checks = [("accuracy", "accuracy", RAW, "any temperature")]
        checks += [("log loss", "log_loss", m, m.replace("_", " ")) for m in EQUALIZED if m in present]
        for result, metric, method, label in checks:
            for objective in dict.fromkeys(frame["objective"]):
                objective_rows = frame[frame["objective"] == objective]
                row = {**name, "objective": objective, "tuning": joined(objective_rows.get("tuning", ()))}
                mine += _tested(objective_rows, metric, method, {**row, "result": result, "method": label})
        for p, adjusted in (("p", "holm"), ("p_without", "holm_without")):
            for row, value in zip(mine, holm([row[p] for row in mine]), strict=True):
                row[adjusted] = float(value)
        out += mine
    return out


def _tested(frame: pd.DataFrame, metric: str, method: str, row: Row) -> list[Row]:
    values, betas, _, dropped = layout(frame, metric, method)
    if len(betas) < 2 or values.shape[-1] == 0:
        return []
    mean_A = values.mean((1, 2))
    best = int(mean_A.argmax() if metric == "accuracy" else mean_A.argmin())
    extreme = int(np.abs(mean_A - np.median(mean_A)).argmax())
    without = np.delete(values, extreme, 0)
    return [
        {
            **row,
            "betas": len(betas),
            "seeds": values.shape[-1],
            "dropped": dropped,
            "best": betas[best],
            "range": float(np.ptp(mean_A)),
            "p": permutation_p(values, DRAWS),
            "extreme": betas[extreme],
            "p_without": permutation_p(without, DRAWS) if len(without) > 1 else math.nan,
            "least_p": least_p(values),
        }
    ]


def least_p(values_ABS: Array) -> float:
    """The smallest p-value that permuting A levels within S seeds can give; 1 with one seed."""
    A, _, S = values_ABS.shape
    return max(math.factorial(min(A, 20)) ** -(S - 1), 1 / (1 + DRAWS)) if S > 1 else 1.0


def _layout(frame: pd.DataFrame, _: Grid) -> dict[str, str]:
    """How many seeds, betas and objectives the layouts have, each as "5" or "3 to 5"."""
    spans = {column: (int(frame[column].min()), int(frame[column].max())) for column in SIZES if column in frame}
    return {f"n_{name}": str(low) if low == high else f"{low} to {high}" for name, (low, high) in spans.items()}


SIZES = ("seeds", "betas", "objectives")


class Says(Sentences):
    """What is said of beta's share of the variance, and of its tests."""

    SHARES = "{where}Of the variance over {factors}, beta's share is: {listed}.{few}"
    NOT_ESTABLISHED = f" Not established: {FEW_CHOSE}."
    TESTS = "{where}Whether beta matters at equal confidence (permutation tests within seeds, Holm over all). {parts}."
    NO_TESTS = (
        "{where}Whether beta matters at equal confidence (permutation tests within seeds, Holm over all): "
        "inconclusive, with so few seeds no test can be significant."
    )


def words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on beta's shares of the variance; `frame` is that of `rows`."""
    sentences = []
    for where, group in families(frame):
        listed = [f"{row['result']} {_share(row)}" for row in group.to_dict("records") if row["result"] in _SHOWN]
        factors = "beta, objective and seed" if int(group["objectives"].max()) > 1 else "beta and seed"
        few = Says.NOT_ESTABLISHED if any(map(few_chose, group.to_dict("records"))) else ""
        if listed:
            sentences.append(Says.SHARES.of(where=where, factors=factors, listed="; ".join(listed), few=few))
    return sentences


_SHOWN = ("accuracy", "repaired log loss", "log loss at equal confidence")


def _share(row: Mapping[Any, Any]) -> str:
    if not math.isfinite(row["beta_low"]):
        return f"{row['beta']:.0%}, without an interval" if math.isfinite(row["beta"]) else "unknown"
    return f"{row['beta']:.0%} [{row['beta_low']:.0%}, {row['beta_high']:.0%}]"


def tests_words(frame: pd.DataFrame, grid: Grid) -> list[str]:
    """Sentences on the objectives in which beta matters at equal confidence; `frame` is that of `tests`."""
    sentences = []
    for where, group in families(frame):
        if (group["least_p"] >= ALPHA / len(group)).all():
            sentences.append(Says.NO_TESTS.of(where=where))
            continue
        parts = [
            f"{result} ({method}): {_verdicts(rows.to_dict('records'))}"
            for (result, method), rows in group.groupby(["result", "method"], sort=False)
            if result == "accuracy" or method in _MENTIONED
        ]
        sentences.append(Says.TESTS.of(where=where, parts=". ".join(parts)))
    return sentences


_MENTIONED = ("temperature scaling", "equal confidence")
ANSWERS = {
    "established": "established with {}, also without the most extreme beta",
    "single": "established with {}, where it may rest on one extreme beta alone",
    "inconclusive": "inconclusive with {}",
}


def _verdicts(rows: Sequence[Mapping[Any, Any]]) -> str:
    """With which objectives beta has an effect."""
    objectives: dict[str, list[str]] = {answer: [] for answer in ANSWERS}
    for row in rows:
        answer = _answer(row)
        extreme = f" (beta={row['extreme']:.3g})" if answer == "single" else ""
        objectives[answer].append(f"{row['objective']}{extreme}")
    return "; ".join(ANSWERS[answer].format(", ".join(names)) for answer, names in objectives.items() if names)


def _answer(row: Mapping[Any, Any]) -> str:
    """Which of ANSWERS a test gives."""
    if revoked(row) or not row["holm"] < ALPHA:
        return "inconclusive"
    return "established" if row["holm_without"] < ALPHA else "single"


TABLE = TableSpec(
    "Beta crossed with objective: shares of the variance of a test result",
    (
        "shares of the variance of the result of a random beta and objective of the grid on a random seed; they sum "
        "to 1 and depend on the grid; a share that is estimated below 0 is noise. repaired: after temperature "
        "scaling; at equal confidence: each arm's temperature set so that its mean confidence on the calibration "
        "split is the reference's",
        "{n_seeds} seeds in the layout, {n_betas} betas, {n_objectives} objectives; seeds that some cell lacks are "
        "dropped",
        "95% jackknife intervals over seeds, for the test examples at hand; where every rate was chosen among "
        "several they count the choice of rates, p-values do not",
    ),
    paper=True,
    words=words,
    fields=_layout,
)
"""Variance shares."""
TESTS_TABLE = TableSpec(
    "Does beta matter at equal confidence? Tests within each objective",
    (
        "p: of a permutation test that the betas of a seed are exchangeable, all betas at their tuned rates; holm: "
        "adjusted over all rows of the model; without: the same without the extreme beta, the one that departs "
        "most from the median; least p: the smallest that so many seeds allow; range: largest less smallest mean "
        "over beta; best: the beta with the best mean. Accuracy is the same at every temperature, so that its test "
        "is one at equal confidence. log loss: after the calibrator, or at the reference's mean confidence",
        "{n_seeds} seeds; p-values are over seeds, for the test examples at hand and the rates as they were chosen: "
        "of betas that are alike, other rates may have been chosen by chance, and a test sees that; no interval",
    ),
    fields=_layout,
)
"""Tests of beta's effect at equal confidence."""
