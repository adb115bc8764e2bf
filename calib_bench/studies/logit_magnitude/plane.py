"""The plane of beta and the initial logit magnitude ||Z0||: its cells, what moves within it, and whose the variance is.

At one beta, ||Z0|| = beta ||z0|| is set by correlated initialization (see `calib_bench.models.pair`), which leaves the
scale of gradients alone (Agarwala et al., 2023, arXiv 2010.07344). So cells of one column differ in ||Z0|| only, and
cells whose correlations make up for their betas have the same ||Z0|| and differ in beta only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from calib_bench.analysis.arms import over_seeds
from calib_bench.analysis.calibration_variance import own_fit
from calib_bench.analysis.collapse import mixed, two_kinds
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import TWO_KINDS, Row, fields, limits
from calib_bench.inference import score_interval, variance_shares
from calib_bench.planning.tuning import together

METRICS = {"accuracy": ("raw", "correct"), "repaired_log_loss": ("temperature_scaling", "log_loss")}
"""What generalization is: the method, and the per-example score each is the mean of."""
ALIKE = 1.1
"""Initial logits whose magnitudes are within this factor count as equal."""
ZERO = 1e-6
"""A magnitude below this share of the plane's largest is zero."""
MAGNITUDE, BETA = "initial magnitude", "beta"


@dataclass(frozen=True)
class Cell:
    """One arm in the plane.

    Attributes:
        correlation: of the two copies' heads; None for the model alone.
        measures: what its trials score.
        norms: ||Z0||_F / sqrt(N) on the selection split before the first update, by seed that finished.
    """

    beta: float
    correlation: float | None
    measures: Measures
    norms: Mapping[int, float]

    @property
    def norm(self) -> float:
        """Mean over seeds; NaN without any."""
        return sum(self.norms.values()) / len(self.norms) if self.norms else math.nan


def row(cell: Cell, base: Cell | None, nested: bool) -> Row:
    """A cell's initial magnitude, with a t interval over seeds, accuracy and repaired log loss.

    Args:
        base: the cell from which their `_change` is, over the seeds that finished in both.
    """
    measures = cell.measures
    entry: Row = {"correlation": math.nan if cell.correlation is None else cell.correlation}
    entry |= {"rate": measures.arm.chosen, "seeds": len(measures.seeds)}
    entry |= {"dropped": len(measures.arm.trials) - len(measures.seeds)}
    if not measures.seeds:
        return entry
    entry |= over_seeds("initial_norm", list(cell.norms.values()))
    for name, (method, score) in METRICS.items():
        fit = own_fit(measures, method, score)
        interval = score_interval(
            "accuracy" if score == "correct" else score, measures.examples[method][score], nested, fit
        )
        entry |= limits(name, interval)
    if base is None or base is cell or not base.measures.seeds:
        return entry | two_kinds(measures)
    return entry | _change(cell, base, nested, "_change") | two_kinds(measures, base.measures)


def contrasts(cells: Sequence[Cell], reference: float, nested: bool) -> Iterator[Row]:
    """Pairs of cells that differ in one thing, over the seeds that finished in both.

    At every beta, the largest initial logits minus the smallest; and among cells with equal initial logits, every beta
    minus that nearest the reference.
    """
    comparable = [cell for cell in cells if cell.measures.seeds and cell.correlation is not None]
    for beta in sorted({cell.beta for cell in comparable}):
        column = sorted((cell for cell in comparable if cell.beta == beta), key=lambda cell: cell.norm)
        if len(column) > 1:
            yield _pair(MAGNITUDE, column[-1], column[0], nested)
    for alike in equal_norms(comparable):
        yield from _over_beta(alike, reference, nested)


def _over_beta(alike: Sequence[Cell], reference: float, nested: bool) -> Iterator[Row]:
    """Of cells with equal initial logits, every beta minus that nearest the reference."""
    base = min(alike, key=lambda cell: abs(math.log(cell.beta / reference)))
    for cell in sorted(alike, key=lambda cell: cell.beta):
        if cell is not base:
            yield _pair(BETA, cell, base, nested)


