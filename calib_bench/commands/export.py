"""`export`: a stored trial's predictions as files that any program reads."""

from __future__ import annotations

import io
from argparse import Namespace
from pathlib import Path

from calib_bench.commands.command import Command, Option
from calib_bench.commands.prediction_files import OUT
from calib_bench.errors import UserError


def _call(arguments: Namespace) -> int:
    """Write a stored trial's predictions as npz files."""
    import numpy as np

    from calib_bench.evaluation.predictions import read_trial, stored
    from calib_bench.system.files import write_bytes

    stored_trial = stored(arguments.trial)
    if stored_trial is None:
        raise UserError(f"{arguments.trial} is not a stored trial: name one as runs/<study>:<key>")
    store, key = stored_trial
    out = arguments.out or Path("runs") / f"export-{key}"
    for split in ("selection", "calibration", "test"):
        predictions = read_trial(store, key, split)
        buffer = io.BytesIO()
        np.savez(buffer, logits=predictions.Z_NK.numpy(), labels=predictions.y_N.numpy())
        write_bytes(out / f"{split}.npz", buffer.getvalue())
    print(f"written: {out}/selection.npz, calibration.npz, test.npz")
    return 0


COMMAND = Command(
    "export",
    "Writes a stored trial as calibration.npz, selection.npz and test.npz: logits (times beta), labels.",
    (Option("TRIAL", "runs/<study>:<key> or runs/<study>/trials/<key>"), OUT),
    (
        "export runs/digits-separation:KEY",
        "export runs/digits-separation/trials/KEY",
        "export runs/digits-separation:KEY out=logits",
    ),
    _call,
)
