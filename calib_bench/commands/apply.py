"""`apply`: calibrated probabilities of new predictions, by a fit that was kept."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.commands.command import PLUGINS, Command, Option, flag
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    from calib_bench.evaluation.fits import Fitted

NOTES = """\
FITS is a file that `evaluate` (fits.safetensors) or `Fitted.save` wrote; :NAME says which of its fits: the method, or,
where several models were evaluated, METHOD/MODEL. It may also be a stored trial with a calibrator, runs/STUDY:KEY:NAME.
A file of new predictions is written as for `evaluate`; it needs no labels, and what names its rows is kept. Its logits
are those whose softmax is the model's own prediction, as `export` writes them: times beta. raw=yes says that they are
not multiplied by it yet."""


def _call(arguments: Namespace) -> int:
    """Write calibrated probabilities."""
    from dataclasses import replace

    from calib_bench import registry
    from calib_bench.evaluation.new_examples import fit_named

    if arguments.test is None and arguments.save is None:
        raise SettingsError("apply needs something to do: give --test FILE, or --save FILE for the fit itself")
    registry.use_plugins(arguments.plugins, [arguments.fits])
    fit, trial = fit_named(arguments.fits)
    beta = fit.beta if trial is None else trial.beta
    if arguments.save is not None:
        # A stored trial's calibrator is fitted to beta z; taken home it gets z.
        replace(fit, beta=beta).save(arguments.save)
        print(f"written: {arguments.save}, {fit.method} for raw logits, which it multiplies by beta={beta:g}")
    if arguments.test is not None:
        _apply(fit, beta, arguments)
    return 0


def _apply(fit: Fitted, beta: float, arguments: Namespace) -> None:
    """Map new predictions."""
    from calib_bench.commands.prediction_files import write_columns, write_predictions
    from calib_bench.evaluation.new_examples import read_new
    from calib_bench.evaluation.predictions import check_kind

    new, has_labels = read_new(arguments.test, check_kind(arguments.kind))
    new = fit.matched(new)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        p_NK = fit.log_proba_of(new, beta if arguments.raw else 1.0).exp().numpy()
    for doubt in doubts:
        print(f"note: {doubt.message}", file=sys.stderr)
    out = arguments.out or Path(f"{arguments.test.name.partition('.')[0]}-calibrated.npz")
    labels = new.y_N.numpy() if has_labels else None
    ids = next((one.astype(str) for one in new.ids.values()), None)
    if new.alone:
        write_columns(out, {"id": ids, "confidence": p_NK[:, 1], "correct": labels})
    else:
        write_predictions(out, "probabilities", p_NK, labels, fit.class_names or new.classes, ids)
    print(f"written: {out}, {len(p_NK):,} rows by {fit.method}, fitted to {fit.examples:,} examples")
    if beta != 1 and not arguments.raw:
        print(f"The logits were taken to be multiplied by beta={beta:g}, as export writes them; if not, give raw=yes")


COMMAND = Command(
    "apply",
    "Maps new predictions by a fitted calibrator, and writes calibrated probabilities.",
    (
        Option("FITS", "a file of fits, FILE:NAME, or runs/STUDY:KEY:METHOD"),
        Option("--test", "new predictions; labels are not needed", Path, metavar="FILE"),
        Option("--out", "where to: .npz or .csv (default NAME-calibrated.npz)", Path, metavar="FILE"),
        Option("--kind", "what the numbers are: logits, probabilities, log_probabilities, scores"),
        flag("--raw", "logits are raw ones, to be multiplied by the fit's beta"),
        Option("--save", "write the fit itself, a file for calib_bench.load", Path, metavar="FILE"),
        PLUGINS,
    ),
    (
        "apply runs/evaluate-test/fits.safetensors:temperature_scaling --test new.npz",
        "apply fit.safetensors test=new.csv out=calibrated.csv",
        "apply runs/digits-separation:KEY:structured_vector_scaling save=fit.safetensors",
    ),
    _call,
    notes=NOTES,
)
