"""Figures to files: PNG, SVG and PDF of each, the same bytes for the same analysis."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from calib_bench.core.study import Analysis, Detail, Study
from calib_bench.execute import analysis_pool
from calib_bench.report.pdf_fonts import shared_subsets
from calib_bench.system.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Result = TypeVar("Result")
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
        dict.update(cast("dict[str, Any]", matplotlib.rcParams), _settings())  # validated once
        yield


@cache
def _settings() -> dict[str, Any]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc_file(STYLE)
        # As a plain dict: to look up "backend" would choose and load one.
        return {
            name: value for name, value in dict.items(matplotlib.rcParams) if name not in ("backend", "interactive")
        }


def render(figure: Figure, suffixes: Iterable[str] = tuple(_UNDATED)) -> dict[str, bytes]:
    """The figure as files, by suffix.

    Laid out once and drawn once a file: `Figure.savefig` would draw a figure with a layout twice for each. To be called
    inside `style`; the figure is of no use for more afterwards.
    """
    import matplotlib
    from matplotlib.backends import backend_agg, backend_pdf, backend_svg

    prints = {
        "png": lambda to, about: backend_agg.FigureCanvasAgg(figure).print_png(to, metadata=about),
        "svg": lambda to, about: backend_svg.FigureCanvasSVG(figure).print_svg(to, metadata=about),
        "pdf": lambda to, about: backend_pdf.FigureCanvasPdf(figure).print_pdf(to, metadata=about),
    }
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine("none")
    files = {}
    for suffix in suffixes:
        figure.set_dpi(matplotlib.rcParams["savefig.dpi"])
        buffer = io.BytesIO()
        with shared_subsets():
            prints[suffix](buffer, _UNDATED[suffix])
        files[suffix] = buffer.getvalue()
    return files


def existing(study: Study, analysis: Analysis) -> list[str]:
    """Names of the study's figures that are not empty, in order."""
    with style():
        return [name for name, draw in study.figures.items() if draw(analysis) is not None]


def drawn(study: Study, analysis: Analysis) -> Iterator[dict[str, bytes]]:
    """Files of every figure of the study, by suffix, in order, drawn by worker processes if any are running."""
    return _each(
        partial(_files, analysis.result.limit),
        [partial(draw, analysis) for draw in study.figures.values()],
    )


def save(
    study: Study, analysis: Analysis, folder: Path, files: Iterable[dict[str, bytes]] | None = None
) -> dict[str, str]:
    """Writes every figure of the study that there is into `folder`; returns the SVG text of each by name, in order.

    Args:
        files: what `drawn` gives, if it was called already.
    """
    svg = {}
    for name, by_suffix in zip(study.figures, drawn(study, analysis) if files is None else files, strict=True):
        for suffix in _UNDATED:
            path = folder / f"{name}.{suffix}"
            if suffix in by_suffix:
                write_bytes(path, by_suffix[suffix])
            else:
                path.unlink(missing_ok=True)
        if "svg" in by_suffix:
            svg[name] = by_suffix["svg"].decode()
    return svg


def details(study: Study, analysis: Analysis) -> list[tuple[Detail, str]]:
    """The study's details, as one per beta or task, each with the SVG text of its figure; "" without a figure."""
    return list(rendered_details(study, analysis))


def rendered_details(study: Study, analysis: Analysis) -> Iterator[tuple[Detail, str]]:
    """Iterator over `details`, whose figures are drawn by worker processes if any are running."""
    all_details = list(study.details(analysis)) if study.details else []
    texts = _each(_svg, [detail.figure for detail in all_details if detail.figure is not None])
    return ((detail, next(texts) if detail.figure is not None else "") for detail in all_details)


Draw = Callable[[], "Figure | None"]


def _each(make: Callable[[Draw], Result], draws: list[Draw]) -> Iterator[Result]:
    """make(draw) of each: by workers too, if there are any by now and the drawings can be sent to them."""
    if analysis_pool.up() and _can_be_sent(draws):
        return analysis_pool.each(make, draws)
    return map(make, draws)


def _can_be_sent(draws: list[Draw]) -> bool:
    from multiprocessing.reduction import ForkingPickler

    with suppress(Exception):  # whatever an object that cannot be sent to another process raises
        return bool(ForkingPickler.dumps(draws))
    return False


def _files(limit: int | None, draw: Draw) -> dict[str, bytes]:
    with style():
        figure = draw()
        if figure is None:
            return {}
        if limit is not None:
            figure.text(0.995, 0.005, f"smoke run, limit={limit}", ha="right", va="bottom", fontsize=7)
        return render(figure)


def _svg(draw: Draw) -> str:
    with style():
        figure = draw()
        return "" if figure is None else render(figure, ("svg",))["svg"].decode()