def equal_norms(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Groups of cells of equal initial magnitude, from the smallest, each of two betas at least."""
    groups: list[list[Cell]] = []
    largest = max((cell.norm for cell in cells), default=0.0)
    for cell in sorted(cells, key=lambda cell: cell.norm):
        first = groups[-1][0].norm if groups else math.nan
        if cell.norm <= first * ALIKE or (cell.norm <= ZERO * largest and first <= ZERO * largest):
            groups[-1].append(cell)
        else:
            groups.append([cell])
    return [group for group in groups if len({cell.beta for cell in group}) > 1]


def _pair(moves: str, cell: Cell, base: Cell, nested: bool) -> Row:
    loose = together(one.measures.arm for one in (cell, base))
    columns: Row = {"moves": moves, "beta": cell.beta, "tuning": loose, "from_beta": base.beta}
    columns |= {"initial_norm": cell.norm, "from_norm": base.norm}
    return columns | _change(cell, base, nested) | two_kinds(cell.measures, base.measures)


def _change(cell: Cell, base: Cell, nested: bool, suffix: str = "") -> Row:
    """The cell minus the base."""
    both = contrast(cell.measures, base.measures, nested)
    columns = {"seeds": both["seeds"], "dropped": both["dropped"], "nested": nested}
    columns["examples"] = int(cell.measures.examples["raw"]["correct"].shape[1])
    for name, column in (("accuracy", "accuracy"), ("repaired_log_loss", "log_loss_dyn")):
        change = Estimate.of(both, column)
        columns |= {} if change is None else change.fields(f"{name}{suffix}")
    return columns


def plane_shares(cells: Sequence[Cell]) -> list[Row]:
    """Per metric, whose the variance of one trained model's result is, over the betas whose cells are all trained.

    Main effects are of beta and of the correlation; the initial magnitude's share given beta is all that the
    correlation does within the betas, its interaction with them included.
    """
    everyone = sorted((cell for cell in cells if cell.correlation is not None), key=attrgetter("beta", "correlation"))
    trained = [cell for cell in everyone if cell.measures.seeds]
    correlations = {cell.correlation for cell in everyone}
    lines = [list(line) for _, line in itertools.groupby(trained, key=attrgetter("beta"))]
    grid = [line for line in lines if len(line) == len(correlations)]
    return _shares(f"{len(grid)} betas x {len(correlations)} correlations", BETA, grid)


def factor_shares(beta: float, cells: Mapping[tuple[bool, bool], Measures]) -> list[Row]:
    """Shares of variance of beta's two factors, over the 2x2 by (head rate changed, initial magnitude changed)."""
    measured = [[cells[rate, init] for init in (False, True)] for rate in (False, True)]
    if not all(cell.seeds for cell in itertools.chain(*measured)):
        return []
    return _shares(
        f"2x2 of beta={beta:.3g}", "head rate", [[Cell(beta, None, m, {}) for m in line] for line in measured]
    )


def _shares(design: str, other: str, grid: Sequence[Sequence[Cell]]) -> list[Row]:
    """A row a metric: the shares of `other` and of the initial magnitude, the rows and columns of the grid."""
    if min([len(grid), *map(len, grid)]) < 2:
        return []
    everyone = [cell.measures for cell in itertools.chain(*grid)]
    common = set(everyone[0].seeds).intersection(*(measures.seeds for measures in everyone))
    seeds = [seed for seed in everyone[0].seeds if seed in common]
    about: Row = {"other": other, "seeds": len(seeds), "tuning": together(measures.arm for measures in everyone)}
    about |= {TWO_KINDS: "these cells"} if any(map(mixed, everyone)) else {}
    return [
        {"design": design, "metric": metric.replace("_", " "), **about, **_columns(grid, seeds, metric)}
        for metric in METRICS
    ]


def _columns(grid: Sequence[Sequence[Cell]], seeds: Sequence[int], metric: str) -> Row:
    """The shares of a metric's variance, of mean scores [A, B, S]; none without seeds."""
    if not seeds:
        return {}
    method, score = METRICS[metric]
    means = [[cell.measures.scores(method, score, seeds).mean(1).tolist() for cell in line] for line in grid]
    shares = variance_shares(means)
    columns = fields("other_share", shares.first) | fields("magnitude_share", shares.second_given_first)
    columns |= fields("interaction_share", shares.interaction) | fields("seed_share", shares.seed)
    return columns | {"other_share_p": shares.p_first, "magnitude_share_p": shares.p_second}
