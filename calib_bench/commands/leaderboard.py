"""`leaderboard`: how calibrators stand over every arm of one or several run folders."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.commands.command import PLUGINS, Command, Option, items
from calib_bench.commands.evaluate import STANDINGS
from calib_bench.commands.prediction_files import OUT, RUN, new_folder, write_page
from calib_bench.commands.stored_run import data_name, open_run
from calib_bench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.commands.table_ties import Ties
    from calib_bench.core.study import Analysis, Table
    from calib_bench.core.task import Content
    from calib_bench.core.trial import Trial
    from calib_bench.planning.tuning import Arm
    from calib_bench.store.store import Store

FEW = 6
"""Units below which the page says that they are few."""
FEW_UNITS = (
    "Few {units} ({number}): the limits rest on the t distribution, and another one may change the order. Runs of "
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

    with status(open_console(stderr=True), "calibrating and measuring"):
        names = arguments.calibrator or _calibrators(arguments.runs, arguments.plugins)
        runs = [_read(folder, names, arguments.plugins) for folder in arguments.runs]
        analysis = leaderboard(runs)
    out = arguments.out or new_folder("leaderboard", [run.folder.name for run in runs], [run.file for run in runs])
    write_page("leaderboard", arguments.words, STANDINGS, [_input(run) for run in runs], analysis, out)
    return 0


def _calibrators(folders: Sequence[Path], plugins: Sequence[Path]) -> list[str]:
    """The calibrators that any of the runs has: each run's logits are there to fit the others' to."""
    settings = [open_run(folder, plugins)[1] for folder in folders]
    return list(dict.fromkeys(name for one in settings for name in one.calibrator))


@dataclass(frozen=True)
class _Run:
    """A run folder's experiments: every seed of every arm of its grid, under every calibrator.

    Attributes:
        folder: as it was given.
        file: the file that says what the run holds.
        rows: a row an experiment and method.
        methods: that were wanted, the raw predictions first.
        refused: by method the reason why it does not take some arm's logits; empty where it does.
        failed: trials that left nothing to calibrate.
        arms: arms of the grid.
        trained: those that are trained at every seed; the others are left out.
    """

    folder: Path
    file: str
    rows: Sequence[Mapping[str, Any]]
    methods: Sequence[str]
    refused: Mapping[str, str]
    failed: int
    arms: int
    trained: int


def _input(run: _Run) -> dict[str, Any]:
    from calib_bench.system.files import sha256

    return {"role": RUN, "name": str(run.folder), "sha256": {run.file: sha256(Path(run.file))}}


def _read(folder: Path, calibrators: Sequence[str], plugins: Sequence[Path]) -> _Run:
    """A run folder's experiments.

    Raises:
        UserError: it is no run folder, or none of its arms is trained.
    """
    from calib_bench import registry
    from calib_bench.analysis.scores import RAW
    from calib_bench.commands import table_ties
    from calib_bench.execute import analysis_pool, worker

    store, settings = open_run(folder, plugins)
    worker.prepare(settings)
    methods = [RAW, *registry.calibrators(calibrators)]
    every = table_ties.arms_by_key(store, settings)
    keys = [key for key, arm in every.items() if _is_trained(store, arm)]
    if not keys:
        command = store.provenance()["command"]
        raise UserError(f"no arm of {folder} is trained at every seed: finish it with\n  {command}")
    with analysis_pool.workers(settings):
        ties = table_ties.Ties(store, settings, _table(keys, methods), plugins)
    ties.keep()
    about = {
        "run": folder.name,
        "dataset": _dataset(store, settings.content, next(iter(every[keys[0]].trials.values()))),
    }
    rows = [{**row, **about} for i in range(len(ties.rows)) for row in _experiments(store, ties, i)]
    refused = {method: row.refused for (_, method), row in zip(ties.places, ties.rows, strict=True)}
    failed = sum(_failures(store, every[key]) for key in keys)
    return _Run(folder, str(store.path / "study.json"), rows, methods, refused, failed, len(every), len(keys))


def _is_trained(store: Store, arm: Arm) -> bool:
    return bool(arm.trials) and all(map(store.has, arm.trials.values()))


def _failures(store: Store, arm: Arm) -> int:
    return sum(store.fate(trial) != "done" for trial in arm.trials.values())


def _experiments(store: Store, ties: Ties, i: int) -> Iterator[dict[str, Any]]:
    """The seeds of a row of an arm and method, those that ended better than guessing."""
    from calib_bench.analysis.measure import FINISHED

    (key, method), metrics = ties.places[i], ties.rows[i].metrics
    trials = dict(sorted(ties.arms[key].trials.items())).values()
    fates = {trial: fate for trial in trials if (fate := store.fate(trial)) in FINISHED}
    for place, (trial, fate) in enumerate(fates.items()):
        if metrics and fate == "done":
            scores = {metric: values[place] for metric, values in metrics.items()}
            yield _name(trial, key) | {"method": method} | scores


def _table(keys: Sequence[tuple[Any, ...]], methods: Sequence[str]) -> pd.DataFrame:
    """A row an arm and method, as a table of baselines has them."""
    import pandas as pd

    from calib_bench.commands.table_ties import KEYS

    return pd.DataFrame([dict(zip(KEYS, key, strict=True)) | {"method": name} for key in keys for name in methods])


def _name(trial: Trial, key: tuple[Any, ...]) -> dict[str, Any]:
    """What tells an experiment of a data set from others."""
    from calib_bench.commands.table_ties import KEYS

    return {"seed": trial.seed, "key": trial.key, **dict(zip(KEYS, key, strict=True))}


def _dataset(store: Store, content: Content | None, trial: Trial) -> str:
    """The name of a run's data; data of another size are other data."""
    name = data_name(store, content, trial)
    return name if trial.limit is None else f"{name} limit={trial.limit}"


