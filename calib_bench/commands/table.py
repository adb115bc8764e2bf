"""`table`: one table of a run for a paper, as booktabs LaTeX, Markdown and CSV, its rows, columns and digits chosen."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.analysis.format import ALPHA, title
from calib_bench.commands.command import PLUGINS, RUN, Command, Option, items, whole
from calib_bench.commands.stored_run import open_run
from calib_bench.core.syntax import expand, split_word
from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.report.paper_table import PaperTable, metric_columns, paper_table
from calib_bench.report.table_view import TableView
from calib_bench.report.tables import read
from calib_bench.store.store import near_runs
from calib_bench.system.files import write_bytes
from calib_bench.system.object_store import url_of

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.core.study import Table

MAIN = "baselines"
OPTIONS = (
    RUN,
    Option("--table", f"which of report/tables/; otherwise {MAIN}, else the first for papers", metavar="NAME"),
    Option("--columns", "metrics to show; otherwise those that the page shows first", items, (), metavar="A,B"),
    Option("--by", "compare rows within equal values of columns, and part them by a rule", items, (), metavar="A,B"),
    Option("--sort", "order of the rows, lowest first; sort=-accuracy highest first", default="", metavar="COLUMN"),
    whole("--digits", "decimal places; otherwise two significant digits of each interval's half width", high=12),
    Option(
        "--interval",
        "mean [low, high], mean ± half width (limits where the mean is far from the middle), or the mean alone",
        default="yes",
        choices=("yes", "half", "no"),
    ),
    Option(
        "--best",
        f"bold the best and what the data cannot tell from it ({MAIN} only)",
        default="yes",
        choices=("yes", "no"),
    ),
    Option("--format", "print one format alone and write nothing", choices=("latex", "markdown", "csv")),
    Option(
        "--out",
        "folder for the three files; otherwise RUN/paper, of an object store paper",
        Path,
        metavar="FOLDER",
    ),
    PLUGINS,
)


def conditions(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The values that rows may have by column, from words `column=a,b`.

    Raises:
        SettingsError: two conditions on one column.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for word in words:
        column, text = split_word(word)
        if column in rows:
            raise SettingsError(f"{column} is given twice: give one list, for example {column}=a,b")
        rows[column] = tuple(expand(column, text))
    return rows


def _call(arguments: Namespace) -> int:
    """Print a table and, unless one format was asked for, write all three."""
    name, table = format_table(arguments)
    texts = {"latex": table.latex(), "markdown": table.markdown(), "csv": table.csv()}
    if arguments.format:
        if idle := _idle(arguments):
            print(f"note: no effect with format={arguments.format}: {', '.join(idle)}", file=sys.stderr)
        print(texts[arguments.format], end="")
        return 0
    print(texts["markdown"])
    folder = arguments.out or (Path("paper") if url_of(arguments.run) else arguments.run / "paper")
    for kind, suffix in (("latex", "tex"), ("markdown", "md"), ("csv", "csv")):
        write_bytes(folder / f"{name}.{suffix}", texts[kind].encode())
    print(f"written: {folder / name}.tex, .md, .csv")
    return 0


def _idle(arguments: Namespace) -> list[str]:
    """Options that one format alone makes no use of: nothing is written, and CSV holds numbers in full."""
    in_text = {"digits": arguments.digits is not None, "interval": arguments.interval != "yes"}
    options = {"out": arguments.out is not None, **(in_text if arguments.format == "csv" else {})}
    return [name for name, is_typed in options.items() if is_typed]


COMMAND = Command(
    "table",
    """\
