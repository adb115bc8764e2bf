"""`predict`: a kept model's logits of new data, as a file that `evaluate` and `apply` read."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from calib_bench.commands.command import PLUGINS, Command, Option, setting
from calib_bench.commands.stored_run import stored_trial
from calib_bench.core.trial import Trial

NOTES = """\
TRIAL is runs/STUDY:KEY, a chosen trial of a run with keep=weights. New data are an .npz file with an array `inputs`
and, where they are known, labels, class_names and ids; or a folder with files like the task's own, test.parquet or
test/, whose labels may be missing. Of a task of your own data they are a table with its columns, or a folder of tables
or images; numbers are scaled as those of training were. Without data=, the trial's own split is predicted. The task's
data must be at hand too: new inputs are made ready, and classes named, as they were for training. The file holds
logits times beta, as `export` writes them."""


def _call(arguments: Namespace) -> int:
    """Write a kept model's logits."""
    from calib_bench.commands.prediction_files import write_predictions
    from calib_bench.commands.stored_run import open_run
    from calib_bench.execute import kept_model, worker

    folder, trial = _trial(arguments.trial)
    store, settings = open_run(folder, arguments.plugins)
    execution = settings.execution.model_copy(update={"device": arguments.device or settings.device})
    worker.prepare(execution)
    trial = kept_model.with_weights(store, trial)
    one = kept_model.predicted(store, execution, trial, arguments.data, arguments.split)
    name = arguments.split if arguments.data is None else f"{arguments.data.stem}-{arguments.split}"
    out = arguments.out or Path("runs") / f"predict-{trial.key}" / f"{name}.npz"
    more = {"beta": trial.beta, **one.digests}
    write_predictions(out, "logits", one.Z_NK.numpy(), one.labels, one.class_names, one.ids, more)
    rows = f"{len(one.Z_NK):,} rows of {len(one.class_names)} classes"
    if one.note:
        print(f"note: {one.note}")
    print(f"written: {out}, {rows}, logits times beta={trial.beta:g}{'' if one.labels is None else ', with labels'}")
    return 0


def _trial(word: str) -> tuple[Path, Trial]:
    """The run folder and the stored trial that a word names."""
    store, key = stored_trial(word)
    return store.path, store.trial(key)


COMMAND = Command(
    "predict",
    "Writes the logits of a stored trial's model for new data, with labels where the data has them.",
    (
        Option("TRIAL", "runs/<study>:<key>, of a run with keep=weights"),
        Option("--data", "new data: an .npz file, a table or a folder; default the trial's own", Path, metavar="PATH"),
        Option("--split", "selection, calibration or test; of a folder, the part to read", default="test"),
        Option("--out", "where to: .npz or .csv (default under runs/)", Path, metavar="FILE"),
        setting("device", "auto, cpu, cuda, cuda:N or mps"),
        PLUGINS,
    ),
    (
        "predict runs/digits-separation:KEY split=calibration",
        "predict runs/digits-separation:KEY data=new.npz out=logits.npz",
        "predict runs/folder-separation:KEY data=new.csv out=logits.csv",
    ),
    _call,
    notes=NOTES,
)
