"""One table for a paper: names in words, digits and intervals as wanted, the best in bold, groups ruled off."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calib_bench import registry
from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import fixed, number, places, stem, title
from calib_bench.core.trial import split_terms
from calib_bench.report.table_view import COUNTS, FLAG, GOOD, Column, TableView, star
from calib_bench.report.tables import booktabs, escape_latex, pipe_table

if TYPE_CHECKING:
    import pandas as pd

LOPSIDED = 0.25
"""Share of the half width by which a mean may lie off the middle of its interval and still be written with ±."""


@dataclass(frozen=True)
class PaperTable:
    """A table ready to be written.

    Attributes:
        names, metrics: columns that name a row, and columns of numbers.
        rows: the texts of a row's names and of its numbers.
        bold: places (row, metric) that are bold.
        rules: rows with a rule above.
        caption, label: for LaTeX.
        frame: the columns of names and metrics in full, with what is alike in all rows.
    """

    names: list[str]
    metrics: list[str]
    rows: list[tuple[list[str], list[str]]]
    bold: set[tuple[int, int]]
    rules: set[int]
    caption: str
    label: str
    frame: pd.DataFrame

    @property
    def headers(self) -> list[str]:
        """The headings of all columns."""
        return [title(name) for name in (*self.names, *self.metrics)]

    def latex(self) -> str:
        r"""A booktabs `table`; needs \usepackage{booktabs} and nothing else."""
        lines = []
        for i, (names, values) in enumerate(self.rows):
            if i in self.rules:
                lines.append(r"\midrule")
            cells = self._emphasized(i, [_math(escape_latex(text)) for text in values], r"\textbf{", "}")
            lines.append(" & ".join([*map(escape_latex, names), *cells]) + r" \\")
        return booktabs(
            head=[
                r"  \centering\small",
                rf"  \caption{{{_math(escape_latex(self.caption))}}}",
                rf"  \label{{{self.label}}}",
            ],
            align="l" * len(self.names) + "r" * len(self.metrics),
            headers=[escape_latex(header) for header in self.headers],
            rows=lines,
        )

    def markdown(self) -> str:
        """A pipe table, caption below."""
        rule = ["---"] * len(self.names) + ["---:"] * len(self.metrics)
        rows = [[*names, *self._emphasized(i, cells, "**", "**")] for i, (names, cells) in enumerate(self.rows)]
        return f"{pipe_table(self.headers, rule, rows)}\n\n{self.caption}\n"

    def csv(self) -> str:
        """Every number in full, with limits, p-values and, where the best were looked for, `<metric>_best`."""
        frame = self.frame.copy()
        for j, metric in enumerate(self.metrics):
            if self.bold:
                frame[f"{metric}_best"] = [(i, j) in self.bold for i in range(len(frame))]
        return frame.to_csv(index=False, lineterminator="\n")

    def _emphasized(self, row: int, cells: Sequence[str], begin: str, end: str) -> list[str]:
        """The cells of a row, those that are bold between two marks."""
        return [f"{begin}{text}{end}" if (row, j) in self.bold else text for j, text in enumerate(cells)]


def paper_table(
    view: TableView,
    name: str,
    metrics: list[str],
    digits: int | None = None,
    interval: str = "yes",
    bold: Collection[tuple[int, int]] = (),
    bold_note: str = "",
    rules: Collection[int] = (),
) -> PaperTable:
    """A view as a table for a paper.

    Args:
        name: of the table's file, for the label.
        metrics: columns of numbers to show.
        digits: decimal places; None for two significant digits of each interval's half width.
        interval: "yes" shows limits, "half" half of their width where the mean is about in their middle, "no" the mean
            alone.
        bold, rules: see `PaperTable`.
        bold_note: what bold means, for the caption.
    """
    names, constant = _naming_columns(view)
    write = partial(cell, digits=digits, interval=interval)
    in_paper = [_names_in_paper(column) for column in view.columns(names)]
    cells = [column.texts(write) for column in view.columns(metrics)]
    rows = [([text[i] for text in in_paper], [text[i] for text in cells]) for i in range(len(view.frame))]
    caption = " ".join(filter(None, (f"{view.title}.", bold_note, view.note, view.sentence(constant))))
    kept = [column for column in view.frame if column in (*names, *constant) or stem(str(column)) in metrics]
    return PaperTable(names, metrics, rows, set(bold), set(rules), caption, f"tab:{name}", view.frame[kept])


def metric_columns(view: TableView) -> list[str]:
    """Columns of numbers that a paper's table shows where none are chosen: those that the page shows first."""
    others = {*view.naming, *COUNTS, FLAG}
    return view.first([column for column in view.shown if column not in others])


def _naming_columns(view: TableView) -> tuple[list[str], list[str]]:
    """The columns that name a row, and those that would name it but hold the same in every row, of several."""
    constant = view.alike(dict.fromkeys((*view.naming, *COUNTS)))
    varying = [column for column in view.naming if column not in constant]
    if FLAG in varying and set(view.frame[FLAG]) == {GOOD}:
        varying.remove(FLAG)
    return varying or list(view.naming[-1:]), constant


def _names_in_paper(column: Column) -> list[str]:
    """Names as papers print them: a baseline by its title, an objective's strength after it."""
    if column.name not in ("method", "objective"):
        return [number(value) for value in column.values]
    return [_terms_in_paper(value) if isinstance(value, str) else number(value) for value in column.values]


def _terms_in_paper(terms: str) -> str:
    return " + ".join(_term_in_paper(term) for term in split_terms(terms))


def _term_in_paper(term: str) -> str:
    name, colon, strength = term.partition(":")
    in_words = name.replace("_", " ")
    if name in registry.names("baselines"):
        in_words = registry.load("baselines", name).title
    return f"{in_words} {strength}" if colon else in_words


def cell(value: object, estimate: Estimate | None, digits: int | None, interval: str) -> str:
    """A cell's number with its interval, to `digits` places or two significant digits of the half width."""
    if estimate is None or not estimate.is_bounded:
        return _lone_number(value, digits)
    decimals = places(estimate.low, estimate.high) if digits is None else digits
    mean = fixed(estimate.mean, decimals) + star(estimate)
    if interval == "no":
        return mean
    half = (estimate.high - estimate.low) / 2
    if interval == "half" and abs((estimate.high + estimate.low) / 2 - estimate.mean) <= LOPSIDED * half:
        return f"{mean} ± {fixed(half, decimals)}"
    return f"{mean} [{fixed(estimate.low, decimals)}, {fixed(estimate.high, decimals)}]"


def _lone_number(value: object, digits: int | None) -> str:
    if digits is None or isinstance(value, numbers.Integral) or not isinstance(value, numbers.Real):
        return number(value)
    return fixed(float(value), digits) if math.isfinite(value) else number(value)


def _math(text: str) -> str:
    return text.replace("±", r"$\pm$").replace("·", r"$\cdot$").replace("≥", r"$\geq$")
