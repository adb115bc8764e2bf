"""What mkdocs is told of this repository: which of its files are pages, and which pages are made from the code.

The site has the pages of docs/, the README as its first page, the repository's other pages, the published studies, and
a reference made by `reference_pages`. Links are written as for plain files and rewritten to where pages are.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

import notebook_page
import reference_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from calib_bench.report.glossary import GLOSSARY

ROOT = Path(__file__).parents[2]
PLACES = {"README.md": "index.md", "docs/README.md": "contents.md"}
"""Pages that have another place on the site, by their path in the repository."""
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
EVERYDAY = {
    "beta",
    "raw",
    "reference",
    "degree",
    "equivalent",
    "established",
    "suggestive",
    "inconclusive",
    "collapsed",
}
"""Terms that are common words: a mark at each would tire the eye."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
LIST = re.compile(r"(?m)^((?![-|#>]|\s|\d+\.).+\n)(?=(?:-|1\.) )")
"""A line before a list that begins without an empty line, which not every reader of Markdown takes for a list."""
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of the site: those of docs/, of the repository beside it, and the generated ones."""
    for source, place in PLACES.items():
        text = (ROOT / source).read_text()
        if (old := files.get_file_from_path(source.removeprefix("docs/"))) is not None:
            files.remove(old)
        files.append(File.generated(config, place, content=text))
    tutorial = files.get_file_from_path("tutorial.ipynb")
    if tutorial is not None:
        files.remove(tutorial)
        files.append(
            File.generated(config, "tutorial.md", content=notebook_page.page(ROOT / "docs" / "tutorial.ipynb"))
        )
    for path in sorted(_repository_files()):
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path)))
    for place, text in reference_pages.pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def _repository_files() -> list[Path]:
    reports = [path for path in (ROOT / "reports").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    return [*(ROOT / name for name in BESIDE), *reports]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links rewritten, and the glossary's sentences at its terms."""
    source = _source_of(page.file.src_uri)
    parts = FENCE.split(markdown)
    parts[::2] = [
        LINK.sub(lambda match: _relinked(match, source, files), LIST.sub(r"\1\n", part)) for part in parts[::2]
    ]
    terms = {form: line for term, line in GLOSSARY.items() if term not in EVERYDAY for form in (term, term.upper())}
    return "\n".join(["".join(parts), "", *(f"*[{term}]: {line}" for term, line in terms.items())])


def _source_of(place: str) -> str:
    """The path in the repository of the file that is at a place of the site."""
    for source, target in PLACES.items():
        if place == target:
            return source
    return place if (ROOT / place).is_file() and not (ROOT / "docs" / place).is_file() else f"docs/{place}"


def _relinked(match: re.Match[str], source: str, files: Files) -> str:
    """A link of a file, as it must be on the site; words alone where its target is of the repository alone."""
    mark, words, target, anchor = match[1], match[2], match[3], match[4] or ""
    if ":" in target:
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    place = PLACES.get(path, path.removeprefix("docs/").replace("tutorial.ipynb", "tutorial.md"))
    if files.get_file_from_path(place) is None and (ROOT / path).exists():
        return words
    here = PLACES.get(source, source.removeprefix("docs/"))
    return f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})"
