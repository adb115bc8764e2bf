"""Rows of a run's history, each once: a run that was cut goes on where the server's history ends.

A server keeps history by lines, and a run's step counts what was logged; so the step at which a resumed run starts
tells how many rows are there, whatever became of the summary. The files that a row names travel apart from it, and may
be missing where the row is not: those are sent again, and a server that has them takes them for what they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

CONTENT = "content_digest"
"""In the history and summary of a page: what its last row was made of."""


def once(run: wandb.Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Log the n-th row as step n, unless the server has it; the summary ends as if all had been logged now."""
    there = run.starting_step if run.resumed else 0
    had: dict[str, Any] = {}
    for step, row in enumerate(rows[:there]):
        had |= {**row, **_files(run, row, step)}
    run.summary.update(had)
    for row in rows[there:]:
        run.log(dict(row))


def page(run: wandb.Run, row: Mapping[str, Any], content: str) -> None:
    """Log the row of a page, a run whose content may change: at the next step, unless the last is of this content."""
    if run.resumed and run.summary.get(CONTENT) == content:
        _files(run, row, run.starting_step - 1)
    else:
        run.log({**row, CONTENT: content})


def _files(run: wandb.Run, row: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Send the tables and pictures of a row whose numbers are there; returns what a history says of them, by name."""
    from wandb.sdk.data_types.base_types.media import Media
    from wandb.sdk.data_types.utils import val_to_json

    media = {name: value for name, value in row.items() if isinstance(value, Media)}
    return {name: val_to_json(run, name, value, namespace=step) for name, value in media.items()}
