"""One self-contained HTML page: summary, sections, provenance; nothing is fetched.

Drawings and long tables are compressed in the page. Its small script unpacks them and sorts tables; without it the page
shows pictures from the files beside it, and the first rows of each table.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.analysis.format import number, title
from calib_bench.analysis.table_notes import SMOKE
from calib_bench.core.settings import Settings
from calib_bench.core.study import DETAILS, Analysis, Detail, Section, Study
from calib_bench.report.page_tables import MOST_ROWS, PageTable, page_table
from calib_bench.report.terms import Terms

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


__all__ = ["MOST_ROWS", "document", "inline", "page"]
OPEN_ROWS = 30
"""Tables longer than this start folded, but for the first of a section."""
PLAIN_ROWS = 10
"""Rows of a table that are there without the page's script; the others are compressed."""
LEAD = 3
"""Sentences of a verdict that stand first where a study gives no summary."""
Drawn = Mapping[str, str]
"""SVG text of each figure by name."""


@dataclass(frozen=True)
class Figure:
    """A drawing with its caption; `files` names what lies beside the page, nothing when it is the page's own."""

    caption: str
    svg: str
    files: str = ""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points."""
        wide, high = re.findall(r"[\d.]+", self.svg[self.svg.index("viewBox") :])[2:4]
        return float(wide), float(high)


@dataclass(frozen=True)
class Part:
    """A section with what it shows, in order: figures, tables, and pairs of a Detail and its contents."""

    id: str
    title: str
    text: str
    items: list[tuple[str, Any]]


def page(
    study: Study,
    settings: Settings,
    analysis: Analysis,
    figures: Drawn,
    provenance: Mapping[str, Any],
    details: Sequence[tuple[Detail, str]] = (),
) -> str:
    """The text of a study's page, see `document`.

    Args:
        provenance: what `report.provenance.provenance` gives.
        details: what `report.figures.details` gives.
    """
    full = settings.command()
    command = str(provenance.get("command", full))
    origin = {**provenance, "command in full": full}
    captions = {name: inspect.getdoc(draw) or "" for name, draw in study.figures.items() if inspect.isfunction(draw)}
    name = title(settings.study)
    head = f"{name[:1].upper()}{name[1:]} on {settings.task}".replace("Sgd", "SGD")
    return document(
        head, study.question, command, analysis, figures, origin,
        sections=study.sections, captions=captions, details=details, facts=_facts(settings, provenance),
    )  # fmt: skip


def document(
    title_: str,
    question: str,
    command: str,
    analysis: Analysis,
    figures: Drawn,
    provenance: Mapping[str, Any],
    sections: Sequence[Section] = (),
    captions: Mapping[str, str] | None = None,
    details: Sequence[tuple[Detail, str]] = (),
    facts: Sequence[tuple[str, str]] = (),
    progress: float | None = None,
) -> str:
    """A page's text.

    Args:
        title_: of the page.
        question: what it answers, one line.
        command: what made it.
        figures: SVG files by name.
        provenance: mappings and lists, nested as they like.
        sections: the order; what none of them names comes after them.
        captions: of figures; their first paragraph is shown.
        details: what is folded in the section that holds `DETAILS`, each with its SVG text.
        facts: what stands under the title: label and value.
        progress: share done, of a page that tells how far a run is.
    """
    lead = analysis.summary or analysis.verdict[:LEAD]
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = _parts(analysis, figures, sections, captions or {}, details)
    return _environment().get_template("page.html").render(
        title=title_,
        question=question,
        facts=facts,
        progress=progress,
        lead=lead,
        verdict=analysis.verdict if analysis.summary else analysis.verdict[LEAD:],
        warnings=[text for text in analysis.warnings if not text.startswith(SMOKE)],
        limit=analysis.result.limit,
        parts=parts,
        terms=Terms(),
        command=command,
        provenance={key: value for key, value in provenance.items() if value != command},
        style=_asset("page.css"),
        script=script,
        digest=digest,
    )  # fmt: skip


def _parts(
    analysis: Analysis,
    figures: Drawn,
    sections: Sequence[Section],
    captions: Mapping[str, str],
    details: Sequence[tuple[Detail, str]],
) -> list[Part]:
    """The sections that have anything to show, then what they do not name."""
    contents = _Contents(analysis, figures, captions, details)
    parts = []
    for i, section in enumerate((*sections, *_unnamed(analysis, figures, sections, bool(details)))):
        if items := contents.of(section):
            parts.append(Part(f"part-{i}", section.title, section.text, items))
    return parts


def _unnamed(analysis: Analysis, figures: Drawn, sections: Sequence[Section], has_details: bool) -> Iterator[Section]:
    """Sections for the details, figures and tables that no section names."""
    named = {item for section in sections for item in section.items}
    more = not named.isdisjoint({*figures, *analysis.tables})
    if has_details and DETAILS not in named:
        yield Section("Details", (DETAILS,))
    rest = [tuple(name for name in drawn if name not in named) for drawn in (figures, analysis.tables)]
    titles = ("More figures", "More tables") if more else ("Results", "Tables")
    yield from map(Section, titles, rest)


@dataclass
class _Contents:
    """What sections may show, each figure and table once; `shown` holds the names that earlier sections named."""

    analysis: Analysis
    figures: Drawn
    captions: Mapping[str, str]
    details: Sequence[tuple[Detail, str]]
    shown: set[str] = field(default_factory=set)

    def of(self, section: Section) -> list[tuple[str, Any]]:
        """The items of a section, kind and content, less those of sections before it."""
        items: list[tuple[str, Any]] = []
        for name in section.items:
            if name == DETAILS:
                items += [("detail", _detail(i, detail, svg)) for i, (detail, svg) in enumerate(self.details)]
            if name not in self.shown:
                items += self._named(name)
            self.shown.add(name)
        return items

    def _named(self, name: str) -> Iterator[tuple[str, Any]]:
        """The figure and the table of that name, as far as there are any; a table without rows says nothing."""
        if name in self.figures:
            yield "figure", Figure(self._caption(name), inline(self.figures[name], name), name)
        if name in self.analysis.tables and len(self.analysis.tables[name].frame):
            yield "table", page_table(name, self.analysis.tables[name])

    def _caption(self, name: str) -> str:
        first_paragraph = re.split(r"\n\s*\n", self.captions.get(name, ""))[0]
        return first_paragraph.replace("\n", " ") or title(name)


def _detail(i: int, detail: Detail, svg: str) -> tuple[Detail, Figure | None, PageTable | None]:
    drawn = Figure("", inline(svg, f"detail-{i}")) if svg else None
    return detail, drawn, page_table(f"detail-{i}", detail.table) if detail.table is not None else None


def _facts(settings: Settings, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Label and value of the main facts of a run, for the top of its page; unknown ones are left out."""
    training = provenance.get("training") or {}
    facts = [
        ("model", ", ".join(settings.model)),
        ("seeds", str(len(settings.seed)) if settings.seed else ""),
        ("test examples", _test_examples(provenance)),
        ("trials", f"{training['trials']:,}" if training else ""),
        ("device time", str(training.get("device time", ""))),
    ]
    return [(label, value) for label, value in facts if value]


