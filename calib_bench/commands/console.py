"""What commands print: warnings, durations, the tables and sentences at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from calib_bench.core.settings import Settings
from calib_bench.execute.progress import Display
from calib_bench.store.store import Store

if TYPE_CHECKING:
    from calib_bench.core.study import Analysis


def open_console(stderr: bool = False) -> Console:
    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=140, stderr=stderr)


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:,.1f} hours"


def warn(display: Display, text: str) -> None:
    display.say("warning", message=text)
    display.console.print(f"[yellow]warning:[/] {plain(text)}")


class Quiet:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def print_results(settings: Settings, analysis: Analysis, store: Store, console: Console) -> None:
    from calib_bench.report.tables import rich_table

    first = next((table for table in analysis.tables.values() if table.paper), None)
    if first is not None:
        console.print(rich_table(first))
    for sentence in analysis.verdict:
        console.print(f"- {sentence}", markup=False)
    for warning in analysis.warnings:
        console.print(f"[yellow]warning:[/] {plain(warning)}")
    console.print(f"report: {store.path / 'report' / 'report.html'}", markup=False)


def plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
