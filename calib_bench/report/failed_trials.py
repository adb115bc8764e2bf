"""What a report says of trials that could not be finished: a warning that names them, and a table with their causes."""

from __future__ import annotations

from dataclasses import replace

from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Study, Table
from calib_bench.errors import counted
from calib_bench.planning import plan as planning
from calib_bench.store.failures import Failure
from calib_bench.store.store import Store

NAMED = 5
"""Trials that the warning names; the table has them all."""


def of_study(study: Study, settings: Settings, store: Store) -> list[Failure]:
    """Failures of trials that the study wants and the store does not hold."""
    by_key = store.failures.now()
    if not by_key:
        return []
    wanted = planning.read(settings, study, store)
    return [by_key[trial.key] for trial in wanted if trial.key in by_key and not store.has(trial)]


def including(analysis: Analysis, failures: list[Failure]) -> Analysis:
    """The analysis with one warning and one table more, if anything failed."""
    if not failures:
        return analysis
    listed = "; ".join(failure.describe() for failure in failures[:NAMED])
    more = f"; and {len(failures) - NAMED} more" if len(failures) > NAMED else ""
    warning = (
        f"Failed: {counted(len(failures), 'trial')}, missing from every comparison; where a rate was to "
        f"be chosen, a rate with a failed trial was not. Run the same command to try again. {listed}{more}."
    )
    return replace(
        analysis, warnings=(warning, *analysis.warnings), tables={**analysis.tables, "failures": table(failures)}
    )


def table(failures: list[Failure]) -> Table:
    """One row a failed trial."""
    import pandas as pd

    names = ("model", "beta", "objective", "lr", "lr_unit", "seed", "epochs")
    rows = [
        {**{name: getattr(failure.trial, name) for name in names}, "how": failure.kind, "cause": failure.cause,
         "key": failure.trial.key}
        for failure in failures
    ]  # fmt: skip
    note = (
        "How: it raised an exception, ran out of memory, its process was killed, or it stalled, making no progress. "
        "The traceback is in the run folder, under failed/."
    )
    return Table("Trials that could not be finished", pd.DataFrame(rows), note)
