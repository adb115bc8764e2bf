"""`leaderboard`: how calibrators stand over every arm of one or several run folders."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.commands.command import PLUGINS, Command, Option, items
from calib_bench.commands.evaluate import STANDINGS
from calib_bench.commands.prediction_files import OUT, RUN, new_folder, write_page
from calib_bench.commands.stored_run import open_run
from calib_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.commands.table_ties import Ties
    from calib_bench.core.study import Analysis
    from calib_bench.core.trial import Trial

FEW = 6
"""Units below which the page says that they are few."""
FEW_UNITS = (
    "{number} {units} are few: the limits rest on the t distribution, and another one may change the order. Runs of "
    "more data sets are what helps."
)
FAILED = "Trials left out, since they diverged or ended no better than guessing: {number}."
INCOMPLETE = "{run}: arms that are not trained at every seed are left out, {number} of {arms}."
TWICE = "Trials that are in several of the runs, and count once: {number}."
COST = "fit seconds: of one fit to the calibration split, mean over experiments, where it was first made."
GROUP_NOTE = "The same within each {column}, Holm's correction too: {note}"
TABLES = {"beta": "Calibrators at each beta", "objective": "Calibrators after each objective"}


def _call(arguments: Namespace) -> int:
    """Judge calibrators over run folders; print the standings and write report, tables and provenance."""
    from calib_bench.commands.console import open_console, status
    from calib_bench.system.files import sha256

    with status(open_console(stderr=True), "calibrating and measuring"):
        names = arguments.calibrator or _calibrators(arguments.runs, arguments.plugins)
        runs = [_Run(folder, names, arguments.plugins) for folder in arguments.runs]
        analysis = leaderboard(runs)
    files = {str(run.folder): str(run.store.path / "study.json") for run in runs}
    inputs = [{"role": RUN, "name": name, "sha256": {path: sha256(Path(path))}} for name, path in files.items()]
    out = arguments.out or new_folder("leaderboard", [run.folder.name for run in runs], list(files.values()))
    write_page("leaderboard", arguments.words, STANDINGS, inputs, analysis, out)
    return 0


def _calibrators(folders: Sequence[Path], plugins: Sequence[Path]) -> list[str]:
    """The calibrators that any of the runs has: each run's logits are there to fit the others' to."""
    settings = [open_run(folder, plugins)[1] for folder in folders]
    return list(dict.fromkeys(name for one in settings for name in one.calibrator))


class _Run:
    """A run folder's experiments: every seed of every arm of its grid, under every calibrator.

    Attributes:
        rows: a row an experiment and method.
        methods: that were wanted, the raw predictions first.
        refused: by method that does not take some arm's logits, the first reason.
        failed: trials that left nothing to calibrate.
        incomplete, arms: arms without some of their trials, and all arms.

    Raises:
        UserError: it is no run folder, or none of its arms is trained.
    """

    def __init__(self, folder: Path, calibrators: Sequence[str], plugins: Sequence[Path]) -> None:
        from calib_bench import registry
        from calib_bench.analysis.scores import RAW
        from calib_bench.commands import table_ties
        from calib_bench.execute import analysis_pool, worker

        self.folder = folder
        self.store, settings = open_run(folder, plugins)
        worker.prepare(settings)
        self.methods = [RAW, *registry.calibrators(calibrators)]
        every = table_ties.arms_by_key(self.store, settings)
        trained = [key for key, arm in every.items() if arm.trials and all(map(self.store.has, arm.trials.values()))]
        if not trained:
            command = self.store.provenance()["command"]
            raise UserError(f"no arm of {folder} is trained at every seed: finish it with\n  {command}")
        self.arms, self.incomplete = len(every), len(every) - len(trained)
        self.failed = sum(self.store.fate(trial) != "done" for key in trained for trial in every[key].trials.values())
        rows = _table(trained, self.methods)
        with analysis_pool.workers(settings):
            ties = table_ties.Ties(self.store, settings, rows, plugins)
        ties.keep()
        self.refused = {method: row.refused for (_, method), row in zip(ties.places, ties.rows, strict=True)}
        self.rows = [row for i in range(len(rows)) for row in self._experiments(ties, i)]

    def _experiments(self, ties: Ties, i: int) -> Iterator[dict[str, Any]]:
        """The seeds of a row of an arm and method, those that ended better than guessing."""
        from calib_bench.analysis.measure import FINISHED

        (key, method), metrics = ties.places[i], ties.rows[i].metrics
        trials = [trial for _, trial in sorted(ties.arms[key].trials.items())]
        measured = [trial for trial in trials if self.store.fate(trial) in FINISHED]
        for place, trial in enumerate(measured if metrics else ()):
            if self.store.fate(trial) == "done":
                scores = {metric: values[place] for metric, values in metrics.items()}
                yield _name(trial, key) | {"run": self.folder.name, "method": method} | scores


def _table(keys: Sequence[tuple[Any, ...]], methods: Sequence[str]) -> pd.DataFrame:
    """A row an arm and method, as a table of baselines has them."""
    import pandas as pd

    from calib_bench.commands.table_ties import KEYS

    return pd.DataFrame([dict(zip(KEYS, key, strict=True)) | {"method": name} for key in keys for name in methods])


def _name(trial: Trial, key: tuple[Any, ...]) -> dict[str, Any]:
    """What tells an experiment from others; data of another size are other data."""
    from calib_bench.commands.table_ties import KEYS

    dataset = trial.task if trial.limit is None else f"{trial.task} limit={trial.limit}"
    return {"dataset": dataset, "seed": trial.seed, "key": trial.key, **dict(zip(KEYS, key, strict=True))}


def leaderboard(runs: Sequence[_Run]) -> Analysis:
    """How calibrators stand over the experiments of runs: over all of them, at each beta, after each objective."""
    import pandas as pd

    from calib_bench.core.study import Analysis, Table
    from calib_bench.evaluation import standings as over

    every = pd.DataFrame([row for run in runs for row in run.rows])
    again = every.duplicated(["dataset", "key", "method"])
    frame = every[~again]
    table, note = over.standings(frame)
    title = "Calibrators over all experiments"
    tables = {"standings": Table(title, table, f"{note} {COST}", paper=True, names=("method",), first=over.FIRST)}
    for column, heading in TABLES.items():
        parts = {value: over.standings(rows)[0] for value, rows in frame.groupby(column)}
        if len(parts) > 1:
            grouped = pd.concat([part.assign(**{column: value}) for value, part in parts.items()], ignore_index=True)
            text = GROUP_NOTE.format(column=column, note=over.STANDING_NOTE)
            tables[f"by_{column}"] = Table(heading, grouped, text, names=(column, "method"), first=over.FIRST)
    tables["experiments"] = Table("Each arm, mean over its seeds", _by_arm(frame), "", names=("method",))
    methods = list(dict.fromkeys(method for run in runs for method in run.methods))
    refused = {method: why for run in runs for method, why in run.refused.items() if why}
    warnings = [
        *over.left_out(frame, methods, refused),
        *_warnings(runs, over.units(frame), every["key"][again].nunique()),
    ]
    return Analysis(over.verdict(table, frame), tables, tuple(warnings))


def _by_arm(frame: pd.DataFrame) -> pd.DataFrame:
    names = ["run", "dataset", "model", "variant", "beta", "objective", "method"]
    groups = frame.groupby(names, sort=False, dropna=False)
    means = groups.mean(numeric_only=True).drop(columns="seed")
    return means.assign(seeds=groups.size()).reset_index()


def _warnings(runs: Sequence[_Run], units: tuple[str, int], twice: int) -> Iterator[str]:
    """What is to be known of the runs and the number of units."""
    words, number = units
    if number < FEW:
        yield FEW_UNITS.format(number=number, units=words)
    for run in runs:
        if run.incomplete:
            yield INCOMPLETE.format(run=run.folder, number=run.incomplete, arms=run.arms)
    if failed := sum(run.failed for run in runs):
        yield FAILED.format(number=failed)
    if twice:
        yield TWICE.format(number=twice)


COMMAND = Command(
    "leaderboard",
    """\
How calibrators stand over every arm of run folders: ranks, wins, paired differences in log loss, what a fit costs;
over all, at each beta, after each objective. What is measured is kept beside a run's report for the next time.""",
    (
        Option("RUNS", "run folders", Path, count="+"),
        Option("--calibrator", "a,b,c; otherwise those that any of the runs has", items, metavar="NAMES"),
        OUT,
        PLUGINS,
    ),
    (
        "leaderboard runs/digits-separation",
        "leaderboard runs/digits-separation runs/imdb-separation out=leaderboard",
        "leaderboard runs/digits-separation calibrator=temperature_scaling,isotonic",
    ),
    _call,
)
