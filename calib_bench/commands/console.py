"""What commands print: warnings, the table and sentences at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from calib_bench.commands.table import MAIN
from calib_bench.core.study import Analysis, Table
from calib_bench.execute.progress import Display
from calib_bench.report.tables import rich_table


def open_console(stderr: bool = False) -> Console:
    """A console as wide as the terminal, or of 140 columns where the output goes elsewhere.

    In a notebook it is plain output: rich's own display of notebooks passes by a redirected sys.stdout.
    """
    plain = False if Console().is_jupyter else None
    console = Console(highlight=False, soft_wrap=True, stderr=stderr, force_jupyter=False, force_terminal=plain)
    if not console.is_terminal:
        console.width = 140
    return console


def status(console: Console, text: str) -> AbstractContextManager[object]:
    """A context that shows, on a terminal, that something takes time."""
    return console.status(text) if console.is_terminal else nullcontext()


def warn(display: Display, text: str) -> None:
    """Print a warning while trials train, and tell those who follow the log."""
    display.say("warning", message=text)
    display.console.print(f"[yellow]warning:[/] {escape(text)}")


def print_results(analysis: Analysis, page: Path, console: Console, printed: Sequence[str] = ()) -> None:
    """Print what a study found: its first table for papers, verdict and warnings, and where its page is.

    Where that table compares nothing, as with one arm, it is the table of calibrators. Warnings that repeat a note
    that was printed before are left out.
    """
    kept = tuple(text for text in analysis.warnings if not any(note in text for note in printed))
    analysis = replace(analysis, warnings=kept)
    table = next((table for table in analysis.tables.values() if table.paper), None)
    if table is not None and table.first and table.frame.columns.intersection(table.first).empty:
        table = analysis.tables.get(MAIN, table)
    print_analysis(analysis, table, "warning", page, console)


def print_analysis(analysis: Analysis, table: Table | None, label: str, page: Path, console: Console) -> None:
    """Print a table, the verdict, the warnings after a label such as "note", and where the page is."""
    if table is not None:
        console.print(rich_table(table))
    for sentence in analysis.verdict:
        console.print(f"- {sentence}", markup=False)
    for warning in analysis.warnings:
        console.print(f"[yellow]{label}:[/] {escape(warning)}")
    console.print(f"report: {page}", markup=False)
