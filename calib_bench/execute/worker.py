"""What a worker does: load the data once, train a group, store each result as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from calib_bench import models, registry
from calib_bench.core.corruption import source_name
from calib_bench.core.fate import label_entropy
from calib_bench.core.settings import Execution, Settings
from calib_bench.core.splits import Request, Splits
from calib_bench.core.study import Probe
from calib_bench.core.task import Task
from calib_bench.core.trial import Trial, TrialResult, of_file, scored_as_published
from calib_bench.data.corrupt import code_of, corrupted
from calib_bench.data.heads import on_head, on_named_head
from calib_bench.data.label_noise import noisy
from calib_bench.data.shifted_files import read_shifted
from calib_bench.errors import DataError, DiskFull, SettingsError, StoreError
from calib_bench.execute import heartbeat
from calib_bench.metrics import log_loss_n
from calib_bench.models import weights
from calib_bench.planning.plan import Group
from calib_bench.store import leases
from calib_bench.store.failures import Kind, kind_of
from calib_bench.store.store import Store
from calib_bench.system import shutdown
from calib_bench.system.device import pick
from calib_bench.train.train import train

Progress = Callable[[float], None]
"""Called with the number of trials' worth of work done since the last call."""

TICK = 0.5
"""Seconds between two reports of progress."""

FATAL = (SettingsError, DataError, StoreError, DiskFull)
"""What concerns every trial and only the user can put right."""


class Spent(Exception):
    """Memory ran out in this process, be it that something leaks: what is left of the group is for a fresh one."""


def prepare(execution: Execution) -> None:
    """Set up the process: threads, denormals (vanishing gradients slow a CPU many-fold), plug-ins."""
    torch.set_num_threads(execution.threads)
    torch.set_flush_denormal(True)
    registry.use_plugins(execution.plugins, quiet=True)
    if execution.weights is not None and execution.weights.is_file():
        weights.name_of(execution.weights)
    if isinstance(execution, Settings):
        registry.adapt_task(execution.task, execution.content)


def throttled(send: Callable[[float], Any], seconds: float = TICK) -> Progress:
    """Progress that is sent every so many seconds at most; an amount of 0 sends the rest."""
    held, last = 0.0, 0.0

    def progress(amount: float) -> None:
        nonlocal held, last
        held += amount
        if held and (not amount or time.monotonic() - last > seconds):
            send(held)
            held, last = 0.0, time.monotonic()

    return progress


def load_splits(execution: Execution, trial: Trial, fetch: bool = True) -> Splits:
    """The data of a trial with the further test splits that it names, its labels those of the pretrained head where
    there is one; the last two loaded are kept.

    Args:
        execution: where data is looked for.
        trial: whose data.
        fetch: whether data that is not on this machine is downloaded.

    Raises:
        DataError: data is missing or not as declared.
        SettingsError: a pretrained head is to be scored on classes that cannot be matched with its own.
    """
    scored = scored_as_published(trial)
    start = trial.weights or "" if trial.pretrained else None
    request = Request(
        trial.task, execution.data, trial.split, trial.limit, trial.model, fetch, execution.input, execution.label
    )
    splits = _load(request, start, scored)
    by_name = {source_name(source): source for source in execution.shift}
    sources = tuple(by_name.get(name, name) for name in trial.shift.split(",") if name)
    return _shifted(splits, trial.task, trial.limit, sources) if sources else splits


@lru_cache(maxsize=2)
def _load(request: Request, start: str | None, scored: bool) -> Splits:
    splits, model = _of_task(registry.task(request.task), request), str(request.model)
    if start is None:
        return splits
    splits = replace(splits, notes={**splits.notes, **_normalization(splits)})
    if of_file(start):
        return _on_file(splits, start, model, scored)
    return on_head(splits, models.pretrained_head(model), model, scored)


def _of_task(task: Task, request: Request) -> Splits:
    """What a task loads.

    Raises:
        DataError: it is not what the task declares.
    """
    splits = task.load(request)
    if not isinstance(splits, Splits):
        made = f"load of task {request.task!r} gave {type(splits).__name__}"
        raise DataError(f"{made}: it returns Splits, as calib_bench.data.arrays(read, ...) makes it")
    if task.adapt is None and splits.classes != task.classes and "classes" not in splits.notes:  # no declared subset
        raise DataError(f"task {request.task!r} declares {task.classes} classes, and its data has {splits.classes}")
    return splits


