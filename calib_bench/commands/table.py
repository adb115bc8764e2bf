"""`table`: one table of a run for a paper, as booktabs LaTeX, Markdown and CSV, its rows, columns and digits chosen."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.format import ALPHA, SIBLINGS, number, places, title
from calib_bench.core.syntax import expand, split_word
from calib_bench.core.trial import split_terms
from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.report.page_tables import COUNTS, FLAG, GOOD, fixed, naming
from calib_bench.report.tables import escape_latex, read

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.core.study import Table

HELP = """\
usage: python -m calib_bench table RUN [key=value ...]

  table=NAME            which of the run's tables (report/tables/NAME.csv); default baselines, else the first for papers
  columns=a,b           metrics to show; default those that the page shows first
  COLUMN=a,b            only rows whose COLUMN is one of these: beta=0.1,1 method=raw,temperature_scaling
  by=a,b                compare rows within equal values of these columns, and part them by a rule
  sort=COLUMN           order of the rows, lowest first; sort=-accuracy highest first
  digits=N              decimal places; default two significant digits of each interval's half width
  interval=yes|half|no  mean [low, high], mean ± half width, or the mean alone
  best=yes|no           bold the best of each column and what the data cannot tell from it (baselines only)
  format=latex|markdown|csv    print that alone and write nothing
  out=FOLDER            where the three files go; default RUN/paper
  plugins=FOLDER        the plug-ins that the run was made with, which are code
"""
MAIN = "baselines"
OPTIONS = ("table", "columns", "by", "sort", "digits", "interval", "best", "format", "out", "plugins")
CHOICES = {"interval": ("yes", "half", "no"), "best": ("yes", "no"), "format": ("latex", "markdown", "csv")}


@dataclass(frozen=True)
class Wish:
    """What the words asked for; `rows` keeps only rows whose column has one of the values."""

    run: Path
    table: str | None = None
    columns: tuple[str, ...] = ()
    by: tuple[str, ...] = ()
    sort: str = ""
    digits: int | None = None
    interval: str = "yes"
    best: str = "yes"
    format: str = ""
    out: Path | None = None
    plugins: tuple[Path, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Sheet:
    """A table ready to be written: naming columns and metrics, cell texts, what is bold, where rules go, caption."""

    names: list[str]
    metrics: list[str]
    rows: list[tuple[list[str], list[str]]]
    bold: set[tuple[int, int]]
    rules: set[int]
    caption: str
    label: str
    frame: pd.DataFrame


def parse(words: Sequence[str]) -> Wish:
    """Words after `table`.

    Raises:
        SettingsError: no run folder or several, a repeated key, or a value that is not one of its choices.
    """
    runs = [word for word in words if "=" not in word]
    if len(runs) != 1:
        raise SettingsError("table takes one run folder: python -m calib_bench table runs/digits-separation --help")
    given: dict[str, Any] = {}
    rows: dict[str, tuple[str, ...]] = {}
    for word in words:
        if "=" not in word:
            continue
        key, text = split_word(word)
        if key in given or key in rows:
            raise SettingsError(f"{key} is given twice: give one list, for example {key}=a,b")
        if key not in OPTIONS:
            rows[key] = tuple(expand(key, text))
        elif key in ("columns", "by", "plugins"):
            given[key] = tuple(map(Path if key == "plugins" else str, expand(key, text)))
        elif key == "digits":
            if not (text.isdecimal() and int(text) <= 12):
                raise SettingsError(f"digits={text} is not a number of decimal places from 0 to 12")
            given[key] = int(text)
        elif text not in CHOICES.get(key, (text,)):
            raise SettingsError(f"{key}={text} is not valid: {nearest(text, CHOICES[key])}")
        else:
            given[key] = Path(text) if key == "out" else text
    return Wish(Path(runs[0]), rows=rows, **given)


def show(words: Sequence[str]) -> int:
    """Print a table and, unless one format was asked for, write all three."""
    from calib_bench.system.files import write_bytes

    wish = parse(words)
    name, made = sheet(wish)
    texts = {"latex": latex(made), "markdown": markdown(made), "csv": csv(made)}
    if wish.format:
        print(texts[wish.format], end="")
        return 0
    print(texts["markdown"])
    folder = wish.out or wish.run / "paper"
    for kind, suffix in (("latex", "tex"), ("markdown", "md"), ("csv", "csv")):
        write_bytes(folder / f"{name}.{suffix}", texts[kind].encode())
    print(f"written: {folder / name}.tex, .md, .csv")
    return 0


def sheet(wish: Wish) -> tuple[str, Sheet]:
    """The table wished for, with its name.

    Raises:
        UserError: there is no such table, column or row.
    """
    known = read(wish.run)
    name = wish.table or (MAIN if MAIN in known else next((n for n, t in known.items() if t.paper), next(iter(known))))
    if name not in known:
        raise SettingsError(f"{wish.run} has no table {name!r}: {nearest(name, known)}")
    table = known[name]
    frame = _rows(table, wish)
    names = [c for c in naming(table) if c in frame]
    metrics = _metrics(table, frame, names, wish)
    alike = [c for c in (*names, *COUNTS) if c in frame and len(frame) > 1 and frame[c].nunique(dropna=False) == 1]
    shown = [c for c in names if c not in alike and (c != FLAG or set(frame[c]) != {GOOD})] or names[-1:]
    groups = list(frame.groupby(list(wish.by), sort=False, dropna=False).indices.values()) if wish.by else []
    if groups:
        frame = frame.iloc[[i for group in groups for i in group]].reset_index(drop=True)
    sizes = [len(group) for group in groups] or [len(frame)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    spans = [range(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    bold, told = _bold(wish, frame, metrics, spans) if name == MAIN and wish.best == "yes" else (set(), "")
    same = "; ".join(f"{title(c)}: {number(frame[c].iloc[0])}" for c in alike if number(frame[c].iloc[0]) != "–")
    caption = " ".join(part for part in (f"{table.title}.", told, table.note, f"{same}." if same else "") if part)
    records = frame.to_dict("records")
    rows = [
        ([_called(c, row[c]) for c in shown], [cell(row, c, wish.digits, wish.interval) for c in metrics])
        for row in records
    ]
    kept = [c for c in frame if c in (*shown, *alike) or _stem(str(c)) in metrics]
    return name, Sheet(shown, metrics, rows, bold, set(starts[1:]), caption, f"tab:{name}", frame[kept])


def _called(column: str, value: Any) -> str:
    """A name as papers print it: a baseline by its title, an objective's strength after it."""
    if column not in ("method", "objective") or not isinstance(value, str):
        return number(value)
    from calib_bench import registry

    def one(term: str) -> str:
        name, colon, strength = term.partition(":")
        said = registry.load("baselines", name).title if name in registry.names("baselines") else name.replace("_", " ")
        return f"{said} {strength}" if colon else said

    return " + ".join(one(term) for term in split_terms(value))


