"""A run folder, opened for a command that reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.errors import SettingsError, StoreError

if TYPE_CHECKING:
    from calib_bench.core.settings import Settings
    from calib_bench.core.task import Content
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store


def open_run(folder: Path, plugins: Sequence[Path]) -> tuple[Store, Settings]:
    """The store of a run folder and the run's settings, with the plug-ins loaded that it needs.

    Args:
        folder: the run folder.
        plugins: folders of plug-ins that the user trusts; the run's own are code, and load only if they are among them.

    Raises:
        StoreError: it is no run folder, or is damaged.
        SettingsError: it needs plug-ins that are not among those given.
    """
    from calib_bench.store.store import Store

    store = Store(folder, "read")
    settings = store.settings()
    registry.use_stored(folder, settings.plugins, plugins, settings.names())
    registry.adapt_task(settings.task, settings.content)
    return store, settings


def data_name(store: Store, content: Content | None, trial: Trial) -> str:
    """The task of a trial; of the user's own data, which are all of one task, with the beginning of their digest."""
    if content is None:
        return trial.task
    return f"{trial.task}-{store.split_info(trial)['digest'].partition(':')[2][:8]}"


def stored_trial(place: str) -> tuple[Store, str]:
    """The run folder and key that a word names.

    Raises:
        SettingsError: it names no stored trial.
        StoreError: the run folder holds no such trial.
    """
    from calib_bench.evaluation.stored import stored
    from calib_bench.store.store import near_runs

    store_and_key = stored(place)
    if store_and_key is None:
        hint = near_runs(Path(place.partition(":")[0]))
        raise SettingsError(f"{place} is not a stored trial: name one as runs/<study>:<key>{hint}")
    return store_and_key


def evaluation(folder: Path) -> dict[str, Any]:
    """The provenance of a folder that `evaluate` or `compare` made; empty of any other folder.

    Raises:
        StoreError: it is damaged.
    """
    path = folder / "provenance.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}): evaluate makes it again") from None
