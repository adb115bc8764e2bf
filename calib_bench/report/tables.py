"""Result tables as CSV, booktabs LaTeX, Markdown and on a terminal; where a report keeps them.

A column `x` with siblings `x_low` and `x_high` is shown as one cell, "mean [low, high]"; `x_p` is its p-value and
`x_holm` the adjusted one, shown as a star when below .05. CSV keeps every column as it is.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import number
from calib_bench.core.study import Table
from calib_bench.errors import StoreError
from calib_bench.report.table_view import TableView, star
from calib_bench.store.store import Store
from calib_bench.system.files import write_bytes, write_json, writing
from calib_bench.system.object_store import url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import pandas as pd
    from rich.table import Table as RichTable


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip
TEXT_COLUMNS = ("model", "variant", "objective", "method", "tuning", "status", "control")
"""Headings of columns that LaTeX aligns on the left."""
CONSTANTS = ("model", "variant", "tuning", "seeds", "dropped")
"""Columns that LaTeX and the terminal leave out and name below the table where they have one value."""


def csv(table: Table) -> str:
    """Every column, full precision, `inf` and empty cells as pandas reads them back."""
    return table.frame.to_csv(index=False, lineterminator="\n")


def markdown(table: Table) -> str:
    """A pipe table under its title, with the note below."""
    view = TableView.of(table)
    return "\n\n".join(part for part in (f"**{view.title}**", markdown_rows(view), view.note) if part) + "\n"


def markdown_rows(view: TableView) -> str:
    """The headings and rows of a pipe table."""
    headers, rows = _texts(view, _full)
    return pipe_table(headers, ["---"] * len(headers), rows)


def pipe_table(headers: Sequence[str], rule: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a Markdown table, cells escaped; `rule` says how columns are aligned."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (headers, rule, *rows)]
    return "\n".join(f"| {line} |" for line in lines)


MOST_COLUMNS = 12
"""Columns that a terminal shows."""


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters escaped and the two dashes of this module turned into LaTeX's."""
    return "".join(_LATEX.get(c, c) for c in text).replace("−", "$-$").replace("–", "--")


def latex(table: Table) -> str:
    r"""A booktabs `table`; needs \usepackage{booktabs} and nothing else."""
    view, same = _without_constants(TableView.of(table))
    headers, rows = _texts(view, _full)
    caption = " ".join(filter(None, (f"{view.title}.", view.note, same)))
    return booktabs(
        head=[r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}", rf"  \caption{{{escape_latex(caption)}}}"],
        align="".join("l" if name in TEXT_COLUMNS else "r" for name in headers),
        headers=[escape_latex(header) for header in headers],
        rows=[" & ".join(map(escape_latex, row)) + r" \\" for row in rows],
    )


def booktabs(head: Sequence[str], align: str, headers: Sequence[str], rows: Sequence[str]) -> str:
    r"""A LaTeX `table` of what is escaped already; `head` holds size, caption and label, `rows` whole lines."""
    lines = [
        r"\begin{table}",
        *head,
        rf"  \begin{{tabular}}{{{align}}}",
        r"    \toprule",
        "    " + " & ".join(headers) + r" \\",
        r"    \midrule",
        *(f"    {row}" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def rich_table(table: Table) -> RichTable:
    """The table for a terminal of 80 columns: means over their intervals' half widths, constant columns below, and of
    very many columns those that a page shows first."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    view, same = _without_constants(TableView.of(table))
    view = view.brief(MOST_COLUMNS)
    headers, rows = _texts(view, _narrow)
    caption = Text(" ".join(part for part in (view.note, same) if part))
    drawn = RichTable(
        title=Text(view.title), caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD
    )
    for header in headers:
        drawn.add_column(Text(header), overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _texts(view: TableView, write: Callable[[object, Estimate | None], str]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Headings and rows of every column that is shown."""
    columns = view.columns(view.shown)
    texts = [column.texts(write) for column in columns]
    return [column.title for column in columns], list(zip(*texts, strict=True))


def _without_constants(view: TableView) -> tuple[TableView, str]:
    """The view less its columns of one value, among those that may be left out, and those in words."""
    constant = view.alike(CONSTANTS, missing_counts=False)
    return view.without(constant), view.sentence(constant)


def _full(value: object, estimate: Estimate | None) -> str:
    """ "mean [low, high]", starred if significant."""
    return number(value) if estimate is None else estimate.text + star(estimate)


def _narrow(value: object, estimate: Estimate | None) -> str:
    """The mean over its interval's half width, or over the interval where the mean is not in its middle."""
    if estimate is None:
        return number(value)
    mean, bracket, _ = estimate.text.partition(" [")
    above, below = estimate.high - estimate.mean, estimate.mean - estimate.low
    if not bracket or not math.isclose(above, below, rel_tol=1e-3, abs_tol=1e-12):
        return estimate.text.replace(" ", "\n", 1) + star(estimate)
    digits = len(mean.partition(".")[2])
    return f"{mean}\n±{(estimate.high - estimate.low) / 2:.{digits}f}{star(estimate)}"


def save(tables: Mapping[str, Table], folder: Path) -> None:
    """Writes every table as CSV and Markdown, those meant for a paper as LaTeX, and index.json, which has the rest."""
    index = {
        name: {"title": t.title, "note": t.note, "paper": t.paper, "names": list(t.names), "first": list(t.first)}
        for name, t in tables.items()
    }
    _remove_earlier(folder)
    write_json(folder / "index.json", index)
    for name, table in tables.items():
        write_bytes(folder / f"{name}.csv", csv(table).encode())
        write_bytes(folder / f"{name}.md", markdown(table).encode())
        if table.paper:
            write_bytes(folder / f"{name}.tex", latex(table).encode())


def _remove_earlier(folder: Path) -> None:
    """Removes the tables that the folder's index names, so that none of an earlier result stays beside the new ones."""
    try:
        names = list(json.loads((folder / "index.json").read_text()))
    except (OSError, ValueError, TypeError):
        return
    for name in names:
        if isinstance(name, str) and Path(name).name == name:
            for ending in ("csv", "md", "tex"):
                with writing(path := folder / f"{name}.{ending}"):
                    path.unlink(missing_ok=True)


def read(run: Path) -> dict[str, Table]:
    """The tables of a run folder's report as they were saved, by name; the folder may be in an object store.

    Raises:
        StoreError: there is no report, or it is damaged.
    """
    import pandas as pd

    run = Store(run, "read").path if url_of(run) else run
    folder = run / "report" / "tables" if (run / "report").is_dir() else run / "tables"
    if not (folder / "index.json").is_file():
        raise StoreError(f"{run} has no report with tables: python -m calib_bench report {run} makes it")
    try:
        return {
            name: Table(frame=_frame(pd, folder / f"{name}.csv"), **_told(entry))
            for name, entry in json.loads((folder / "index.json").read_text()).items()
        }
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise StoreError(f"{folder} is damaged ({error}): python -m calib_bench report {run} makes it again") from None


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _frame(pd: Any, path: Path) -> pd.DataFrame:
    empty = path.stat().st_size <= 1
    return pd.DataFrame() if empty else pd.read_csv(path, float_precision="round_trip")
