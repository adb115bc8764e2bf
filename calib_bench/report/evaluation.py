"""What `calib_bench.evaluate` gives a notebook: a data frame that shows itself as a picture, sentences and a table."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from calib_bench.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = (("log_loss", "log loss (nats)"), ("brier", "Brier score"), ("ece", "ECE"))


class Evaluation(pd.DataFrame):
    """One row a method, every metric beside its limits; what is taken from it is a plain data frame.

    Attributes:
        tables: every table of the report by name, with "title" and "note" in its `attrs`.
    """

    _metadata = ["tables"]  # noqa: RUF012
    tables: dict[str, pd.DataFrame]

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str | None:
        """For notebooks; None where pandas is told to show text."""
        table = super()._repr_html_()
        if table is None:
            return None
        with figures.style():
            png = base64.b64encode(figures.render(picture(self), ("png",))["png"]).decode()
        sentences = "".join(f"<li>{escape(text)}</li>" for text in self.attrs.get("verdict", ()))
        image = f'<img alt="metrics by method" style="max-width: 100%; width: 50em" src="data:image/png;base64,{png}">'
        return f"{image}<ul>{sentences}</ul>{table}"


def picture(frame: pd.DataFrame) -> Figure:
    """Log loss, Brier score and ECE of each method with 95% intervals; the raw predictions' as a line through all.

    What is infinite is not drawn.
    """
    from matplotlib.figure import Figure

    methods = list(frame["method"])
    figure = Figure(figsize=(10.0, 1.1 + 0.24 * len(methods)))
    y = np.arange(len(methods))
    for axis, (metric, label) in zip(figure.subplots(1, len(PANELS), sharey=True), PANELS, strict=True):
        value, low, high = (frame[name].to_numpy(float) for name in (metric, f"{metric}_low", f"{metric}_high"))
        shown = np.isfinite(value)
        bars = shown & np.isfinite(low) & np.isfinite(high)
        axis.plot(value[shown], y[shown], "o", color="C0")
        axis.hlines(y[bars], low[bars], high[bars], color="C0", linewidth=0.9)
        if shown[0]:
            axis.axvline(value[0], color="0.5", linewidth=0.8, linestyle=":")
        axis.set(xlabel=label, yticks=y, yticklabels=methods, ylim=(len(methods) - 0.5, -0.5))
    return figure
