"""Predictions as the bytes of files, in the layouts that are read: equal results come of what is read back.

A split is its logits Z [N, K] and labels [N].
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np

from calib_bench.core.trial import Trial
from calib_bench.evaluation import Array
from calib_bench.evaluation.hdf5 import h5py

Split = tuple[Array, Array]


def one_split(split: Split) -> bytes:
    """An npz file of `logits` and `labels`."""
    return _npz(logits=split[0], labels=split[1])


def two_splits(calibration: Split, test: Split) -> bytes:
    """An npz file of `logits_val`, `labels_val`, `logits_test` and `labels_test`."""
    return _npz(logits_val=calibration[0], labels_val=calibration[1], logits_test=test[0], labels_test=test[1])


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def jsonl(split: Split) -> bytes:
    """Lines of `logits` and `label`, every digit kept."""
    rows = zip(*(array.tolist() for array in split), strict=True)
    return "".join(json.dumps({"logits": z, "label": y}) + "\n" for z, y in rows).encode()


def hdf5(group: str, calibration: Split, test: Split, before: bytes = b"") -> bytes:
    """An HDF5 file with one group more, or anew, than it had: probas_cal, labels_cal, probas_test, labels_test.

    Probabilities [N, K] are kept in full, for two classes too: one minus the other would lose the small ones.

    Args:
        group: its name.
        before: the bytes of the file as it was; empty where there was none.
    """
    import torch

    buffer = io.BytesIO(before)
    with h5py().File(buffer, "a" if before else "w") as file:
        if group in file:
            del file[group]
        content = file.create_group(group)
        for split, (Z_NK, y_N) in (("cal", calibration), ("test", test)):
            probabilities = torch.from_numpy(Z_NK).softmax(-1).numpy()
            content.create_dataset(f"probas_{split}", data=probabilities, compression="gzip")
            content.create_dataset(f"labels_{split}", data=y_N, compression="gzip")
    return buffer.getvalue()


def group_of(trial: Trial, data: str) -> str:
    """The group of a stored trial: name of its data, then model, beta, objective, seed and the beginning of its key."""
    model = f"{trial.model}_beta{trial.beta:g}_{trial.objective}_seed{trial.seed}_{trial.key[:8]}"
    return f"{data}/{model}".replace(":", "-")
