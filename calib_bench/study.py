"""The study contract: one question, the trials that answer it, and the analysis that reads them from the store.

A study is one file in `calib_bench/studies/` (or a user's plug-in folder) with one constant `STUDY`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench.trial import Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from calib_bench.settings import Settings
    from calib_bench.store import Store

Scores = Callable[[Trial], float | None]
"""Selection score of a trial, lower is better: inf when it diverged or failed, None when it has not run."""


@dataclass(frozen=True)
class Table:
    """A result table.

    Attributes:
        title: what it shows, with units.
        frame: one row an entry, raw numbers in columns; a column may have siblings `<name>_low`, `<name>_high`.
        note: how to read it: n, interval, what is compared with what.
        paper: whether it also goes to LaTeX.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""
    paper: bool = False


@dataclass(frozen=True)
class Analysis:
    """What a study found, ready for every output.

    Attributes:
        verdict: plain sentences, most important first.
        tables: by file name without suffix, in reading order.
        warnings: what a reader must know before quoting a number: untuned arms, diverged trials, smoke mode...
        data: what the figures draw, by name.
    """

    verdict: tuple[str, ...]
    tables: Mapping[str, Table]
    warnings: tuple[str, ...] = ()
    data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        question: one line for people.
        plan: (Settings filled with the task's defaults, Scores) -> every trial wanted so far, in the order to run.
            Called again after each round until it adds nothing, so that a plan may follow what was found (extend a
            grid of rates); it must be a pure function of its arguments.
        analyse: (Settings, Store) -> Analysis; reads the store alone.
        figures: by file name without suffix, (Analysis) -> matplotlib Figure.
        defaults: grid keys of the settings whose default, for this question, is not the task's.
    """

    question: str
    plan: Callable[[Settings, Scores], list[Trial]]
    analyse: Callable[[Settings, Store], Analysis]
    figures: Mapping[str, Callable[[Analysis], Figure]]
    defaults: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
