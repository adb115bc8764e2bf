"""Fonts in PDFs: one subset of each font for all figures; one for each took a seventh of the time of a report."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache
from typing import Any

COMMON = string.ascii_letters + string.digits + string.punctuation + " −±×·–—’“”…≤≥→βκλΔη"
"""What figures write; text with another character gets a subset of its own."""

Subset = Callable[[Any, Iterable[int]], AbstractContextManager[Any]]


@contextmanager
def shared_subsets() -> Iterator[None]:
    """Within, matplotlib embeds the subset of `COMMON` wherever it has all glyphs of a text, in TrueType (Type 42).

    The bytes do not depend on which figure is drawn first, or where.
    """
    from matplotlib.backends import _backend_pdf_ps

    fonts: Any = _backend_pdf_ps
    original: Subset = fonts.get_glyphs_subset

    def subset(font: Any, glyphs: Iterable[int]) -> AbstractContextManager[Any]:
        common = _common(font, original)
        return nullcontext(common) if set(glyphs) <= common.glyph_index_map.keys() else original(font, glyphs)

    fonts.get_glyphs_subset = subset
    try:
        yield
    finally:
        fonts.get_glyphs_subset = original


@cache
def _common(font: Any, cut: Subset) -> Any:
    """The subset of a font with the glyphs of `COMMON` that it has, kept open."""
    from matplotlib.ft2font import FT2Font

    face = FT2Font(font)
    glyphs = {face.get_char_index(ord(character)) for character in COMMON} - {0}
    return ExitStack().enter_context(cut(font, glyphs))
