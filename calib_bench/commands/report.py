"""`report` and `publish`: a run folder's report, made again from what it stores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench import registry
from calib_bench.commands.console import open_console, print_results
from calib_bench.core.settings import Settings
from calib_bench.errors import UserError
from calib_bench.execute import analysis_pool, worker
from calib_bench.store.store import Store

if TYPE_CHECKING:
    from calib_bench.core.study import Analysis, Study


def report(folder: str, plugins: tuple[Path, ...] = (), wandb: str | None = None) -> int:
    """Rebuild the report of a run folder from what it stores.

    Args:
        plugins: folders of plug-ins. Those that the run folder names are code, and run only when they are given here.
        wandb: build a W&B Report too: "online" publishes it, else its specification is kept beside the page; "" does
            as the run did.
    """
    console = open_console()
    store, study, settings, analysis = _rebuilt(Path(folder), plugins)
    print_results(settings, analysis, store, console)
    if wandb is not None:
        from calib_bench.tracking import workspace_report

        path = workspace_report.save(store.path, study, settings, analysis)
        console.print(f"W&B Report: {path}", markup=False)
        if (wandb or settings.wandb) == "online":
            console.print(f"published: {workspace_report.publish(store.path, study, settings, analysis)}", markup=False)
    return 0


def published(folder: Path, to: Path, name: str, plugins: tuple[Path, ...] = (), check: bool = False) -> int:
    """Rebuild the report of a run folder and put what belongs in a repository into `<to>/<name>`."""
    from calib_bench.commands import publish

    publish.refuse_smoke(folder, Store(folder, "read").settings(), check)  # before it takes time
    store, study, settings, analysis = _rebuilt(folder, plugins)
    where = publish.publish(store, study, settings, analysis, to, name, check)
    open_console().print(f"published: {where / 'README.md'}", markup=False)
    return 0


def _rebuilt(folder: Path, plugins: tuple[Path, ...] = ()) -> tuple[Store, Study, Settings, Analysis]:
    from calib_bench.report import build as reporting

    store = Store(folder, "read")
    settings = store.settings()
    registry.use_stored(folder, settings.plugins, plugins)
    worker.prepare(settings)
    study = registry.study(settings.study)
    failures = store.failures.now()
    wanted = study.plan(settings, store.scores(settings.select))
    missing = [trial for trial in wanted if trial.key not in failures and not store.has(trial)]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing):,} of the study's trials: finish it with\n  {store.provenance()['command']}"
        )
    with analysis_pool.workers(settings):
        analysis = reporting.analyse(store, study, settings)
        reporting.build(store, study, settings, analysis)
    return store, study, settings, analysis
