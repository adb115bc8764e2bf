"""`compare`: paired differences of two predictors on the same examples."""

from __future__ import annotations

from argparse import Namespace

from calib_bench.commands.command import Command, Option
from calib_bench.commands.prediction_files import (
    FORMATS,
    OPTIONS,
    new_folder,
    read_models,
    test_files,
    write_results,
)
from calib_bench.errors import SettingsError

QUESTION = "Which of the two predicts better, and is it confidence?"


def _call(arguments: Namespace) -> int:
    """Compare two predictors; print a table and write report, tables and provenance."""
    from calib_bench.commands.console import open_console, status
    from calib_bench.evaluation.compare import compare

    a_calibration, b_calibration = ([path] for path in arguments.calibration) if arguments.calibration else ([], [])
    a = read_models([arguments.a], a_calibration, arguments)
    b = read_models([arguments.b], b_calibration, arguments)
    has_one = (a[0].calibration is None) != (b[0].calibration is None)
    if has_one and not arguments.cross_fit:
        raise SettingsError("only one of the two has a calibration set: give both with --calibration A_CAL B_CAL")
    with status(open_console(stderr=True), "comparing"):
        analysis = compare(a, b, arguments.cross_fit, arguments.seed)
    models = [*a, *b]
    out = arguments.out or new_folder("compare", [a[0].test.name, b[0].test.name], test_files(models))
    write_results("compare", arguments.words, QUESTION, models, analysis, out)
    return 0


COMMAND = Command(
    "compare",
    "Paired differences A minus B of two predictors on the same examples, split into confidence and dynamics.",
    (
        Option("A", "predictions; several seeds as a,b,c or 'a*.npz'"),
        Option("B", "predictions for the same examples, seed by seed"),
        Option("--calibration", "to fit a temperature on, likewise", count=2, metavar=("A_CAL", "B_CAL")),
        *OPTIONS,
    ),
    (
        "compare a.npz b.npz",
        "compare a.npz b.npz --calibration a_cal.npz b_cal.npz",
        "compare 'a_seed*.npz' 'b_seed*.npz' --cross-fit 5 out=comparison",
    ),
    _call,
    notes=FORMATS,
)