def _normalization(splits: Splits) -> dict[str, str]:
    """A note on how images in memory are normalized, which weights of others need not know; empty for other inputs."""
    normalize = getattr(splits.train, "normalize", None)
    if normalize is None:
        return {}
    means, deviations = (", ".join(f"{value:g}" for value in values) for values in normalize)
    sentence = f"pixels, from 0 to 1, are normalized by means {means} and deviations {deviations}"
    return {"normalize": f"{sentence}: weights that were trained with others see other inputs"}


def _on_file(splits: Splits, start: str, model: str, scored: bool) -> Splits:
    """The splits with the classes of a file's head, where it names them, and a note on what becomes of that head.

    Raises:
        SettingsError: the file names other classes, or a new head would be scored as it is.
        UserError: the file does not fit the model.
    """
    file = weights.named(start)
    splits = on_named_head(splits, file.class_names, file.path.name) if file.class_names else splits
    with torch.random.fork_rng([]):
        _, kept = models.from_file(model, splits.spec, splits.classes, start)
    if scored and not kept:
        raise SettingsError(
            f"{file.path} has no head for the {splits.classes:,} classes of the data, so it would be random: give "
            f"epochs= to train a new head, or name its classes in the file's entry {weights.CLASS_NAMES!r}"
        )
    head = f"its head of {splits.classes:,} classes too" if kept else f"a new head of {splits.classes:,} classes"
    note = f"{model} starts from the weights of {file.path.name} ({start[:20]}), {head}"
    return replace(splits, notes={**splits.notes, "weights": note})


@lru_cache(maxsize=2)
def _shifted(splits: Splits, task: str, limit: int | None, sources: tuple[str, ...]) -> Splits:
    """The splits with further test splits, which corruptions make or the user's files hold."""
    corruptions, further, made = registry.names("corruptions"), {}, [splits.preparation]
    for source in sources:
        if source in corruptions:
            corruption = registry.load("corruptions", source)
            further.update(corrupted(task, splits, registry.task(task).image or (), source, corruption))
            made.append(code_of(corruption))
        else:
            read = read_shifted(Path(source), splits, task, limit)
            further.update(read.splits)
            made.append(read.digest)
    return replace(splits, shifted=further, preparation=sha256(repr(made).encode()).hexdigest())


@contextmanager
def acquired(
    group: Group, execution: Execution, store: Store, owner: str
) -> Iterator[tuple[Group, leases.Lease | None]]:
    """The trials of a group that are neither stored nor another driver's, leased for as long as the block lasts."""
    store_leases = leases.of(store.address, owner, execution.lease)
    leased = store_leases.leased()
    free = [trial for trial in group if trial.key not in leased and not store.has(trial)]
    lease = store_leases.acquire([trial.key for trial in free]) if free else None
    if lease is None:
        yield (), None
        return
    try:
        store.refresh()
        yield tuple(trial for trial in free if not store.has(trial)), lease
    finally:
        store_leases.release(lease)


def run_group(
    group: Group,
    execution: Execution,
    store: Store,
    progress: Progress,
    owner: str = "",
    expendable: bool = False,
) -> int:
    """Train what is left of one group and store its results; returns how many are stored now.

    Args:
        owner: the driver; this process where there is no other.
        expendable: whether another process can take over from this one.

    Raises:
        Stopped: it was asked to, and what is under way is saved.
        Spent: an expendable process ran out of memory.
        SettingsError, DataError, StoreError, DiskFull: nothing would do better.
    """
    shutdown.check()
    with acquired(group, execution, store, owner or leases.owner()) as (left, lease):
        if lease is None or not left:
            return 0

        def checked_progress(amount: float) -> None:
            lease.check()
            progress(amount)

        try:
            train_apart(left, execution, store, checked_progress, expendable)
        except leases.LostError:
            return 0
        return sum(store.has(trial) for trial in left)