Prints a table of a run and writes it as booktabs LaTeX, Markdown and CSV. COLUMN=A,B keeps only rows whose COLUMN is
one of these: beta=0.1,1 method=raw,temperature_scaling.""",
    OPTIONS,
    (
        "table runs/digits-separation beta=1 by=objective",
        "table runs/digits-separation columns=log_loss,ece digits=3 sort=log_loss format=latex",
        "table runs/digits-separation table=separation interval=half",
    ),
    _call,
    keys="COLUMN=A,B",
)


def format_table(options: Namespace) -> tuple[str, PaperTable]:
    """The name of the wanted table, and the table ready to be written.

    Args:
        options: values of `OPTIONS`; `keys` are conditions on rows.

    Raises:
        UserError: there is no such table, column or row.
    """
    name, table = _table(options)
    frame, spans = _grouped(_rows(table, options), options.by)
    view = TableView.of(table).with_rows(frame)
    _check_columns(options.columns, frame)
    metrics = list(options.columns) or metric_columns(view)
    bold: set[tuple[int, int]] = set()
    bold_note = ""
    if name == MAIN and options.best == "yes":
        bold, bold_note = _bold(options, frame, metrics, spans)
    rules = {span.start for span in spans[1:]}
    return name, paper_table(view, name, metrics, options.digits, options.interval, bold, bold_note, rules)


def _table(options: Namespace) -> tuple[str, Table]:
    """The table of the run that is wanted, else the main one, else the first for papers, else the first."""
    if not (options.run.is_dir() or url_of(options.run)):
        raise SettingsError(f"{options.run} does not exist{near_runs(options.run)}")
    tables = read(options.run)
    for_papers = [name for name, table in tables.items() if table.paper]
    name = options.table or (MAIN if MAIN in tables else [*for_papers, *tables][0])
    if name not in tables:
        raise SettingsError(f"{options.run} has no table {name!r}: {nearest(name, tables)}")
    return name, tables[name]


def _grouped(frame: pd.DataFrame, by: Sequence[str]) -> tuple[pd.DataFrame, list[range]]:
    """Rows put together by equal values of columns, and the span of each group."""
    if not by:
        return frame, [range(len(frame))]
    groups = frame.groupby(list(by), sort=False, dropna=False).indices.values()
    spans, start = [], 0
    for group in groups:
        spans.append(range(start, start + len(group)))
        start += len(group)
    order = [row for group in groups for row in group]
    return frame.iloc[order].reset_index(drop=True), spans


def _rows(table: Table, options: Namespace) -> pd.DataFrame:
    """The rows that meet the conditions, in the order that is wanted."""
    frame = table.frame
    for column, values in conditions(options.keys).items():
        frame = _rows_with(frame, column, values)
    if options.sort:
        column = options.sort.removeprefix("-")
        _check_columns([column], frame)
        frame = frame.sort_values(column, ascending=not options.sort.startswith("-"), kind="stable")
    if not len(frame):
        raise UserError("no row is left: give fewer conditions")
    _check_columns(options.by, frame)
    return frame.reset_index(drop=True)


def _rows_with(frame: pd.DataFrame, column: str, texts: Sequence[str]) -> pd.DataFrame:
    """The rows whose column has one of the values."""
    if column not in frame:
        hint = nearest(column, [*(option.key for option in OPTIONS), *map(str, frame.columns)])
        raise SettingsError(f"{column}= is neither an option of table nor a column of it: {hint}")
    values = [_value(text) for text in texts]
    present = [_value(value) for value in frame[column].unique()]
    missing = [value for value in values if value not in present]
    if missing:
        raise SettingsError(f"no row has {column}={missing[0]}: {nearest(str(missing[0]), map(str, present))}")
    return frame[[_value(value) in values for value in frame[column]]]


def _value(value: object) -> object:
    """Numbers as numbers, all else as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def _check_columns(columns: Sequence[str], frame: pd.DataFrame) -> None:
    for column in columns:
        if column not in frame:
            raise SettingsError(f"the table has no column {column!r}: {nearest(column, map(str, frame.columns))}")


def _bold(
    options: Namespace, frame: pd.DataFrame, metrics: Sequence[str], spans: Sequence[range]
) -> tuple[set[tuple[int, int]], str]:
    """Cells (row, metric) that are best or not shown to be worse, and a sentence on them for the caption."""
    from calib_bench.analysis.scores import PAIRED
    from calib_bench.commands import table_ties
    from calib_bench.execute import analysis_pool

    store, settings = open_run(options.run, options.plugins)
    bold = set()
    with analysis_pool.workers(settings):
        ties = table_ties.Ties(store, settings, frame, settings.plugins)
        judged = table_ties.judged(metrics, ties.rows)
        for metric in judged:
            column = metrics.index(metric)
            bold |= {(row, column) for row in ties.best(metric, spans)}
    ties.keep()
    over_seeds = [title(metric) for metric in judged if metric not in PAIRED or ties.nested]
    return bold, _bold_note(over_seeds, options.by)


def _bold_note(over_seeds: Sequence[str], by: Sequence[str]) -> str:
    seeds = f", for {', '.join(over_seeds)} over seeds alone" if over_seeds else ""
    within = f" within each {', '.join(map(title, by))}" if by else ""
    return (
        f"Bold: the best of each column{within}, and what the data cannot tell from it (paired over seeds and test "
        f"examples{seeds}; p at least {ALPHA:g} by Holm over all pairs)."
    )
