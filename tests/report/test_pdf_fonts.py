"""PDFs of figures: one subset of a font for all, TrueType, and every character is there."""

from __future__ import annotations

import re

import matplotlib
from matplotlib.figure import Figure

from calib_bench.report import figures


def test_pdfs_share_a_subset_of_a_font_whatever_is_drawn_first() -> None:
    """Text within `COMMON` gets the shared subset, other text one of its own; both name their characters."""

    def pdf(title: str) -> bytes:
        figure = Figure(figsize=(2, 2))
        figure.subplots().set_title(title)
        return figures.render(figure, ("pdf",))["pdf"]

    with figures.style(), matplotlib.rc_context({"pdf.compression": 0}):
        plain, odd = pdf("kappa −1"), pdf("kappa Ж")
        assert (pdf("kappa −1"), pdf("kappa Ж")) == (plain, odd)
    for content, code in ((plain, b"2212"), (odd, b"0416")):
        assert content.count(b"/FontFile2") == len(re.findall(rb"/CIDFontType2", content)) > 0
        assert code in content
    shared, lone = ({int(size) for size in re.findall(rb"/Length1 (\d+)", content)} for content in (plain, odd))
    assert len(shared) == 1
    assert shared < lone
