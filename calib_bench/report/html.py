"""One self-contained HTML page: verdict, warnings, figures, tables, provenance; no script, nothing fetched."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from calib_bench.report.tables import cells, title

if TYPE_CHECKING:
    from calib_bench.settings import Settings
    from calib_bench.study import Analysis, Study, Table

MOST_ROWS = 200
"""Rows of a table on the page; the CSV has them all."""
OPEN_ROWS = 25
"""Tables longer than this start folded."""


def inline(svg: str, name: str) -> str:
    """An SVG file as an element of the page: no prologue or metadata, ids of its own, scaled to the page's width."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    return re.sub(r'<svg\s([^>]*?)\bwidth="([\d.]+)pt"', r'<svg role="img" style="max-width:\2pt" \1', body, count=1)


def page(
    study: Study, settings: Settings, analysis: Analysis, figures: Mapping[str, str], provenance: Mapping[str, Any]
) -> str:
    """The text of a study's page, see `document`; the provenance is what `Store.provenance` gives."""
    command = shlex.join(["python", "-m", "calib_bench", "run", *settings.words()])
    return document(f"{settings.study} of {settings.task}", study.question, command, analysis, figures, provenance)


def document(
    title_: str,
    question: str,
    command: str,
    analysis: Analysis,
    figures: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> str:
    """A page's text.

    Args:
        title_: of the page.
        question: what it answers, one line.
        command: what made it.
        figures: SVG files by name.
        provenance: nested values are shown as JSON.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("calib_bench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=title_,
        question=question,
        verdict=analysis.verdict,
        warnings=analysis.warnings,
        figures=[(name, title(name), Markup(inline(svg, name))) for name, svg in figures.items()],
        tables=[_table(name, table) for name, table in analysis.tables.items()],
        command=command,
        provenance=[(title(str(key)), _text(value)) for key, value in provenance.items()],
    )


def _table(name: str, table: Table) -> dict[str, Any]:
    headers, rows = cells(table.frame.head(MOST_ROWS))
    cut = f" The first {MOST_ROWS} of {len(table.frame)} rows." if len(table.frame) > MOST_ROWS else ""
    return {
        "name": name,
        "title": table.title,
        "note": table.note + cut,
        "headers": headers,
        "rows": rows,
        "open": len(rows) <= OPEN_ROWS,
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=1, sort_keys=True, default=str)
