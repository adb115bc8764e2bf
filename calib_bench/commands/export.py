"""`export`: a stored trial's predictions as files that any program reads."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.commands.command import Command, Option
from calib_bench.commands.prediction_files import OUT
from calib_bench.commands.stored_run import data_name, stored_trial
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    from calib_bench.evaluation.writers import Split

FORMATS = ("npz", "splits", "hdf5", "jsonl")
NOTES = """\
npz: selection.npz, calibration.npz and test.npz; jsonl: the same as lines of logits and label. splits: predictions.npz
with logits_val, labels_val, logits_test, labels_test. hdf5: predictions.h5 with probas_cal, labels_cal, probas_test,
labels_test in a group task/model..., as CalArena has them; a group is added to a file that is there. Logits are times
beta. val and cal are the calibration split. `evaluate` reads each of them."""


def _call(arguments: Namespace) -> int:
    """Write a stored trial's predictions."""
    from calib_bench.evaluation import writers
    from calib_bench.evaluation.stored import stored_arrays
    from calib_bench.system.files import write_bytes

    store, key = stored_trial(arguments.trial)
    trial = store.trial(key)
    data = data_name(store, store.settings().content, trial)
    out = arguments.out or Path("runs") / f"export-{key}"
    splits = stored_arrays(store, trial, ("selection", "calibration", "test"))
    contents = _contents(splits, out, arguments.format, group := writers.group_of(trial, data))
    for name, content in contents.items():
        write_bytes(out / name, content)
    print(f"written: {out}/{', '.join(contents)}{f':{group}' if arguments.format == 'hdf5' else ''}")
    return 0


def _contents(splits: Mapping[str, Split], out: Path, layout: str, group: str) -> dict[str, bytes]:
    """The bytes of each file, by its name.

    Raises:
        SettingsError: a group cannot be added to the file that is there.
    """
    from calib_bench.evaluation import writers

    if layout == "splits":
        return {"predictions.npz": writers.two_splits(splits["calibration"], splits["test"])}
    if layout == "hdf5":
        file = out / "predictions.h5"
        before = file.read_bytes() if file.exists() else b""
        try:
            return {file.name: writers.hdf5(group, splits["calibration"], splits["test"], before)}
        except OSError as error:
            raise SettingsError(f"{file} is there, and no HDF5 file ({error}): give another out=") from None
    write = writers.jsonl if layout == "jsonl" else writers.one_split
    return {f"{name}.{layout}": write(split) for name, split in splits.items()}


COMMAND = Command(
    "export",
    "Writes a stored trial's predictions as files: logits (times beta) or probabilities, and labels.",
    (
        Option("TRIAL", "runs/<study>:<key> or runs/<study>/trials/<key>"),
        Option("--format", "layout of the files", default="npz", choices=FORMATS),
        OUT,
    ),
    (
        "export runs/digits-separation:KEY",
        "export runs/digits-separation:KEY format=splits out=logits",
        "export runs/digits-separation:KEY format=hdf5 out=benchmark",
    ),
    _call,
    notes=NOTES,
)
