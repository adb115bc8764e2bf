"""Result tables as CSV, booktabs LaTeX and Markdown.

A column `x` with siblings `x_low` and `x_high` is shown as one cell, "mean [low, high]"; `x_p` is its p-value and
`x_holm` the adjusted one, shown as a star when below .05. CSV keeps every column as it is.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.estimate import Estimate
from calib_bench.analysis.format import SIBLINGS, estimate, number, title
from calib_bench.core.study import Table
from calib_bench.errors import StoreError
from calib_bench.system.files import write_bytes, write_json, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    import pandas as pd
    from rich.table import Table as RichTable


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


def cells(
    frame: pd.DataFrame, interval: Callable[[float, float, float], str] = estimate
) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of text, siblings folded into their mean; columns with no value at all are left out."""
    names = [str(c) for c in frame.columns]
    folded = {f"{name}{end}" for name in names for end in SIBLINGS}
    shown = [name for name in names if name not in folded and bool(frame[name].notna().any())]
    rows = [[_cell(record, name, interval) for name in shown] for record in frame.to_dict("records")]
    return [title(name) for name in shown], rows


def _cell(record: Mapping[Hashable, object], name: str, interval: Callable[[float, float, float], str]) -> str:
    value = Estimate.of(record, name)
    if value is None:
        return number(record[name])
    text = interval(value.mean, value.low, value.high)
    return f"{text}*" if value.is_significant else text


def csv(table: Table) -> str:
    """Every column, full precision, `inf` and empty cells as pandas reads them back."""
    return table.frame.to_csv(index=False, lineterminator="\n")


def markdown(table: Table) -> str:
    """A pipe table under its title, with the note below."""
    headers, rows = cells(table.frame)
    lines = [headers, ["---"] * len(headers), *rows]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return "\n\n".join(part for part in (f"**{table.title}**", body, table.note) if part) + "\n"


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters escaped and the two dashes of this module turned into LaTeX's."""
    return "".join(_LATEX.get(c, c) for c in text).replace("−", "$-$").replace("–", "--")


def latex(table: Table) -> str:
    r"""A booktabs `table`; needs \usepackage{booktabs} and nothing else."""
    frame, same = _without_constants(table.frame)
    headers, rows = cells(frame)
    caption = " ".join(escape_latex(part) for part in (f"{table.title}.", table.note, same) if part)
    numeric = [
        name
        for name in headers
        if name not in ("model", "variant", "objective", "method", "tuning", "status", "control")
    ]
    align = "".join("r" if name in numeric else "l" for name in headers)
    lines = [" & ".join(map(escape_latex, row)) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"  \caption{{{caption}}}",
            rf"  \begin{{tabular}}{{{align}}}",
            r"    \toprule",
            "    " + " & ".join(map(escape_latex, headers)) + r" \\",
            r"    \midrule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _without_constants(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The frame less its naming columns of one value, and those in words."""
    constant = [
        name
        for name in ("model", "variant", "tuning", "seeds", "dropped")
        if name in frame and frame[name].nunique() == 1
    ]
    if len(frame) < 2:
        return frame, ""
    words = "; ".join(f"{title(name)}: {frame[name].dropna().iloc[0]}" for name in constant)
    return frame.drop(columns=constant), f"{words}." if words else ""


def rich_table(table: Table) -> RichTable:
    """The table for a terminal of 80 columns: means over their intervals' half widths, constant columns below."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    frame, same = _without_constants(table.frame)
    headers, rows = cells(frame, _narrow)
    caption = Text(" ".join(part for part in (table.note, same) if part))
    drawn = RichTable(
        title=Text(table.title), caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD
    )
    for header in headers:
        drawn.add_column(Text(header), overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _narrow(mean: float, low: float, high: float) -> str:
    text = estimate(mean, low, high)
    shown, bracket, _ = text.partition(" [")
    if not bracket or not math.isclose(high - mean, mean - low, rel_tol=1e-3, abs_tol=1e-12):
        return text.replace(" ", "\n", 1)
    digits = len(shown.partition(".")[2])
    return f"{shown}\n±{(high - low) / 2:.{digits}f}"


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
    """The tables of a run folder's report as they were saved, by name.

    Raises:
        StoreError: there is no report, or it is damaged.
    """
    import pandas as pd

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
