"""`plan`: what `run` would do, how long it takes and what it would cost."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from calib_bench.commands.command import SETTINGS, Command, Option, number, whole
from calib_bench.core.settings import Execution, Settings, UserSettings
from calib_bench.core.trial import Trial
from calib_bench.errors import DataError, counted


def _call(arguments: Namespace) -> int:
    return show_plan(arguments.settings, arguments.gpus, arguments.price)


COMMAND = Command(
    "plan",
    "Prints what run would do with the same keys, and changes nothing: trials, groups, what is done, estimated time.",
    (
        whole("--gpus", "GPUs of a cluster for which time and storage are estimated", 64),
        Option("--price", "price of a GPU hour there, to estimate the cost", number),
    ),
    (
        "plan",
        "plan task=cifar10 model=wrn_16_4 seed=0..4",
        "plan task=imagenet gpus=64 price=2.5",
    ),
    _call,
    keys=SETTINGS,
)


def show_plan(settings: UserSettings, gpus: int = 64, price: float | None = None) -> int:
    """Print what `run` would do, and change nothing.

    Args:
        settings: as typed.
        gpus: size of the cluster for which time and storage are estimated.
        price: of one GPU for an hour, to estimate the cost.
    """
    from calib_bench import registry
    from calib_bench.commands.console import open_console
    from calib_bench.commands.run_study import check_and_estimate, device_type, summary, tell_departures
    from calib_bench.execute import local, worker
    from calib_bench.planning import cluster_estimate
    from calib_bench.planning import plan as planning
    from calib_bench.planning.defaults import resolve
    from calib_bench.store.store import Store

    console = open_console()
    resolved = resolve(settings)
    worker.prepare(resolved)  # its threads: the speed that is measured is that of a trial
    study = registry.study(resolved.study)
    store = Store(resolved.folder, "peek")
    device = device_type(resolved)
    plan = planning.make(resolved, study, store, local.worker_count(resolved, device), device)
    console.print(f"{study.question}\n{resolved.command()}", markup=False)
    for line in _grid(resolved):
        console.print(line, markup=False)
    console.print(summary(plan, store), markup=False)
    tell_departures(settings, resolved, console)
    if plan.groups:
        console.print(_group_sizes(plan.groups), markup=False)
    if plan.pending:
        if estimate := cluster_estimate.estimate(resolved, study, store, gpus):
            console.print(estimate.text(price), markup=False)
        try:
            check_and_estimate(resolved, study, store, device, console, fetch=False)
        except DataError as error:
            console.print(f"cost not estimated: {error}", markup=False)
    for line in _degrees(resolved.execution, plan.trials):
        console.print(line, markup=False)
    return 0


def _degrees(execution: Execution, trials: Sequence[Trial]) -> list[str]:
    """A line for each model whose rates or decay follow beta by its Euler degree, which is measured here."""
    first = {trial.model: trial for trial in reversed(trials) if trial.needs_degree}
    return [_degree(execution, trial) for trial in first.values()]


def _degree(execution: Execution, trial: Trial) -> str:
    import torch

    from calib_bench.execute import worker
    from calib_bench.train.learning_rate import euler_degree_of

    if trial.degree is not None:
        return f"Euler degree L of {trial.model}: {trial.degree:g}, as given"
    try:
        splits = worker.load_splits(execution, trial, fetch=False)
    except DataError as error:
        return f"Euler degree L of {trial.model} not measured: {error}"
    measured = euler_degree_of(trial, splits, torch.device("cpu"))
    over = f"standard deviation {measured.spread:.2g} over {counted(len(measured.values), 'initialization')}"
    return f"Euler degree L of {trial.model}: {measured.mean:.3f}, {over}"


def _grid(resolved: Settings) -> list[str]:
    """A line for each model with the values of every grid key."""
    seeds = ",".join(map(str, resolved.seed))
    lines = []
    for model, space in resolved.spaces.items():
        keys = [f"{key}={','.join(map(_short, values))}" for key, values in space.items()]
        lines.append(f"{model}: {'  '.join([*keys, f'seed={seeds}'])}")
    return lines


def _group_sizes(groups: Sequence[Sequence[object]]) -> str:
    sizes = sorted((len(group) for group in groups), reverse=True)
    shown = [str(size) for size in sizes[:12]]
    if len(sizes) > 12:
        shown.append("...")
    return f"trials a group: {', '.join(shown)}"


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
