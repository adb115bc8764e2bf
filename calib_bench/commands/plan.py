"""`plan`: what `run` would do, how long it takes and what it would cost."""

from __future__ import annotations

from calib_bench import registry
from calib_bench.commands.console import open_console
from calib_bench.commands.run import check_and_estimate, device_type, summary
from calib_bench.core.settings import UserSettings
from calib_bench.errors import DataError
from calib_bench.execute import local
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store


def show_plan(settings: UserSettings, gpus: int = 64, price: float | None = None) -> int:
    """Print what `run` would do, and change nothing.

    Args:
        gpus: for which the time on a cluster is told.
        price: of one GPU for an hour, to tell a cost.
    """
    from calib_bench.planning import cluster_estimate

    console = open_console()
    resolved = resolve(settings)
    study = registry.study(resolved.study)
    store = Store(resolved.folder, "peek")
    device = device_type(resolved)
    plan = planning.make(resolved, study, store, local.worker_count(resolved, device), device)
    console.print(f"{study.question}\n{resolved.command()}", markup=False)
    for model, space in resolved.spaces.items():
        grid = "  ".join(f"{key}={','.join(_short(v) for v in values)}" for key, values in space.items())
        console.print(f"{model}: {grid}  seed={','.join(map(str, resolved.seed))}", markup=False)
    console.print(summary(plan, store), markup=False)
    sizes = sorted((len(group) for group in plan.groups), reverse=True)
    if sizes:
        console.print(f"groups of {', '.join(map(str, sizes[:12]))}{', ...' * (len(sizes) > 12)} trials", markup=False)
    if plan.pending and (found := cluster_estimate.estimate(resolved, study, store, gpus)):
        console.print(found.text(price), markup=False)
    if plan.pending:
        try:
            check_and_estimate(resolved, study, store, device, console)
        except DataError as error:
            console.print(f"cost not estimated: {error}", markup=False)
    return 0


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
