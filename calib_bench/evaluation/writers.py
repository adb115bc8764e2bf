"""Predictions as the bytes of files, in the layouts that are read: equal results come of what is read back."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from calib_bench.evaluation.hdf5 import h5py
from calib_bench.evaluation.predictions import Predictions


def one_split(predictions: Predictions) -> bytes:
    """An npz file of `logits` and `labels`."""
    return _npz(logits=predictions.Z_NK.numpy(), labels=predictions.y_N.numpy())


def two_splits(calibration: Predictions, test: Predictions) -> bytes:
    """An npz file of `logits_val`, `labels_val`, `logits_test` and `labels_test`."""
    return _npz(
        logits_val=calibration.Z_NK.numpy(),
        labels_val=calibration.y_N.numpy(),
        logits_test=test.Z_NK.numpy(),
        labels_test=test.y_N.numpy(),
    )


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def jsonl(predictions: Predictions) -> bytes:
    """Lines of `logits` and `label`, every digit kept."""
    rows = zip(predictions.Z_NK.tolist(), predictions.y_N.tolist(), strict=True)
    return "".join(json.dumps({"logits": z, "label": y}) + "\n" for z, y in rows).encode()


def hdf5(calibration: Predictions, test: Predictions, before: bytes = b"") -> bytes:
    """An HDF5 file with one group more, or anew, than it had: probas_cal, labels_cal, probas_test, labels_test.

    Probabilities [N, K] are kept in full, for two classes too: one minus the other would lose the small ones.

    Args:
        before: the bytes of the file as it was; empty where there was none.
    """
    buffer = io.BytesIO(before)
    with h5py().File(buffer, "a" if before else "w") as file:
        name = group_of(test)
        if name in file:
            del file[name]
        group = file.create_group(name)
        for split, predictions in (("cal", calibration), ("test", test)):
            probabilities = predictions.Z_NK.double().softmax(-1).numpy()
            group.create_dataset(f"probas_{split}", data=probabilities, compression="gzip")
            group.create_dataset(f"labels_{split}", data=predictions.y_N.numpy(), compression="gzip")
    return buffer.getvalue()


def group_of(test: Predictions) -> str:
    """The group of a stored trial: task, then model with beta, objective, seed and the beginning of its key."""
    trial = test.trial
    assert trial is not None
    model = f"{trial.model}_beta{trial.beta:g}_{trial.objective}_seed{trial.seed}_{test.name[:8]}"
    return f"{trial.task}/{model}".replace(":", "-")
