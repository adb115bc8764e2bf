"""`report`: a run folder's report, made again from what it stores."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.commands.command import PLUGINS, RUN, Command, Option, flag, whole
from calib_bench.commands.stored_run import evaluation, open_run
from calib_bench.commands.table_of_commands import load
from calib_bench.errors import SettingsError, StoreError, UserError
from calib_bench.execute import fork_server
from calib_bench.system import environment
from calib_bench.system.files import sha256

if TYPE_CHECKING:
    from calib_bench.core.settings import Settings
    from calib_bench.core.study import Analysis, Study
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store

PORT = 8000


def _call(arguments: Namespace) -> int:
    folder = arguments.run
    if done := evaluation(folder):
        return _again(done, folder, arguments.plugins)
    if arguments.serve:
        from calib_bench.commands.serve import serve

        port = PORT if arguments.port is None else arguments.port
        return serve(folder, arguments.plugins, port, partial(report, folder, arguments.plugins))
    if arguments.port is not None:
        raise SettingsError(f"port={arguments.port} is for --serve: give both, or neither")
    return report(folder, arguments.plugins, arguments.wandb)


COMMAND = Command(
    "report",
    """\
Rebuilds the report of a run folder from what it stores, and that of evaluate or compare from the files that it read. A
run's report that would come out the same is left as it is.
--serve shows it in the browser; while the run is under way, it shows how far it is. --wandb makes a W&B Report too: its
specification is kept beside the page, and wandb=online publishes it.""",
    (
        RUN,
        flag("--serve", "show the report in the browser, and keep it fresh until Ctrl-C"),
        whole("--port", f"port for --serve; 0 takes a free one; otherwise {PORT}", high=65535),
        Option(
            "--wandb",
            "make a W&B Report, published with online; --wandb alone does as the run did",
            choices=("as_run", "offline", "online", "disabled"),
            bare="as_run",
        ),
        PLUGINS,
    ),
    (
        "report runs/digits-separation",
        "report runs/digits-separation --serve port=8080",
        "report runs/digits-separation wandb=online",
    ),
    _call,
)


def _again(done: Mapping[str, Any], folder: Path, plugins: Sequence[Path]) -> int:
    """Do an evaluation or a comparison again, from the files that its provenance names, into the same folder.

    Raises:
        UserError: a file is gone or holds something else now, or plug-ins are needed that were not given.
    """
    _check_inputs(done, folder)
    words = _typed(done["command"])
    if any(word.startswith("plugins=") for word in words) and not plugins:
        raise UserError(f"{folder} was made with plug-ins, which are code: give plugins= with their folder to run them")
    kept = [word for word in words[1:] if not word.startswith(("out=", "plugins="))]
    given = [f"plugins={','.join(map(str, plugins))}"] if plugins else []
    return load(words[0]).run([*kept, f"out={folder}", *given])


def _typed(command: str) -> list[str]:
    """The words after `python -m calib_bench`, with folders as out=FOLDER and plugins=FOLDER however typed."""
    words = [re.sub(r"^--(out|plugins)=", r"\1=", word) for word in shlex.split(command)[3:]]
    for option in ("--out", "--plugins"):
        if option in words:
            at = words.index(option)
            words[at : at + 2] = [f"{option[2:]}={words[at + 1]}"]
    return words


def _check_inputs(done: Mapping[str, Any], folder: Path) -> None:
    """Raise UserError where a file is not the one that an evaluation read."""
    for path, digest in (pair for entry in done["inputs"] for pair in entry["sha256"].items()):
        if not Path(path).is_file() or sha256(Path(path)) != digest:
            raise UserError(f"{folder} was made from {path}, which is not here or holds something else now")


def report(folder: Path, plugins: Sequence[Path] = (), wandb: str | None = None) -> int:
    """Rebuild the report of a run folder from what it stores; one that would come out the same is left as it is.

    Args:
        folder: the run folder.
        plugins: folders of plug-ins. Those that the run folder names are code, and run only when they are given here.
        wandb: build a W&B Report too: "online" publishes it, "as_run" does so where the run was online, else its
            specification is kept beside the page. None builds none.
    """
    from calib_bench.commands.console import open_console, print_results
    from calib_bench.report import reuse
    from calib_bench.report.build import renew

    console = open_console()
    store, study, settings, planned = _whole_run(folder, plugins)
    page = store.path / "report" / "report.html"
    if wandb is None and (made := reuse.current(store, settings.model_dump(mode="json"), planned)):
        print_results(made, page, console)
        return 0
    analysis = renew(store, study, settings)
    print_results(analysis, page, console)
    if wandb is not None:
        from calib_bench.tracking import workspace_report

        path = workspace_report.save(store.path, study, settings, analysis)
        console.print(f"W&B Report: {path}", markup=False)
        if (settings.wandb if wandb == "as_run" else wandb) == "online":
            console.print(f"published: {workspace_report.publish(store.path, study, settings, analysis)}", markup=False)
    return 0


def rebuild(folder: Path, plugins: Sequence[Path] = ()) -> tuple[Store, Study, Settings, Analysis]:
    """Analyse a run folder again and write its report.

    Args:
        folder: the run folder.
        plugins: as of `report`.

    Raises:
        StoreError: it is no run folder, or is damaged.
        UserError: trials of the study are missing.
    """
    from calib_bench.report.build import renew

    store, study, settings, _ = _whole_run(folder, plugins)
    return store, study, settings, renew(store, study, settings)


def _whole_run(folder: Path, plugins: Sequence[Path]) -> tuple[Store, Study, Settings, Collection[Trial]]:
    """The store of a run folder, its study, settings and trials, none of which is missing; raises as `rebuild`."""
    store, settings = open_run(folder, plugins)
    if (settings.workers or environment.cores()) > 1:
        fork_server.start()  # first, so that it imports while this process does
    from calib_bench import registry
    from calib_bench.execute import worker
    from calib_bench.planning import plan as planning

    worker.prepare(settings)
    study = registry.study(settings.study)
    failures = store.failures.now()
    command = store.provenance()["command"]
    try:
        planned = planning.read(settings, study, store)
        missing = [trial for trial in planned if trial.key not in failures and not store.has(trial)]
    except StoreError as error:
        raise StoreError(f"{error}\nThe same run sets it aside and trains it again:\n  {command}") from None
    if missing:
        raise UserError(f"{folder} lacks {len(missing):,} of the study's trials: finish it with\n  {command}")
    return store, study, settings, planned
