"""Figures to files: PNG, SVG and PDF of each, the same bytes for the same analysis."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from calib_bench.study import Analysis, Detail, Study

STYLE = Path(__file__).with_name("calib_bench.mplstyle")
_UNDATED: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults and the project's style over them, whatever the user has set."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc_file(STYLE)
        yield


def render(figure: Figure) -> dict[str, bytes]:
    """The figure as files, by suffix."""
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")  # laid out once, not once a file
    files = {}
    for suffix, metadata in _UNDATED.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        files[suffix] = buffer.getvalue()
    return files


def save(study: Study, analysis: Analysis, folder: Path) -> dict[str, str]:
    """Draws and writes every figure of the study into `folder`; returns the SVG text of each by name, in order."""
    drawn = {}
    with style():
        for name, draw in study.figures.items():
            figure = draw(analysis)
            if analysis.data.get("limit") is not None:
                figure.text(
                    0.995, 0.005, f"smoke run, limit={analysis.data['limit']}", ha="right", va="bottom", fontsize=7
                )
            files = render(figure)
            for suffix, content in files.items():
                write_bytes(folder / f"{name}.{suffix}", content)
            drawn[name] = files["svg"].decode()
    return drawn


def details(study: Study, analysis: Analysis) -> list[tuple[Detail, str]]:
    """What the study tells of each beta, task..., each with the SVG text of its figure, empty where it has none."""
    found = []
    with style():
        for detail in study.details(analysis) if study.details else ():
            svg = ""
            if detail.figure is not None:
                buffer = io.BytesIO()
                detail.figure().savefig(buffer, format="svg", metadata=_UNDATED["svg"])
                svg = buffer.getvalue().decode()
            found.append((detail, svg))
    return found
