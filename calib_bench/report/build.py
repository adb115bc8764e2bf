"""The report: figures, tables and one HTML page, rebuilt from the store alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Study
from calib_bench.execute import analysis_pool
from calib_bench.planning import plan as planning
from calib_bench.report import failed_trials, figures, html, reuse, tables
from calib_bench.report.provenance import provenance
from calib_bench.store.store import Store
from calib_bench.system.files import write_bytes


def analyse(store: Store, study: Study, settings: Settings) -> Analysis:
    """The study's analysis of the store, failed trials included; many fits and measurements run on worker processes.

    Raises:
        StoreError: a stored trial cannot be read.
        ResourceError: a worker process died.
        SettingsError: a plug-in returns something else.
    """
    with analysis_pool.workers(settings):
        analysis = Analysis.checked(study.analyse(settings, store), settings.study)
        analysis = failed_trials.including(analysis, failed_trials.of_study(study, settings, store))
    return _with_notes(analysis, store)


def _with_notes(analysis: Analysis, store: Store) -> Analysis:
    """The analysis with the notes on the data among its warnings."""
    notes = [f"Data: {note}." for split in store.splits.every() for note in split.get("notes", {}).values()]
    return replace(analysis, warnings=tuple(dict.fromkeys((*analysis.warnings, *notes))))


def renew(store: Store, study: Study, settings: Settings) -> Analysis:
    """`analyse` and `build`, on the same worker processes; what the report was made of is kept, see `reuse`."""
    with analysis_pool.workers(settings):
        analysis = analyse(store, study, settings)
        build(store, study, settings, analysis)
    reuse.keep(store, settings.model_dump(mode="json"), planning.read(settings, study, store), analysis)
    return analysis


def build(store: Store, study: Study, settings: Settings, analysis: Analysis | None = None) -> Path:
    """Writes report.html, figures/ and tables/ under `<run>/report`, each file whole or not at all.

    The same store gives the same bytes, wherever and whenever it is done.

    Args:
        analysis: what `study.analyse` gave, if it was called already.

    Returns:
        The path of report.html.

    Raises:
        StoreError: the store cannot be read or the folder cannot be written.
    """

    folder = store.path / "report"
    with analysis_pool.workers(settings):
        analysis = analyse(store, study, settings) if analysis is None else analysis
        files, about = figures.drawn(study, analysis), figures.rendered_details(study, analysis)
        tables.save(analysis.tables, folder / "tables")
        origin = provenance(store, settings, planning.read(settings, study, store))
        drawn, details = figures.save(study, analysis, folder / "figures", files), list(about)
    path = folder / "report.html"
    write_bytes(path, html.page(study, settings, analysis, drawn, origin, details).encode())
    return path
