"""A trial's result as the bytes of its files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.store import planes
from calib_bench.store.places import RECORD
from calib_bench.system import environment, files

if TYPE_CHECKING:
    from calib_bench.core.trial import TrialResult

SCHEMA = 3
"""1: each trial is a folder. 2: trials may lie in archives. 3: logits are stored as planes of bytes."""
LEAN: dict[str, Any] = {"use_dictionary": False, "write_statistics": False, "store_schema": False}
"""How a history is written: what parquet adds for large tables is more than a history."""


def content_of(
    result: TrialResult, data: dict[str, str], metadata: dict[str, Any], class_names: Sequence[str]
) -> dict[str, bytes]:
    """A trial's files by name, trial.json last: it holds the digests of the others.

    Args:
        class_names: what the file of its weights, if it keeps them, says of their head.
    """
    measured = _measured(result) | _weights(result, class_names)
    record = {
        "schema": SCHEMA,
        "key": result.trial.key,
        "trial": result.trial.model_dump(mode="json"),
        "status": result.status,
        "facts": {**result.metadata, **_snapshot_facts(result), **metadata},
        "environment": environment.describe(),
        "data": data,
        "files": {
            name: {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)} for name, value in measured.items()
        },
    }
    return {**measured, RECORD: files.sealed(record)}


def _measured(result: TrialResult) -> dict[str, bytes]:
    """A trial's history, its logits, what its probe measured and what it kept on its way, where there is any."""
    import pyarrow as pa
    from pyarrow import parquet
    from safetensors.torch import save

    columns = {name: pa.array(values, from_pandas=True) for name, values in result.history.items()}
    buffer = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), buffer, **LEAN)
    measured = {"history.parquet": buffer.getvalue().to_pybytes()}
    kept = {f"{one.level:g}/{name}": z for one in result.snapshots for name, z in one.logits.items()}
    for kind, by_name in (("logits", result.logits), ("snapshots", kept)):
        if by_name:
            measured[f"{kind}.safetensors"] = planes.save(by_name)
    if result.arrays:
        arrays = {name: tensor.contiguous() for name, tensor in result.arrays.items()}
        measured["arrays.safetensors"] = save(arrays)
    return measured


def _weights(result: TrialResult, class_names: Sequence[str]) -> dict[str, bytes]:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in result.weights.items()}
    return {"weights.safetensors": save(tensors, {"class_names": json.dumps(list(class_names))})} if tensors else {}


def _snapshot_facts(result: TrialResult) -> dict[str, Any]:
    """What trial.json says of a trial's snapshots; nothing of a trial that kept none."""
    names = ("level", "epoch", "step", "train_loss")
    facts = [{name: getattr(snapshot, name) for name in names} for snapshot in result.snapshots]
    return {"snapshots": facts} if facts else {}
