"""`sync`: replay a run folder into Weights & Biases, as often as one likes: what is there already stays as it is."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from calib_bench import registry
from calib_bench.commands.command import PLUGINS, RUN, Command, setting
from calib_bench.commands.stored_run import open_run
from calib_bench.errors import ResourceError, SettingsError, counted

if TYPE_CHECKING:
    from calib_bench.core.settings import Settings
    from calib_bench.store.store import Store

CHANGED = ("wandb", "wandb_runs", "wandb_wait")
"""Settings of the run that the command line may change."""


def _call(arguments: Namespace) -> int:
    """Replay the run folder: online, and with the run's own settings, unless told otherwise.

    Raises:
        StoreError: the folder is no run folder, or not whole.
        ResourceError: there is no key, or the server could not be reached.
        SettingsError: wandb=disabled, which logs nothing.
    """
    if arguments.wandb == "disabled":
        raise SettingsError("wandb=disabled logs nothing: give wandb=online, the default, or wandb=offline")
    store, settings = open_run(arguments.run, arguments.plugins)
    typed = {key: value for key in CHANGED if (value := getattr(arguments, key)) is not None}
    update = {"wandb": "online", "plugins": arguments.plugins} | typed
    return _replay(store, settings.model_copy(update=update))


COMMAND = Command(
    "sync",
    """\
Replays a run folder into Weights & Biases, online unless told otherwise, as often as you like: what is there already
stays as it is. Options that are not given are as in the run.""",
    (
        RUN,
        setting("wandb", "online (the default) or offline"),
        setting("wandb_runs", "what is a run of its own: arms, selected or all"),
        setting("wandb_wait", "timeout of the server, in seconds"),
        PLUGINS,
    ),
    (
        "sync runs/digits-separation",
        "sync runs/digits-separation wandb_runs=all wandb_wait=300",
        "sync runs/digits-separation wandb=offline",
    ),
    _call,
)


def _replay(store: Store, settings: Settings) -> int:
    from calib_bench.execute import worker
    from calib_bench.report import build as reporting
    from calib_bench.tracking import analysis_export
    from calib_bench.tracking.tracker import Tracker

    worker.prepare(settings)
    study = registry.study(settings.study)
    analysis = None
    if not analysis_export.is_current(store):
        analysis = reporting.renew(store, study, settings)
    with Tracker(store, settings, warn=lambda _: None, else_offline=False) as tracker:
        count = tracker.finish(analysis)
    if tracker.trouble:
        raise ResourceError(
            f"{tracker.trouble}. {counted(count, 'run')} logged; the same command logs the others. wandb=offline "
            f"writes them to {store.path / 'wandb'}, for `wandb sync`"
        )
    print(f"{counted(count, 'run')} logged {settings.wandb}; what was there already stays as it is")
    return 0