def _test_examples(provenance: Mapping[str, Any]) -> str:
    """The number of test examples, "100 to 120" where splits differ; empty where it is not known."""
    sizes = {split.get("sizes", {}).get("test", 0) for split in provenance.get("data", ())} - {0}
    if not sizes:
        return ""
    return " to ".join(f"{n:,}" for n in sorted({min(sizes), max(sizes)}))


def inline(svg: str, name: str) -> str:
    """An SVG file as an element of the page: no prologue, style or metadata, ids of its own, scaled to the page.

    Its white paper becomes transparent, so that the page may turn its ink over on dark.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body)
    body = re.sub(r"([1-9]\d*\.\d\d)\d+", r"\1", body)  # hundredths of a point
    body = re.sub(r'(<g id="patch_\d+">\s*<path [^>]*style="fill: )#ffffff"', r'\1none"', body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    return re.sub(
        r'<svg\s([^>]*?)\bwidth="[\d.]+pt"([^>]*?)\bheight="[\d.]+pt"',
        r'<svg role="img" \1\2',
        body,
        count=1,
    )


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("calib_bench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"raw": Markup, "title_of": title, "plain": _plain, "soft": _soft, "packed": packed}
    environment.globals |= {"open_rows": OPEN_ROWS, "plain_rows": PLAIN_ROWS}
    return environment


def packed(markup: str) -> Markup:
    """Markup as an element that the page's script replaces by it: compressed, in base64."""
    from markupsafe import Markup

    data = base64.b64encode(gzip.compress(str(markup).encode(), mtime=0)).decode()
    return Markup('<script type="application/gzip" class="packed">{}</script>').format(Markup(data))


def _soft(text: str) -> Markup:
    """A name that may be broken after its underscores."""
    from markupsafe import Markup

    return Markup("_<wbr>").join(text.split("_"))


def _plain(value: object) -> str:
    """A leaf of the provenance."""
    return "yes" if value is True else "no" if value is False else number(value)
