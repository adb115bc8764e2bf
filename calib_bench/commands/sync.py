"""Replay a run folder into Weights & Biases, as often as one likes: what is there already stays as it is."""

from __future__ import annotations

from pathlib import Path

from calib_bench import registry
from calib_bench.core.settings import Settings, parse
from calib_bench.errors import ResourceError, SettingsError, nearest
from calib_bench.store.store import Store
from calib_bench.tracking import analysis_export
from calib_bench.tracking.tracker import Tracker

KEYS = ("wandb", "wandb_runs", "wandb_wait", "plugins")


def sync(words: list[str]) -> int:
    """`sync RUN [wandb=offline] [wandb_runs=all] [wandb_wait=60]`; online unless told otherwise.

    Raises:
        SettingsError: not one folder, or another key.
        StoreError: the folder is no run folder, or not whole.
        ResourceError: the server could not be reached.
    """
    folders, given = [w for w in words if "=" not in w], [w for w in words if "=" in w]
    if len(folders) != 1:
        raise SettingsError("sync takes one run folder: python -m calib_bench sync runs/digits-separation")
    for word in given:
        if (key := word.partition("=")[0]) not in KEYS:
            raise SettingsError(f"sync does not take {key}: {nearest(key, KEYS)}")
    asked = parse(given)
    store = Store(Path(folders[0]), "read")
    settings = store.settings()
    registry.use_stored(store.path, settings.plugins, asked.plugins)
    named = {word.partition("=")[0] for word in given}
    update = {"wandb": "online"} | {key: getattr(asked, key) for key in named} | {"plugins": asked.plugins}
    return _replay(store, settings.model_copy(update=update))


def _replay(store: Store, settings: Settings) -> int:
    from calib_bench.execute import worker
    from calib_bench.report import build as reporting

    worker.prepare(settings)
    study = registry.study(settings.study)
    analysis = None
    if not analysis_export.is_current(store):
        analysis = study.analyse(settings, store)
        reporting.build(store, study, settings, analysis)
    said: list[str] = []
    with Tracker(store, settings, said.append) as tracker:
        count = tracker.finish(analysis)
    if tracker.trouble:
        raise ResourceError("\n".join(said))
    print(f"{count:,} runs logged {settings.wandb}; what was there already stays as it is")
    return 0
