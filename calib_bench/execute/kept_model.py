"""A stored trial's model, made again from the weights that it kept, and its logits of the trial's own or new data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from calib_bench import registry
from calib_bench.core.settings import Execution
from calib_bench.core.splits import SPLITS, Split, Splits
from calib_bench.core.trial import Trial
from calib_bench.data.naming import listed
from calib_bench.data.new_data import read_new
from calib_bench.errors import DataError, SettingsError, StoreError, nearest
from calib_bench.execute import worker
from calib_bench.planning.plan import keeping
from calib_bench.store.store import Store
from calib_bench.system.device import pick
from calib_bench.train.initialize import initial_model
from calib_bench.train.predict import predict


@dataclass(frozen=True)
class Prediction:
    """Logits of a kept model.

    Attributes:
        Z_NK: beta z [N, K], float64.
        labels: int64 [N]; None where they are not known.
        ids: [N], what the data calls its rows; None where nothing does.
        class_names: K names.
        digests: SHA-256 of the data and of the weights, and the trial's key.
        note: what to know of new inputs; "" where nothing is odd.
    """

    Z_NK: Tensor
    labels: np.ndarray | None
    ids: np.ndarray | None
    class_names: tuple[str, ...]
    digests: Mapping[str, str]
    note: str


def with_weights(store: Store, trial: Trial) -> Trial:
    """The trial itself, or its like that kept its weights.

    Raises:
        StoreError: neither did.
    """
    for one in (trial, keeping(trial)):
        if store.has(one) and store.weights(one):
            return one
    raise StoreError(
        f"trial {trial.key} kept no weights: run the study's command again with keep=weights{_those_that_did(store)}"
    )


def _those_that_did(store: Store) -> str:
    """A clause that names trials with weights; empty where there are none."""
    kept = sorted(key for key in store.stored_keys() if store.digests(store.trial(key), "weights"))
    return f"; those that did: {listed(kept)}" if kept else ""


def predicted(store: Store, execution: Execution, trial: Trial, data: Path | None, split: str) -> Prediction:
    """The logits of a trial's kept model.

    Args:
        store: the run folder.
        execution: where the task's data is, and the device.
        trial: one that kept its weights.
        data: new data, see `calib_bench.data.new_data`; None for the trial's own.
        split: of the trial's data, or the part of a folder of new data.

    Raises:
        DataError: the task's data is not that of the trial; or new data is not like it.
        SettingsError: the trial has no such split.
    """
    splits = _splits(store, execution, trial)
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None
    note = ""
    if data is None:
        examples, digest = _own(splits, split), splits.digest
        labels = store.labels(trial)[split].numpy()
    else:
        new = read_new(data, split, splits, trial.task, registry.task(trial.task).source)
        examples, digest, ids, note = new.split, new.digest, new.ids, new.note
        labels = new.split.labels.numpy() if new.labelled else None
    device = pick(execution.device)
    model = initial_model(_bare(trial), splits, device, registry.objectives())
    model.load_state_dict(store.weights(trial))
    z_NK = predict(model, trial, splits, examples, device)
    (weights_digest,) = store.digests(trial, "weights").values()
    digests = {"trial": trial.key, "data_digest": digest, "weights_digest": f"sha256:{weights_digest}"}
    return Prediction(trial.beta * z_NK.cpu().double(), labels, ids, splits.class_names, digests, note)


def _bare(trial: Trial) -> Trial:
    """The trial without what it started from: its weights are known."""
    return trial.model_copy(update={"pretrained": False, "weights": None, "shift": ""})


def _splits(store: Store, execution: Execution, trial: Trial) -> Splits:
    """The task's data as the trial trained on it, with the classes of its head; labels are those of the task."""
    splits, record = worker.load_splits(execution, _bare(trial)), store.record(trial).data
    same = record["digest"] == splits.digest and (trial.weights or record["preparation"] == splits.preparation)
    preprocess = splits.notes.get("preprocess")
    if not (same and record.get("preprocess", preprocess) == preprocess):
        raise DataError(
            f"the data of task '{trial.task}' here, from {splits.source}, is not that of the trial (digests "
            f"{splits.digest[:20]} and {record['digest'][:20]}), so that new inputs might be prepared in another way: "
            "let $CALIB_BENCH_DATA name the folder that it was trained with"
        )
    names = tuple(store.split_info(trial)["class_names"])
    return replace(splits, classes=len(names), class_names=names)


def _own(splits: Splits, split: str) -> Split:
    if split not in SPLITS:
        raise SettingsError(f"split={split} is no split of a trial's data: {nearest(split, SPLITS)}")
    return splits[split]