def train_apart(group: Group, execution: Execution, store: Store, progress: Progress, expendable: bool = False) -> None:
    """Train a group and store its results. A trial that cannot be finished is recorded as failed, with its cause.

    A group of several that fails is halved until the culprit is alone: a trial's bits do not depend on its group.

    Raises:
        Stopped: it was asked to, and what is under way is saved.
        Spent: an expendable process ran out of memory.
        SettingsError, DataError, StoreError, DiskFull: nothing would do better.
    """
    failed = _attempt(group, execution, store, progress)
    if failed == "memory" and expendable:
        raise Spent
    for half in halves(group, store) if failed else []:
        shutdown.check()
        train_apart(half, execution, store, progress, expendable)


def _attempt(group: Group, execution: Execution, store: Store, progress: Progress) -> Kind | None:
    """Train a group; how it failed, if it did. Once this has returned, no frame holds on to what filled the memory."""
    try:
        train_group(group, execution, store, progress)
    except (*FATAL, leases.LostError):
        raise
    except Exception as error:
        store.checkpoints.finish(store.checkpoints.path(group))
        if len(group) == 1:
            store.failures.raised(group[0], error)
        return kind_of(error)
    return None


def halves(group: Group, store: Store) -> list[Group]:
    """What is left to try of a group that failed, in two; none of a group of one."""
    left = tuple(trial for trial in group if not store.has(trial))
    middle = len(left) // 2
    return [half for half in (left[:middle], left[middle:]) if half and len(group) > 1]


def train_group(group: Group, execution: Execution, store: Store, progress: Progress) -> None:
    """Train a group, whole, and store its results.

    Raises:
        OutOfMemory: a batch does not fit in memory.
    """
    splits = load_splits(execution, group[0])
    data = store.write_splits(group[0], splits)
    steps = max(1, group[0].epochs * splits.train.steps(group[0].batch))
    checkpoint = store.checkpoints.begin(group)

    def step_done(done: int) -> None:
        store.checkpoints.keep(checkpoint)
        progress(done / steps)

    with heartbeat.given(store.path, checkpoint.stem, group):
        results = train(
            group,
            splits,
            device=pick(execution.device),
            objectives=registry.objectives(),
            probe=probe_of(group[0]),
            checkpoint=checkpoint,
            checkpoint_seconds=execution.checkpoint,
            progress=step_done,
            compile=execution.compile,
            micro_batch=execution.micro_batch,
        )
    store.write_together([(result, _metadata(result, splits)) for result in results], data)
    progress(sum(not result.trial.epochs for result in results))
    store.checkpoints.finish(checkpoint)


def _metadata(result: TrialResult, splits: Splits) -> dict[str, Any]:
    """What a trial records beside what its loop reports: the entropy of its labels, and its selection scores."""
    metadata: dict[str, Any] = {"label_entropy": _label_entropy(result.trial, splits)}
    if result.logits:
        metadata["selection"] = selection_scores(result, splits)
    return metadata


def probe_of(trial: Trial) -> Probe | None:
    """The probe that a trial names; None where it names none.

    Raises:
        SettingsError: there is no such probe.
    """
    return registry.probe(trial.probe) if trial.probe else None


def _label_entropy(trial: Trial, splits: Splits) -> float:
    """Entropy in nats of the labels that the trial trains on."""
    labels = splits.train.labels
    if trial.label_noise:
        labels = noisy(labels, trial.label_noise, splits.classes, trial.split)
    return label_entropy(labels, splits.classes)


def selection_scores(result: TrialResult, splits: Splits) -> dict[str, float]:
    """What may choose a rate: log loss of softmax(beta z), the same after a temperature, and the error rate."""
    temperature = registry.load("baselines", "temperature_scaling")
    z_NK = result.logits["selection"].double() * result.trial.beta
    y_N = splits.selection.labels
    repaired_NK = temperature.apply(temperature.fit(z_NK, y_N), z_NK)
    return {
        "log_loss": log_loss_n(z_NK.log_softmax(-1), y_N).mean().item(),
        "repaired_log_loss": log_loss_n(repaired_NK, y_N).mean().item(),
        "error": (z_NK.argmax(-1) != y_N).double().mean().item(),
    }