def leaderboard(runs: Sequence[_Run]) -> Analysis:
    """How calibrators stand over the experiments of runs: over all of them, at each beta, after each objective.

    Raises:
        UserError: no experiment is left.
    """
    import pandas as pd

    from calib_bench.core.study import Analysis, Table
    from calib_bench.evaluation import standings as over

    if not any(run.rows for run in runs):
        raise UserError("every trial diverged or ended no better than guessing: there is nothing to rank")
    every = pd.DataFrame([row for run in runs for row in run.rows])
    again = every.duplicated(["dataset", "key", "method"])
    frame = every[~again]
    table, note = over.standings(frame)
    title = "Calibrators over all experiments"
    tables = {"standings": Table(title, table, f"{note} {COST}", paper=True, names=("method",), first=over.FIRST)}
    tables |= {f"by_{column}": _within(frame, column) for column in TABLES if frame[column].nunique() > 1}
    tables["experiments"] = Table("Each arm, mean over its seeds", _by_arm(frame), "", names=("method",))
    warnings = (*_left_out(frame, runs), *_warnings(runs, over.units(frame), every["key"][again].nunique()))
    return Analysis(over.verdict(table, frame), tables, warnings)


def _within(frame: pd.DataFrame, column: str) -> Table:
    """The standings within each value of a column."""
    import pandas as pd

    from calib_bench.core.study import Table
    from calib_bench.evaluation import standings as over

    parts = [over.standings(rows)[0].assign(**{column: value}) for value, rows in frame.groupby(column)]
    note = GROUP_NOTE.format(column=column, note=over.STANDING_NOTE)
    grouped = pd.concat(parts, ignore_index=True)
    return Table(TABLES[column], grouped, note, names=(column, "method"), first=over.FIRST)


def _left_out(frame: pd.DataFrame, runs: Sequence[_Run]) -> tuple[str, ...]:
    from calib_bench.evaluation.standings import left_out

    methods = list(dict.fromkeys(method for run in runs for method in run.methods))
    return left_out(frame, methods, {method: why for run in runs for method, why in run.refused.items() if why})


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
    yield from (
        INCOMPLETE.format(run=run.folder, number=run.arms - run.trained, arms=run.arms)
        for run in runs
        if run.trained < run.arms
    )
    counts = {FAILED: sum(run.failed for run in runs), TWICE: twice}
    yield from (text.format(number=count) for text, count in counts.items() if count)


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
