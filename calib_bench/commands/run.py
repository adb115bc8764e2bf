"""The main job: plan, train round by round, analyse, report, log. Each stage reads the store, never the one before."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rich.console import Console

from calib_bench import registry
from calib_bench.commands.console import Quiet, duration, open_console, print_results, warn
from calib_bench.core.settings import Settings, UserSettings
from calib_bench.errors import DataError, SettingsError, UserError
from calib_bench.execute import analysis_pool, data_parallel, local, worker
from calib_bench.execute.progress import Display
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.report import failed_trials
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.tracking.tracker import Tracker
from calib_bench.train import distributed

if TYPE_CHECKING:
    from calib_bench.core.splits import Splits
    from calib_bench.core.study import Analysis, Study
    from calib_bench.core.trial import Trial

ASK_ABOVE_HOURS = 24.0


def run(settings: UserSettings, ask: bool = False) -> int:
    """Do a whole study and print where its report is.

    Args:
        settings: as typed; the task's defaults are put in here.
        ask: whether somebody is there to confirm a long run.
    """
    resolved = resolve(settings)
    if not distributed.requested():
        return _run(settings, resolved, ask)
    device = distributed.start(device_type(resolved))
    resolved = resolved.model_copy(update={"device": str(device)})
    leads = distributed.is_main()
    try:
        if leads:
            _run(settings, resolved, ask)
        else:
            with shutdown.together():
                data_parallel.follow(resolved)
    except shutdown.Stopped:
        distributed.stop()
        if leads:
            raise
        return 130  # the main process says why
    distributed.stop()
    return 0


def _run(settings: UserSettings, resolved: Settings, ask: bool) -> int:
    console = open_console(stderr=settings.log_format == "json")
    worker.prepare(resolved)
    study = registry.study(resolved.study)
    _keep_results(resolved)
    store = Store(resolved.folder)
    display = Display(console, store.path, settings.log_format == "json")
    for message in store.audit():
        console.print(f"[yellow]warning:[/] {message}", markup=True)
    workers, device = _capacity(resolved)
    for failure in store.failures.retry():
        console.print(f"failed before, tried again: {failure.describe()}", markup=False)
    plan = planning.make(resolved, study, store, workers, device)
    console.print(f"{_command(settings)}\n{summary(plan, store)}", markup=False)
    if plan.pending:
        hours = check_and_estimate(resolved, study, store, device, console)
        if ask and not resolved.yes and hours is not None and hours > ASK_ABOVE_HOURS:
            answer = console.input(f"This takes about {hours:,.0f} device hours. Go on? [y/N] ", markup=False)
            if answer.strip().lower() not in ("y", "yes"):
                raise SettingsError("not started: give fewer values, or yes=true to go on without being asked")
    _check_data(resolved, plan, store)
    store.write_study(resolved, _command(settings))
    display.say("start", folder=store.path, command=_command(settings))
    with Tracker(store, resolved, partial(warn, display)) as tracker:
        try:
            with shutdown.together() if distributed.requested() else shutdown.orderly():
                _train(resolved, study, store, plan, workers, device, display)
        except shutdown.Stopped:
            raise shutdown.Stopped(
                f"stopped, and what was under way is saved; go on with\n  {_command(settings)}"
            ) from None
        tracker.trained()
        if distributed.requested():
            data_parallel.dismiss()
            distributed.stop()
        with leases.of(store.address, leases.OWNER, resolved.lease).turn("report"):
            analysis = _report(resolved, study, store, console)
            with console.status("logging to Weights & Biases") if console.is_terminal else Quiet():
                tracker.finish(analysis)
    page = store.path / "report" / "report.html"
    display.say("analysed", report=page, verdict=analysis.verdict, warnings=analysis.warnings)
    print_results(resolved, analysis, store, console)
    return 1 if failed_trials.of_study(study, resolved, store) else 0


def _keep_results(settings: Settings) -> None:
    """Raises SettingsError where a smoke run would replace the report of a whole one."""
    if settings.limit is None:
        return
    store = Store(settings.folder, "peek")
    if not (store.path / "report" / "report.html").exists() or not (store.path / "study.json").exists():
        return
    if store.settings().limit is None:
        raise SettingsError(
            f"limit={settings.limit} makes a smoke run, and {store.label} holds the report of a run on all data, which "
            f"it would replace: give another folder, for example out={settings.out}-smoke"
        )


def _command(settings: UserSettings) -> str:
    """The command as it was given: what to type to get this again."""
    return settings.command()


def device_type(settings: Settings) -> str:
    from calib_bench.system.device import pick

    return pick(settings.device).type


def _capacity(settings: Settings) -> tuple[int, str]:
    """Groups at once, and the type of the device they train on; joins the Ray cluster where there is to be one."""
    if settings.executor == "ray" and not distributed.requested():
        return _ray().capacity(settings)
    if settings.gang > 1 and not distributed.requested():
        raise SettingsError(
            f"gang={settings.gang} needs executor=ray; without Ray: torchrun --nproc-per-node={settings.gang} -m ..."
        )
    device = device_type(settings)
    return local.worker_count(settings, device), device


def _ray() -> ModuleType:
    try:
        from calib_bench.execute import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise SettingsError('executor=ray needs Ray: pip install "calib_bench[ray]"') from None
    return ray


def summary(plan: planning.Plan, store: Store) -> str:
    return (
        f"{len(plan.trials):,} trials in {store.label}: {plan.done:,} done, {plan.pending:,} to run "
        f"in {len(plan.groups):,} group{'s' * (len(plan.groups) != 1)}"
    )


def check_and_estimate(settings: Settings, study: Study, store: Store, device: str, console: Console) -> float | None:
    """Load the data, so that what is wrong with it shows now; print and return the device hours still to come."""
    from calib_bench import models

    coming = planning.foresee(settings, study, store)
    if not coming:
        return None
    splits = worker.load_splits(settings, coming[0])
    for model in settings.model or ():
        models.check(model, splits.spec.kind)
    console.print(
        f"data: {splits.source}, {len(splits.train):,} for training, {len(splits.test):,} to test", markup=False
    )
    for note in splits.notes.values():
        console.print(f"note: {note}", markup=False)
    seconds = [_seconds(trial, splits, device) for trial in coming]
    known = sum(value for value in seconds if value is not None)
    if None in seconds:
        console.print(f"{len(coming):,} trials; how long they take on {device} is not known")
        return None
    console.print(
        f"{len(coming):,} trials still to come, about {duration(known)} of device time (rough)"
        + (", and what their probes take" if any(trial.probe for trial in coming) else ""),
        markup=False,
    )
    return known / 3600


def _seconds(trial: Trial, splits: Splits, device: str) -> float | None:
    from calib_bench.models import flops as cost

    flops = trial.copies * cost.flops_per_example(trial.model, splits.spec, splits.classes)
    read = sum(len(splits[name]) for name in ("selection", "calibration", "test"))
    examples = len(splits.train) * trial.epochs + read / cost.TRAINING
    return cost.estimate_seconds(flops, 1, examples, device, trial.precision)


def _check_data(settings: Settings, plan: planning.Plan, store: Store) -> None:
    """Hold the data at hand against what the stored trials were trained on; write labels anew where they are gone.

    Where there is no data any more, what is stored stands.
    """
    for trial in {trial.split: trial for trial in plan.trials if store.has(trial)}.values():
        try:
            splits = worker.load_splits(settings, trial)
        except DataError:
            if settings.data is not None:
                raise
            continue
        store.write_splits(trial, splits)


def _executor(settings: Settings, workers: int) -> Any:
    """Where trials run: on all processes of a `torchrun`, as tasks of a Ray cluster, or on workers of this machine."""
    if distributed.requested():
        return nullcontext(data_parallel.Leader(settings))
    return _ray().Cluster(settings) if settings.executor == "ray" else local.Workers(settings, workers)


def _train(
    settings: Settings, study: Study, store: Store, plan: planning.Plan, workers: int, device: str, display: Display
) -> None:
    console = display.console
    start, rounds = time.perf_counter(), 0
    total, known = 0, leases.of(store.address, leases.OWNER, settings.lease)
    with _executor(settings, workers) as executor:
        while plan.pending:
            _wait_for_others(plan, known, console)
            rounds += 1
            with display.training(rounds, plan.done, plan.pending, plan.failed):
                total += executor.run(plan.groups, store, display.advance)
            plan = planning.make(settings, study, store, workers, device)
    display.say("trained", done=plan.done, trained=total, failed=plan.failed)
    if rounds:
        console.print(
            f"trained {total:,} trials in {time.perf_counter() - start:.1f} s, {workers} workers", markup=False
        )
    if plan.failed and not plan.done:
        first, *others = store.failures.now().values()
        more = f" (and {len(others):,} more: see {store.failures.folder})" if others else ""
        raise UserError(f"no trial could be finished: {first.describe()}{more}")
    if plan.failed:
        console.print(f"[red]{plan.failed:,} trials failed[/]: the report names them", markup=True)


def _wait_for_others(plan: planning.Plan, known: leases.Claims, console: Console) -> None:
    """Return when there is something to do: a trial that no other driver is at work on, be it done meanwhile."""
    keys, told = {trial.key for group in plan.groups for trial in group}, False
    while keys <= known.busy():
        data_parallel.leave_if_asked()
        if not told:
            console.print(f"{len(keys):,} trials are with other drivers on this store: waiting for them", markup=False)
            told = True
        time.sleep(min(1.0, known.lease / leases.BEATS))


def _report(settings: Settings, study: Study, store: Store, console: Console) -> Analysis:
    from calib_bench.report import build as reporting

    shown = console.status("calibrating and measuring") if console.is_terminal else Quiet()
    with shown, analysis_pool.workers(settings):
        analysis = reporting.analyse(store, study, settings)
        reporting.build(store, study, settings, analysis)
    return analysis
