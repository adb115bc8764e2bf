"""The study contract: one question, the trials that answer it, and the analysis that reads them from the store.

A study is a folder whose `study.py` sets `STUDY`, in `calib_bench/studies/` or in a user's folder of plug-ins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from calib_bench.core.settings import Settings, StudyOptions, UserSettings
from calib_bench.core.trial import Scores, Trial
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from calib_bench.core.results import Results
    from calib_bench.core.splits import Splits
    from calib_bench.core.task import Task


@dataclass(frozen=True)
class Table:
    """A result table.

    Attributes:
        title: what it shows, with units.
        frame: one row an entry, raw numbers in columns; a column may have siblings `<name>_low`, `<name>_high`.
        note: how to read it: n, interval, what is compared with what.
        paper: whether it also goes to LaTeX.
        names: columns that name a row, the most particular last; the leading columns of text, beta and seed when empty.
        first: other columns that the page shows at first, a button brings the rest; all of them when empty.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""
    paper: bool = False
    names: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        items: names of figures and tables in reading order, each name's figure before its table; `DETAILS` stands for
            what the study tells of each beta, task...
        text: a sentence under the heading.
    """

    title: str
    items: tuple[str, ...]
    text: str = ""


DETAILS = "details"
"""Item of a `Section`: what `Study.details` gives."""


@dataclass(frozen=True)
class Detail:
    """What there is to say of one value of what a study varies, folded on the page.

    Attributes:
        title: which one: "beta = 0.1".
        brief: its numbers in a few words, shown while it is folded.
        text: plain sentences.
        table: a small table, for the page alone.
        figure: its drawing, for the page alone; called when the page is made.
    """

    title: str
    brief: str = ""
    text: tuple[str, ...] = ()
    table: Table | None = None
    figure: Callable[[], Figure] | None = None


class ReportedArm(Protocol):
    """What outputs read of an arm of a study's plan, see `calib_bench.planning.tuning.Arm`."""

    @property
    def label(self) -> str:
        """The arm's name within its model."""

    @property
    def rates(self) -> Sequence[float]:
        """The rates that were tried, ascending."""

    @property
    def trials(self) -> Mapping[int, Trial]:
        """By seed, the trial at the rate that the arm is reported at."""


@dataclass(frozen=True)
class StudyResult:
    """What figures and exports read beside an analysis's tables.

    A study whose figures need more declares a subclass with further fields, and reads it with `of`.

    Attributes:
        limit: most examples of each split in a smoke run; None in every other run.
        reference: the beta that others are compared with.
        arms: with their chosen rates; None where those of the plan are meant.
        measurements: a row a trial and calibrator, for exports.
        reliability: a row a bin of confidence of each arm and calibrator.
    """

    limit: int | None = None
    reference: float = 1.0
    arms: Sequence[ReportedArm] | None = None
    measurements: pd.DataFrame | None = None
    reliability: pd.DataFrame | None = None

    @classmethod
    def of(cls, analysis: Analysis) -> Self:
        """The analysis's result, of this class.

        Raises:
            TypeError: it is of another one.
        """
        if not isinstance(analysis.result, cls):
            raise TypeError(f"the analysis has a {type(analysis.result).__name__}, not a {cls.__name__}")
        return analysis.result


@dataclass(frozen=True)
class Analysis:
    """What a study found, ready for every output.

    Attributes:
        verdict: plain sentences, most important first.
        tables: by file name without suffix, in reading order.
        warnings: what a reader must know before quoting a number: untuned arms, diverged trials, smoke mode...
        result: what figures and exports read beside the tables.
        summary: the two or three plain sentences to start with; the first of the verdict when empty.
    """

    verdict: tuple[str, ...]
    tables: Mapping[str, Table]
    warnings: tuple[str, ...] = ()
    result: StudyResult = field(default_factory=StudyResult)
    summary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if str in map(type, (self.verdict, self.warnings, self.summary)):
            raise SettingsError('an Analysis has tuples of sentences: write ("A sentence.",), with the comma')
        tables = self.tables.values() if isinstance(self.tables, Mapping) else [self.tables]
        if not all(isinstance(table, Table) for table in tables):
            raise SettingsError('an Analysis has Tables by name: write {"name": Table("What it shows", frame)}')

    @classmethod
    def checked(cls, value: object, study: str) -> Analysis:
        """What `analyse` of a study gave.

        Raises:
            SettingsError: it is something else.
        """
        if not isinstance(value, cls):
            raise SettingsError(f"`analyse` of study {study!r} gave {type(value).__name__}, not an Analysis")
        return value


@dataclass(frozen=True)
class Probe:
    """Measurements that a trial makes of its model while it has it, for analyses that logits are not enough for.

    A trial asks for one by its field `probe`, "STUDY/NAME"; what it finds is stored with the trial, so that an analysis
    reads it from there. A trial of no epochs is measured at its initialization. Change what a probe measures, and it
    needs another name: trials that are stored keep their key.

    Attributes:
        columns: (trial, model, splits, device) -> numbers by name: further columns of the history, measured with each
            of its rows. The model is as it then is, in the trial's precision, in training mode, and is left as it was.
        arrays: the same -> tensors by name, measured once, at the end of training; not of a trial that diverged.
    """

    columns: Callable[[Trial, nn.Module, Splits, torch.device], Mapping[str, float]] | None = None
    arrays: Callable[[Trial, nn.Module, Splits, torch.device], Mapping[str, Tensor]] | None = None


Role = Literal["chosen", "intervention", "control", "tuning"]
"""What a trial is for: to be reported, in an arm of the grid or of an intervention; a comparison with a known answer;
to choose a rate. A trial that is for several things has the first of these roles."""


@dataclass(frozen=True)
class Study:
    """One question.

    Attributes:
        question: one line for people.
        plan: (Settings filled with the task's defaults, Scores) -> every trial wanted so far and its role, in the order
            to run; of plain trials, all are "chosen". Called again after each round until it adds nothing, so that a
            plan may follow what was found (extend a grid of rates); it must be a pure function of its arguments.
        analyse: (Settings, Results) -> Analysis; reads the store alone.
        figures: by file name without suffix, (Analysis) -> matplotlib Figure, or None where there is nothing to show.
        defaults: grid keys of the settings whose default, for this question, is not the task's: values, or a function
            of the task.
        sections: the page's order; figures and tables that none of them names follow in sections of their own.
        details: (Analysis) -> what to say of each beta, task...
        references: BibTeX keys in references.bib of the methods that it rests on, for `cite`.
        probes: what its trials may measure beside their logits, by name.
        measures_shift: whether it measures its trials on the shifted test data that `shift=` names.
        options: keys of the command line that this study alone has; `options.of(settings)` reads them. A study of this
            package declares them in `options.py` of its folder, so that `--help` lists them without its imports.
        complete: (settings as typed, the complete ones) -> those that its own keys make of them: a study whose keys
            change the grid.
    """

    question: str
    plan: Callable[[Settings, Scores], Mapping[Trial, Role] | Sequence[Trial]]
    analyse: Callable[[Settings, Results], Analysis]
    figures: Mapping[str, Callable[[Analysis], Figure | None]]
    defaults: Mapping[str, tuple[Any, ...] | Callable[[Task], tuple[Any, ...]]] = field(default_factory=dict)
    sections: tuple[Section, ...] = ()
    details: Callable[[Analysis], Sequence[Detail]] | None = None
    references: tuple[str, ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)
    measures_shift: bool = False
    options: type[StudyOptions] = StudyOptions
    complete: Callable[[UserSettings, Settings], Settings] | None = None