def _rows(table: Table, wish: Wish) -> pd.DataFrame:
    """The rows wished for, in the order wished for."""
    frame = table.frame
    for column, values in wish.rows.items():
        if column not in frame:
            hint = nearest(column, (*OPTIONS, *map(str, frame.columns)))
            raise SettingsError(f"{column}= is neither an option of table nor a column of it: {hint}")
        wanted = [_value(v) for v in values]
        present = [_value(v) for v in frame[column].unique()]
        missing = [v for v in wanted if v not in present]
        if missing:
            raise SettingsError(f"no row has {column}={missing[0]}: {nearest(str(missing[0]), map(str, present))}")
        frame = frame[[_value(v) in wanted for v in frame[column]]]
    if wish.sort:
        column = wish.sort.removeprefix("-")
        _check_column(column, frame)
        frame = frame.sort_values(column, ascending=not wish.sort.startswith("-"), kind="stable")
    if not len(frame):
        raise UserError("no row is left: give fewer conditions")
    for column in wish.by:
        _check_column(column, frame)
    return frame.reset_index(drop=True)


def _value(value: object) -> object:
    """Numbers as numbers, all else as text."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)


def _check_column(column: str, frame: pd.DataFrame) -> None:
    if column not in frame:
        raise SettingsError(f"the table has no column {column!r}: {nearest(column, map(str, frame.columns))}")


def _stem(column: str) -> str:
    for end in SIBLINGS:
        column = column.removesuffix(end)
    return column


def _metrics(table: Table, frame: pd.DataFrame, names: Sequence[str], wish: Wish) -> list[str]:
    for column in wish.columns:
        _check_column(column, frame)
    if wish.columns:
        return list(wish.columns)
    folded = {f"{c}{end}" for c in frame for end in SIBLINGS}
    left_out = {*names, *COUNTS, FLAG, *folded}
    every = [str(c) for c in frame if c not in left_out and bool(frame[c].notna().any())]
    return [c for c in every if c in table.first] or every


def _bold(
    wish: Wish, frame: pd.DataFrame, metrics: Sequence[str], spans: Sequence[range]
) -> tuple[set[tuple[int, int]], str]:
    """Cells (row, metric) that are best or cannot be told from it, and the words for the caption."""
    from calib_bench import registry
    from calib_bench.commands import table_ties
    from calib_bench.store.store import Store

    store = Store(wish.run, "read")
    settings = store.settings()
    registry.use_stored(wish.run, settings.plugins, wish.plugins)
    scored, nested = table_ties.scores(store, settings, frame)
    judged = [m for m in metrics if m in ("accuracy", *table_ties.LOW) and all(m in s.metrics for s in scored)]
    bold = {(i, metrics.index(m)) for m in judged for i in table_ties.best(scored, m, nested, spans)}
    alone = [title(m) for m in judged if m not in table_ties.PAIRED or nested]
    seeds = f", for {', '.join(alone)} over seeds alone" if alone else ""
    within = f" within each {', '.join(map(title, wish.by))}" if wish.by else ""
    return bold, (
        f"Bold: the best of each column{within}, and what the data cannot tell from it (paired over seeds and test "
        f"examples{seeds}; Holm-adjusted p at least {ALPHA:g})."
    )


def cell(row: Mapping[Any, Any], column: str, digits: int | None, interval: str) -> str:
    """A number with its interval, to `digits` places or two significant digits of the half width."""
    value, low, high = (row.get(f"{column}{end}", math.nan) for end in ("", "_low", "_high"))
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        return number(value)
    bounded = all(isinstance(v, numbers.Real) and math.isfinite(v) for v in (low, high))
    if not bounded:
        return number(value) if digits is None or isinstance(value, numbers.Integral) else fixed(float(value), digits)
    n = places(low, high) if digits is None else digits
    holm = row.get(f"{column}_holm")
    star = "*" if isinstance(holm, numbers.Real) and float(holm) < ALPHA else ""
    mean = fixed(float(value), n) + star
    if interval == "no":
        return mean
    half = f"{mean} ± {fixed((high - low) / 2, n)}"
    return half if interval == "half" else f"{mean} [{fixed(low, n)}, {fixed(high, n)}]"


def latex(made: Sheet) -> str:
    r"""A booktabs `table`; needs \usepackage{booktabs} and nothing else."""
    heads = " & ".join(escape_latex(title(c)) for c in (*made.names, *made.metrics))
    lines = []
    for i, (names, values) in enumerate(made.rows):
        if i in made.rules:
            lines.append(r"\midrule")
        texts = [_math(escape_latex(v)) for v in values]
        texts = [rf"\textbf{{{v}}}" if (i, j) in made.bold else v for j, v in enumerate(texts)]
        lines.append(" & ".join([*map(escape_latex, names), *texts]) + r" \\")
    body = "\n".join(f"    {line}" for line in lines)
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering\small",
            rf"  \caption{{{_math(escape_latex(made.caption))}}}",
            rf"  \label{{{made.label}}}",
            rf"  \begin{{tabular}}{{{'l' * len(made.names)}{'r' * len(made.metrics)}}}",
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


def markdown(made: Sheet) -> str:
    """A pipe table, caption below."""
    heads = [title(c) for c in (*made.names, *made.metrics)]
    rule = ["---"] * len(made.names) + ["---:"] * len(made.metrics)
    lines = [heads, rule]
    for i, (names, values) in enumerate(made.rows):
        lines.append([*names, *(f"**{v}**" if (i, j) in made.bold else v for j, v in enumerate(values))])
    body = "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
    return f"{body}\n\n{made.caption}\n"


def csv(made: Sheet) -> str:
    """Every number in full, with limits, p-values and, where the best were looked for, `<metric>_best`."""
    frame = made.frame.copy()
    for j, metric in enumerate(made.metrics):
        if made.bold:
            frame[f"{metric}_best"] = [(i, j) in made.bold for i in range(len(frame))]
    return frame.to_csv(index=False, lineterminator="\n")
