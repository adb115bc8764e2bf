"""A whole study: plan, train round by round, analyse, report, log. Each stage reads the store, never the one before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import ModuleType
from typing import Any

from rich.console import Console

from calib_bench import models, registry
from calib_bench.commands.console import open_console, print_results, status, warn
from calib_bench.core.settings import Execution, Grid, Settings, Space, UserSettings
from calib_bench.core.splits import Splits
from calib_bench.core.study import Analysis, Study
from calib_bench.core.trial import HF, Trial
from calib_bench.errors import DataError, SettingsError, UserError, counted
from calib_bench.execute import data_parallel, local, trial_time, worker
from calib_bench.execute.progress import Display
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.report import build as reporting
from calib_bench.report import failed_trials, reuse
from calib_bench.report.provenance import duration
from calib_bench.store import leases
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.system.device import has_bfloat16, pick
from calib_bench.tracking import analysis_export
from calib_bench.tracking.tracker import Tracker
from calib_bench.train import distributed

ASK_ABOVE_HOURS = 24.0
"""Device hours above which a run on a terminal asks before it starts."""


def run_study(settings: UserSettings, ask: bool = False) -> int:
    """Do a whole study and print where its report is; returns the exit code: 1 where trials failed, but for torchrun,
    which would start every process again.

    Args:
        settings: as typed; the task's defaults are put in here.
        ask: whether somebody is there to confirm a long run.

    Raises:
        UserError: something that the user can put right, or no trial could be finished.
    """
    resolved = resolve(settings)
    if not distributed.requested():
        return _run(settings, resolved, ask)
    device = distributed.start(device_type(resolved))
    resolved = resolved.model_copy(update={"device": str(device)})
    if not distributed.is_main():
        distributed.end_process(_follow(resolved))
    try:
        _run(settings, resolved, ask)
    except shutdown.Stopped:
        distributed.stop()
        raise
    distributed.stop()
    return 0


def _follow(execution: Execution) -> int:
    """Train what the main process announces; returns the exit code: 130 where all were asked to leave. The main process
    says why."""
    try:
        with shutdown.together():
            data_parallel.follow(execution)
    except shutdown.Stopped:
        return 130
    return 0


def _run(settings: UserSettings, resolved: Settings, ask: bool) -> int:
    command = settings.command()
    console = open_console(stderr=settings.log_format == "json")
    worker.prepare(resolved)
    study = registry.study(resolved.study)
    reuse.code_digest(tuple(resolved.plugins))  # of what is loaded now: files may change while trials train
    keep_results(resolved)
    store = Store(resolved.folder)
    display = Display(console, store.path, settings.log_format == "json")
    for message in store.audit():
        console.print(f"[yellow]warning:[/] {message}", markup=True)
    workers, device = capacity(resolved)
    for failure in store.failures.retry():
        console.print(f"failed before, tried again: {failure.describe()}", markup=False)
    plan = planning.make(resolved, study, store, workers, device)
    console.print(f"{command}\n{summary(plan, store)}", markup=False)
    tell_departures(settings, resolved, console)
    notes: list[str] = []
    if plan.pending:
        hours, notes = check_and_estimate(resolved, study, store, device, console)
        if ask and not resolved.yes and hours is not None and hours > ASK_ABOVE_HOURS:
            _confirm(hours, console)
    _check_data(resolved, plan, store)
    planning.keep(plan, resolved, store, command)
    display.say("start", folder=store.path, command=command)
    with Tracker(store, resolved, partial(warn, display)) as tracker:
        plan = _train_orderly(resolved, study, store, plan, workers, device, display, command)
        planning.keep(plan, resolved, store, command)
        tracker.trained()
        if distributed.requested():
            data_parallel.dismiss()
            distributed.stop()
        with leases.of(store.address, leases.owner(), resolved.lease).exclusive("report"):
            earlier = _earlier(store, resolved.wandb, resolved.model_dump(mode="json"), plan)
            analysis = _report(earlier, partial(reporting.renew, store, study, resolved), tracker, console)
    page = store.path / "report" / "report.html"
    display.say("analysed", report=page, verdict=analysis.verdict, warnings=analysis.warnings)
    print_results(analysis, page, console, notes)
    return 1 if failed_trials.of_study(study, resolved, store) else 0


def tell_departures(settings: UserSettings, resolved: Settings, console: Console) -> None:
    """Say what is done otherwise than typed: settings without effect, and a reference that is not among the betas."""
    for sentence in (*settings.idle(), *_unused(settings, list(resolved.spaces.values()))):
        console.print(f"note: {sentence}", markup=False)
    if resolved.precision == "bf16" and device_type(resolved.execution) == "cpu" and not has_bfloat16():
        console.print("note: this processor has no instructions for bfloat16: precision=fp32 is likely to be faster")
    betas = settings.beta or registry.task(resolved.task).beta
    if settings.reference not in betas and settings.reference in resolved.beta and not settings.pretrained:
        console.print(f"note: beta={settings.reference:g} is added, the reference that others are compared with")


def _unused(settings: UserSettings, spaces: Sequence[Space]) -> list[str]:
    """A sentence for each setting that does not do what it says, in view of the rest of the grid."""
    typed = settings.model_fields_set
    optimizers, decays, clips, rates = (
        {space[key] for space in spaces} for key in ("optimizer", "weight_decay", "clip", "lr")
    )
    without_adam = {"adam", "adamw"}.isdisjoint(sum(optimizers, ()))
    sentences = {
        "momentum=0 is beta_1=0.9, the usual one, where the optimizer is adam or adamw": (
            0 in (settings.momentum or ()) and not without_adam
        ),
        "carry=all does no more than carry=rate where there is no weight decay, clip or eps": (
            settings.carry == "all" and without_adam and decays == clips == {(0,)}
        ),
        "head_decay= has no effect with weight_decay=0": "head_decay" in typed and decays == {(0,)},
        "extend= has no effect where one learning rate is given": "extend" in typed and max(map(len, rates)) == 1,
        "switch_at= has no effect with interventions=no": "switch_at" in typed and settings.interventions == "no",
    }
    return [sentence for sentence, is_so in sentences.items() if is_so]


def keep_results(settings: Settings) -> None:
    """Refuse a smoke run that would replace the report of a run on all data.

    Raises:
        SettingsError: it would.
    """
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


def _confirm(hours: float, console: Console) -> None:
    """Ask whether a long run shall start.

    Raises:
        SettingsError: it shall not.
    """
    answer = console.input(f"This takes about {hours:,.0f} device hours. Go on? [y/N] ", markup=False)
    if answer.strip().lower() not in ("y", "yes"):
        raise SettingsError("not started: give fewer values, or yes=true to go on without being asked")


def device_type(execution: Execution) -> str:
    """Type of the device that trials train on: "cpu", "cuda" or "mps"."""
    return pick(execution.device).type


def capacity(execution: Execution) -> tuple[int, str]:
    """Groups at once, and the type of the device they train on; joins the Ray cluster where there is to be one.

    Raises:
        SettingsError: Ray is not installed, or `gang` needs it.
    """
    if execution.executor == "ray" and not distributed.requested():
        return ray_executor().capacity(execution)
    if execution.gang > 1 and not distributed.requested():
        raise SettingsError(
            f"gang={execution.gang} needs executor=ray; without Ray: torchrun --nproc-per-node={execution.gang} -m ..."
        )
    device = device_type(execution)
    return local.worker_count(execution, device), device


def ray_executor() -> ModuleType:
    """The module that trains on a Ray cluster.

    Raises:
        SettingsError: Ray is not installed.
    """
    try:
        from calib_bench.execute import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise SettingsError('executor=ray needs Ray: pip install "calib_bench[ray]"') from None
    return ray


def summary(plan: planning.Plan, store: Store) -> str:
    """A sentence on how many trials of a plan are done, and how many are to run in the round that comes."""
    left = (
        f"{plan.pending:,} to run in this round, in {counted(len(plan.groups), 'group')}"
        if plan.pending
        else "0 to run"
    )
    return f"{counted(len(plan.trials), 'trial')} in {store.label}: {plan.done:,} done, {left}"


def check_and_estimate(
    settings: Settings, study: Study, store: Store, device: str, console: Console, fetch: bool = True
) -> tuple[float | None, list[str]]:
    """Load the data, so that what is wrong with it shows now; print what is still to come and notes on the data.

    Returns:
        The device hours, None where nothing is to come, or nobody knows how long it takes on the device; the notes.

    Raises:
        DataError: the data is missing or not what the task declares.
        SettingsError: a model does not take the task's inputs.
    """
    coming = planning.foresee(settings, study, store)
    if not coming:
        return None, []
    splits = worker.load_splits(settings, coming[0], fetch)
    for model in settings.model or ():
        models.check(model, splits.spec.kind)
    sizes = f"{len(splits.train):,} for training, {len(splits.test):,} to test"
    console.print(f"data: {splits.source}, {sizes}", markup=False)
    notes = _notes(coming, splits, settings, fetch)
    for note in notes:
        console.print(f"note: {note}", markup=False)
    seconds = [value for value in trial_time.seconds(coming, splits, device, settings.threads) if value is not None]
    trials = f"{counted(len(coming), 'trial')} to run in all rounds"
    more = "; more are added where a best rate is at the edge of its grid" if _rates_may_grow(settings.grid) else ""
    if len(seconds) < len(coming):
        console.print(f"{trials}{more}; how long they take on {device} is not known")
        return None, notes
    probes = ", and what their probes take" if any(trial.probe for trial in coming) else ""
    time_needed = f"about {duration(sum(seconds))} of device time (rough){probes}"
    console.print(f"{trials}, {time_needed}{more}", markup=False)
    return sum(seconds) / 3600, notes


def _rates_may_grow(grid: Grid) -> bool:
    return grid.extend > 0 and any(len(space["lr"]) > 1 for space in grid.spaces.values())


def _notes(coming: Sequence[Trial], splits: Splits, execution: Execution, fetch: bool) -> list[str]:
    """Notes on the data of the first trial, and on what each further model of transformers makes of it."""
    by_model = {trial.model: trial for trial in coming if trial.model.startswith(HF)}
    by_model.pop(coming[0].model, None)
    notes = [*splits.notes.values()]
    for trial in by_model.values():
        notes += worker.load_splits(execution, trial, fetch).notes.values()
    return list(dict.fromkeys(notes))


def _check_data(execution: Execution, plan: planning.Plan, store: Store) -> None:
    """Hold the data at hand against what the stored trials were trained on; write labels anew where they are gone.

    Where there is no data any more, what is stored stands.

    Raises:
        DataError: the user named a folder of data, and it cannot be read.
        StoreError: the data are not those of the stored trials.
    """
    one_of_each_split = {trial.split: trial for trial in plan.trials if store.has(trial)}
    for trial in one_of_each_split.values():
        try:
            splits = worker.load_splits(execution, trial)
        except DataError:
            if execution.data is not None:
                raise
            continue
        store.write_splits(trial, splits)


def _executor(execution: Execution, workers: int) -> Any:
    """Where trials run: on all processes of a `torchrun`, as tasks of a Ray cluster, or on workers of this machine."""
    if distributed.requested():
        return nullcontext(data_parallel.Leader(execution))
    return ray_executor().Cluster(execution) if execution.executor == "ray" else local.Workers(execution, workers)


def _train_orderly(
    settings: Settings,
    study: Study,
    store: Store,
    plan: planning.Plan,
    workers: int,
    device: str,
    display: Display,
    command: str,
) -> planning.Plan:
    """Train; an interrupt saves what is under way. Returns the plan that is done.

    Raises:
        Stopped: it was interrupted; says which command goes on.
    """
    try:
        with shutdown.together() if distributed.requested() else shutdown.orderly():
            return train(settings, study, store, plan, workers, device, display)
    except shutdown.Stopped:
        raise shutdown.Stopped(f"stopped, and what was under way is saved; go on with\n  {command}") from None


def train(
    settings: Settings, study: Study, store: Store, plan: planning.Plan, workers: int, device: str, display: Display
) -> planning.Plan:
    """Train what is pending, and plan again after each round, until nothing is. Returns the last plan.

    Args:
        settings: resolved.
        study: whose trials they are.
        store: where results go.
        plan: of the first round.
        workers: groups at once.
        device: the type of the device.
        display: shows how far it is.

    Raises:
        UserError: no trial could be finished.
    """
    console = display.console
    start, rounds, total = time.perf_counter(), 0, 0
    claims = leases.of(store.address, leases.owner(), settings.lease)
    with _executor(settings, workers) as executor:
        while plan.pending:
            _wait_for_others(plan, claims, console)
            rounds += 1
            with display.training(rounds, plan.done, plan.pending, plan.failed):
                total += executor.run(plan.groups, store, display.advance)
            plan = planning.make(settings, study, store, workers, device)
    display.say("trained", done=plan.done, trained=total, failed=plan.failed)
    if rounds:
        seconds = time.perf_counter() - start
        trained = f"trained {counted(total, 'trial')} in {counted(rounds, 'round')} and {seconds:.1f} s"
        console.print(f"{trained}, {counted(workers, 'worker')}", markup=False)
    if plan.failed and not plan.done:
        first, *others = store.failures.now().values()
        more = f" (and {len(others):,} more: see {store.failures.folder})" if others else ""
        raise UserError(f"no trial could be finished: {first.describe()}{more}")
    if plan.failed:
        console.print(f"[red]{counted(plan.failed, 'trial')} failed[/]: the report names them", markup=True)
    return plan


def _wait_for_others(plan: planning.Plan, others: leases.Leases, console: Console) -> None:
    """Return once there is a trial that no other process is training, or one that another process has finished."""
    keys = {trial.key for group in plan.groups for trial in group}
    if keys <= others.leased():
        console.print(f"Waiting for {counted(len(keys), 'trial')} that another process is training", markup=False)
    while keys <= others.leased():
        data_parallel.leave_if_asked()
        time.sleep(min(1.0, others.seconds / leases.BEATS))


def _earlier(store: Store, wandb: str, settings: Mapping[str, Any], plan: planning.Plan) -> Analysis | None:
    """What the report says that is there, if it would come out the same now and W&B has it."""
    logged = wandb == "disabled" or analysis_export.is_current(store)
    return reuse.current(store, settings, plan.trials) if logged else None


def _report(earlier: Analysis | None, renew: Callable[[], Analysis], tracker: Tracker, console: Console) -> Analysis:
    """Write the report, unless it is there from earlier, and log what is left."""
    analysis = earlier
    if analysis is None:
        with status(console, "calibrating and measuring"):
            analysis = renew()
    with status(console, "logging to Weights & Biases"):
        tracker.finish(None if earlier else analysis)
    return analysis
