"""`table`: one table of a run for a paper, as booktabs LaTeX, Markdown and CSV, its rows, columns and digits chosen."""

from __future__ import annotations

import math
import numbers
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis.format import ALPHA, SIBLINGS, number, places, title
from calib_bench.commands.command import PLUGINS, RUN, Command, Option, items, whole
from calib_bench.core.syntax import expand, split_word
from calib_bench.core.trial import split_terms
from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.report.page_tables import COUNTS, FLAG, GOOD, fixed, naming
from calib_bench.report.tables import escape_latex, read
from calib_bench.system.files import write_bytes

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
        "mean [low, high], mean ± half width, or the mean alone",
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
    Option("--out", "folder for the three files; otherwise RUN/paper", Path, metavar="FOLDER"),
    PLUGINS,
)


@dataclass(frozen=True)
class TableOptions:
    """Which table of which run is wanted, and how; `rows` keeps only rows whose column has one of the values."""

    run: Path
    table: str | None = None
    columns: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    sort: str = ""
    digits: int | None = None
    interval: str = "yes"
    best: str = "yes"
    format: str | None = None
    out: Path | None = None
    plugins: tuple[Path, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class FormattedTable:
    """A table ready to be written: naming columns and metrics, cell texts, what is bold, where rules go, caption."""

    names: list[str]
    metrics: list[str]
    rows: list[tuple[list[str], list[str]]]
    bold: set[tuple[int, int]]
    rules: set[int]
    caption: str
    label: str
    frame: pd.DataFrame


def table_options(arguments: Namespace) -> TableOptions:
    """The options of the words after `table`; `arguments.keys` are conditions on rows.

    Raises:
        SettingsError: two conditions on one column.
    """
    rows: dict[str, tuple[str, ...]] = {}
    for word in arguments.keys:
        column, text = split_word(word)
        if column in rows:
            raise SettingsError(f"{column} is given twice: give one list, for example {column}=a,b")
        rows[column] = tuple(expand(column, text))
    values = {key: value for key, value in vars(arguments).items() if key not in ("run", "keys", "words")}
    return TableOptions(Path(arguments.run), rows=rows, **values)


def _call(arguments: Namespace) -> int:
    """Print a table and, unless one format was asked for, write all three."""
    options = table_options(arguments)
    name, table = format_table(options)
    texts = {"latex": latex(table), "markdown": markdown(table), "csv": csv(table)}
    if options.format:
        print(texts[options.format], end="")
        return 0
    print(texts["markdown"])
    folder = options.out or options.run / "paper"
    for kind, suffix in (("latex", "tex"), ("markdown", "md"), ("csv", "csv")):
        write_bytes(folder / f"{name}.{suffix}", texts[kind].encode())
    print(f"written: {folder / name}.tex, .md, .csv")
    return 0


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


def format_table(options: TableOptions) -> tuple[str, FormattedTable]:
    """The name of the wanted table, and the table ready to be written.

    Raises:
        UserError: there is no such table, column or row.
    """
    name, table = _table(options)
    frame, spans = _grouped(_rows(table, options), options.by)
    metrics = _metrics(table, frame, options)
    names, constant = _naming_columns(table, frame)
    bold: set[tuple[int, int]] = set()
    bold_note = ""
    if name == MAIN and options.best == "yes":
        bold, bold_note = _bold(options, frame, metrics, spans)
    rows = []
    for record in frame.to_dict("records"):
        cells = [cell(record, metric, options.digits, options.interval) for metric in metrics]
        rows.append(([_name_in_paper(column, record[column]) for column in names], cells))
    sentences = (f"{table.title}.", bold_note, table.note, _same_of_all_rows(frame, constant))
    caption = " ".join(filter(None, sentences))
    rules = {span.start for span in spans[1:]}
    kept = [c for c in frame if c in (*names, *constant) or _stem(str(c)) in metrics]
    return name, FormattedTable(names, metrics, rows, bold, rules, caption, f"tab:{name}", frame[kept])


def _table(options: TableOptions) -> tuple[str, Table]:
    """The table of the run that is wanted, else the main one, else the first for papers, else the first."""
    tables = read(options.run)
    for_papers = [name for name, table in tables.items() if table.paper]
    name = options.table or (MAIN if MAIN in tables else [*for_papers, *tables][0])
    if name not in tables:
        raise SettingsError(f"{options.run} has no table {name!r}: {nearest(name, tables)}")
    return name, tables[name]


def _naming_columns(table: Table, frame: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The columns that name a row, and those that would name it but hold the same in every row, of several."""
    names = [column for column in naming(table) if column in frame]
    constant = [column for column in (*names, *COUNTS) if _is_constant(column, frame)]
    varying = [column for column in names if column not in constant]
    if FLAG in varying and set(frame[FLAG]) == {GOOD}:
        varying.remove(FLAG)
    return varying or names[-1:], constant


def _is_constant(column: str, frame: pd.DataFrame) -> bool:
    return column in frame and len(frame) > 1 and frame[column].nunique(dropna=False) == 1


def _same_of_all_rows(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """A sentence with the values of constant columns."""
    texts = {column: number(frame[column].iloc[0]) for column in columns}
    parts = [f"{title(column)}: {text}" for column, text in texts.items() if text != "–"]
    return "; ".join(parts) + "." if parts else ""


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


def _name_in_paper(column: str, value: Any) -> str:
    """A name as papers print it: a baseline by its title, an objective's strength after it."""
    if column not in ("method", "objective") or not isinstance(value, str):
        return number(value)
    return " + ".join(_term_in_paper(term) for term in split_terms(value))


def _term_in_paper(term: str) -> str:
    name, colon, strength = term.partition(":")
    in_words = name.replace("_", " ")
    if name in registry.names("baselines"):
        in_words = registry.load("baselines", name).title
    return f"{in_words} {strength}" if colon else in_words


def _rows(table: Table, options: TableOptions) -> pd.DataFrame:
    """The rows that meet the conditions, in the order that is wanted."""
    frame = table.frame
    for column, values in options.rows.items():
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


def _stem(column: str) -> str:
    for end in SIBLINGS:
        column = column.removesuffix(end)
    return column


def _metrics(table: Table, frame: pd.DataFrame, options: TableOptions) -> list[str]:
    """The metrics that are wanted, else those that the page shows first, else all."""
    if options.columns:
        _check_columns(options.columns, frame)
        return list(options.columns)
    siblings = {f"{column}{end}" for column in frame for end in SIBLINGS}
    others = {*naming(table), *COUNTS, FLAG, *siblings}
    metrics = [str(column) for column in frame if column not in others and bool(frame[column].notna().any())]
    return [column for column in metrics if column in table.first] or metrics


def _bold(
    options: TableOptions, frame: pd.DataFrame, metrics: Sequence[str], spans: Sequence[range]
) -> tuple[set[tuple[int, int]], str]:
    """Cells (row, metric) that are best or not shown to be worse, and a sentence on them for the caption."""
    from calib_bench.commands import table_ties
    from calib_bench.store.store import Store

    store = Store(options.run, "read")
    settings = store.settings()
    registry.use_stored(options.run, settings.plugins, options.plugins)
    scored, nested = table_ties.scores(store, settings, frame)
    judged = table_ties.judged(metrics, scored)
    bold = set()
    for metric in judged:
        column = metrics.index(metric)
        bold |= {(row, column) for row in table_ties.best(scored, metric, nested, spans)}
    over_seeds = [title(metric) for metric in judged if metric not in table_ties.PAIRED or nested]
    return bold, _bold_note(over_seeds, options.by)


def _bold_note(over_seeds: Sequence[str], by: Sequence[str]) -> str:
    seeds = f", for {', '.join(over_seeds)} over seeds alone" if over_seeds else ""
    within = f" within each {', '.join(map(title, by))}" if by else ""
    return (
        f"Bold: the best of each column{within}, and what the data cannot tell from it (paired over seeds and test "
        f"examples{seeds}; Holm-adjusted p at least {ALPHA:g})."
    )


def cell(row: Mapping[Any, Any], column: str, digits: int | None, interval: str) -> str:
    """A cell's number with its interval, to `digits` places or two significant digits of the half width."""
    value, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    if not _is_finite(value):
        return number(value)
    if not (_is_finite(low) and _is_finite(high)):
        return _lone_number(value, digits)
    decimals = places(low, high) if digits is None else digits
    mean = fixed(float(value), decimals) + _star(row.get(f"{column}_holm"))
    if interval == "no":
        return mean
    if interval == "half":
        return f"{mean} ± {fixed((high - low) / 2, decimals)}"
    return f"{mean} [{fixed(low, decimals)}, {fixed(high, decimals)}]"


def _lone_number(value: float, digits: int | None) -> str:
    if digits is None or isinstance(value, numbers.Integral):
        return number(value)
    return fixed(float(value), digits)


def _star(holm: object) -> str:
    """The mark of a difference that is significant after Holm's correction."""
    return "*" if isinstance(holm, numbers.Real) and float(holm) < ALPHA else ""


def _is_finite(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def latex(table: FormattedTable) -> str:
    r"""A booktabs `table`; needs \usepackage{booktabs} and nothing else."""
    heads = " & ".join(escape_latex(title(c)) for c in (*table.names, *table.metrics))
    lines = []
    for i, (names, values) in enumerate(table.rows):
        if i in table.rules:
            lines.append(r"\midrule")
        texts = [_math(escape_latex(v)) for v in values]
        texts = [rf"\textbf{{{v}}}" if (i, j) in table.bold else v for j, v in enumerate(texts)]
        lines.append(" & ".join([*map(escape_latex, names), *texts]) + r" \\")
    body = "\n".join(f"    {line}" for line in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{_math(escape_latex(table.caption))}}}",
            rf"  \label{{{table.label}}}",
            rf"  \begin{{tabular}}{{{'l' * len(table.names)}{'r' * len(table.metrics)}}}",
            r"    \toprule",
            rf"    {heads} \\",
            r"    \midrule",
            body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _math(text: str) -> str:
    return text.replace("±", r"$\pm$").replace("·", r"$\cdot$").replace("≥", r"$\geq$")


def markdown(table: FormattedTable) -> str:
    """A pipe table, caption below."""
    heads = [title(c) for c in (*table.names, *table.metrics)]
    rule = ["---"] * len(table.names) + ["---:"] * len(table.metrics)
    lines = [heads, rule]
    for i, (names, values) in enumerate(table.rows):
        lines.append([*names, *(f"**{v}**" if (i, j) in table.bold else v for j, v in enumerate(values))])
    body = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
    return f"{body}\n\n{table.caption}\n"


def csv(table: FormattedTable) -> str:
    """Every number in full, with limits, p-values and, where the best were looked for, `<metric>_best`."""
    frame = table.frame.copy()
    for j, metric in enumerate(table.metrics):
        if table.bold:
            frame[f"{metric}_best"] = [(i, j) in table.bold for i in range(len(frame))]
    return frame.to_csv(index=False, lineterminator="\n")
