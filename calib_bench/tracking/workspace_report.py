"""A W&B Report of a study: verdict, run sets and panels over beta, the study's tables and figures.

Built from the store and the logged runs' names alone, and validated by wandb-workspaces' own models, which needs no
network; publishing it does. Its specification is kept beside the HTML page: `<run>/report/wandb-report.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from calib_bench.analysis.format import title
from calib_bench.core.settings import Question, Settings
from calib_bench.core.study import Analysis, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.errors import ResourceError, SettingsError
from calib_bench.report import figures
from calib_bench.report.table_view import TableView
from calib_bench.report.tables import markdown_rows
from calib_bench.system import files
from calib_bench.tracking import names

ROWS = 40
"""Rows of a table that the report shows; W&B has them all in the analysis run."""
OVER_BETA = ("log_loss", "accuracy", "brier", "ece")
CURVES = ("train_loss", "selection_log_loss", "logit_norm", "weight_norm")


def build(study: Study, settings: Settings, analysis: Analysis, entity: str = "") -> Any:
    """The report, a `wandb_workspaces.reports.v2.Report`; building it makes no call.

    Args:
        entity: whose project it is in; run sets name their project by it, and where it is empty they show the project
            that the report is in.

    Raises:
        SettingsError: wandb-workspaces is not installed.
    """
    wr = _workspaces()
    shown = figures.existing(study, analysis)
    blocks = [
        wr.P(study.question),
        wr.H2("Verdict"),
        *(wr.P(sentence) for sentence in analysis.summary or analysis.verdict[:1]),
        wr.UnorderedList(items=list(analysis.verdict)),
        *([wr.H2("Read this first"), wr.UnorderedList(items=list(analysis.warnings))] if analysis.warnings else []),
        wr.H2("Over beta"),
        wr.P("Each point is a trial at its chosen rate, on the test split, before and after temperature scaling."),
        wr.PanelGrid(runsets=_trials(wr, settings, entity), panels=list(_scatter(wr))),
        wr.H2("Training"),
        wr.P("Curves of the same trials over epochs, grouped by beta."),
        wr.PanelGrid(runsets=_trials(wr, settings, entity, grouped=True), panels=list(_curves(wr))),
        wr.H2("Figures"),
        wr.PanelGrid(
            runsets=[_runset(wr, settings, entity, "analysis", names.ANALYSE)],
            panels=[wr.MediaBrowser(media_keys=[f"figures/{name}" for name in shown], num_columns=1)],
        ),
        wr.H2("Tables"),
        *(block for table in analysis.tables.values() for block in _table(wr, table)),
        wr.H2("Provenance"),
        wr.CodeBlock(code=settings.command(), language="python"),
    ]
    return wr.Report(
        project=names.project(),
        entity=entity or os.environ.get("WANDB_ENTITY", ""),
        title=f"{settings.study} of {settings.task}"[:128],
        description=study.question,
        blocks=blocks,
        width="fluid",
    )


def specification(report: Any) -> dict[str, Any]:
    """What publishing would send, validated: W&B's own names of fields."""
    model = report._to_model()
    content: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    return content


def save(folder: Path, study: Study, settings: Settings, analysis: Analysis) -> Path:
    """Build and validate the report without any call, and write its specification; returns where."""
    path = folder / "report" / "wandb-report.json"
    files.write_json(path, specification(build(study, settings, analysis)))
    return path


def publish(folder: Path, study: Study, settings: Settings, analysis: Analysis) -> str:
    """Publish the report of a run folder; returns its address.

    What was published from this folder before, into the same project, is updated, unless it was deleted there.

    Raises:
        ResourceError: the server cannot be reached, or takes no report.
    """
    import wandb

    try:
        api = wandb.Api(timeout=int(max(1, settings.wandb_wait)))
        entity = os.environ.get("WANDB_ENTITY") or api.default_entity
        if not entity:
            raise ResourceError("no entity is known: set WANDB_ENTITY, or log in with `wandb login`")
        report = build(study, settings, analysis, entity)
        kept = folder / "wandb" / "published.json"
        ids = _ids(kept)
        place = f"{api.settings['base_url']} {entity}/{names.project()}"
        if place in ids and any(published.id == ids[place] for published in api.reports(f"{entity}/{names.project()}")):
            report.id = ids[place]
        report.save()
        files.write_json(kept, {**ids, place: report.id})
        return str(report.url)
    except ResourceError:
        raise
    # wandb fails in ways beyond its own exceptions; the specification is written all the same.
    except Exception as error:
        raise ResourceError(
            f"the W&B report was not published ({type(error).__name__}: {' '.join(str(error).split())[:300]}); its "
            f"specification is saved"
        ) from error


def _ids(path: Path) -> dict[str, str]:
    """Published reports' ids, by server, entity and project."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


def _workspaces() -> Any:
    os.environ.setdefault("WANDB_SILENT", "true")
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise SettingsError('--wandb needs wandb-workspaces: pip install "calib_bench[wandb]"') from None
    return reports


def _runset(wr: Any, settings: Question, entity: str, name: str, job_type: str, also: str = "", **more: Any) -> Any:
    group = names.group(settings)
    filters = f"Metric('group') = '{group}' and Metric('jobType') = '{job_type}'{also}"
    where = {"entity": entity, "project": names.project()} if entity else {}  # to be looked up: needs the network
    return wr.Runset(name=name, filters=filters, **where, **more)


def _trials(wr: Any, settings: Settings, entity: str, grouped: bool = False) -> list[Any]:
    """The trials' runs, a set an objective, so that each has its colour."""
    spaces = settings.spaces.values()
    objectives = list(dict.fromkeys(text for space in spaces for text in space.get("objective", ())))
    more: dict[str, Any] = {"order": [wr.OrderBy(wr.Config("beta"), ascending=True)]}
    more |= {"groupby": ["config.beta"]} if grouped else {}
    return [
        _runset(wr, settings, entity, text, names.TRAIN, f" and Config('objective') = '{text}'", **more)
        for text in objectives or [CROSS_ENTROPY]
    ]


def _scatter(wr: Any) -> Iterator[Any]:
    for row, metric in enumerate(OVER_BETA):
        for column, method in enumerate(("raw", "temperature_scaling")):
            yield wr.ScatterPlot(
                title=f"{title(metric)}, {title(method)}",
                x=wr.Config("beta"),
                y=wr.SummaryMetric(f"{method}/{metric}"),
                log_x=True,
                layout=wr.Layout(x=12 * column, y=8 * row, w=12, h=8),
            )
    yield wr.ScatterPlot(
        title="kappa = beta T*",
        x=wr.Config("beta"),
        y=wr.SummaryMetric("temperature_scaling/kappa"),
        log_x=True,
        log_y=True,
        layout=wr.Layout(x=0, y=8 * len(OVER_BETA), w=12, h=8),
    )


def _curves(wr: Any) -> Iterator[Any]:
    for n, column in enumerate(CURVES):
        yield wr.LinePlot(
            title=title(column),
            x="epoch",
            y=[column],
            log_y=column != "selection_log_loss",
            layout=wr.Layout(x=12 * (n % 2), y=8 * (n // 2), w=12, h=8),
        )


def _table(wr: Any, table: Table) -> Iterator[Any]:
    view = TableView.of(table).head(ROWS)
    yield wr.H3(view.title)
    yield wr.MarkdownBlock(text=f"{markdown_rows(view)}\n\n{view.note}")
