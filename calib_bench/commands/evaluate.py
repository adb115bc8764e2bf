"""`evaluate`: every calibrator and every metric on predictions made elsewhere."""

from __future__ import annotations

from argparse import Namespace

from calib_bench.commands.command import PLUGINS, Command, Option, items, whole
from calib_bench.commands.prediction_files import FORMATS, OPTIONS, new_folder, read_models, write_results
from calib_bench.errors import SettingsError

QUESTION = "How good are these predictions, how well are they calibrated, and what can be done after training?"


def _call(arguments: Namespace) -> int:
    """Judge predictions; print a table and write report, tables and provenance."""
    paths = [*arguments.predictions, *arguments.test]
    if not paths:
        reason = ": all files after --calibration are calibration sets, and none is left to judge"
        raise SettingsError(
            "evaluate takes predictions, for example evaluate --calibration calibration.npz --test test.npz"
            + (reason if arguments.calibration else "")
        )
    from calib_bench import registry
    from calib_bench.commands.console import open_console, status
    from calib_bench.evaluation import fits
    from calib_bench.evaluation.evaluate import EvaluationResult, evaluate

    registry.use_plugins(arguments.plugins)
    calibrators = registry.calibrators(arguments.calibrator)
    models = read_models(paths, arguments.calibration, arguments, arguments.groups)
    is_chosen = arguments.calibrator is not None
    if is_chosen and models[0].calibration is None and not arguments.cross_fit:
        raise SettingsError("--calibrator needs something to fit on: give --calibration, or --cross-fit 5")
    with status(open_console(stderr=True), "calibrating and measuring"):
        analysis = evaluate(
            models, calibrators, arguments.cross_fit, arguments.seed, is_chosen, arguments.bins, arguments.groups or ""
        )
    out = arguments.out or new_folder("evaluate", [models[0].test.name], models)
    result = EvaluationResult.of(analysis)
    (out / "fits.safetensors").unlink(missing_ok=True)
    if result.params:
        fits.save(fits.of_models(models, result.params), out / "fits.safetensors")
    write_results("evaluate", arguments.words, QUESTION, models, analysis, out)
    return 0


COMMAND = Command(
    "evaluate",
    "Every calibrator and every metric, with intervals, on anyone's predictions.",
    (
        Option("PREDICTIONS", "the same as --test; a stored trial brings its calibration set", default=(), count="*"),
        Option("--test", "predictions to judge, one a seed", default=(), count="+", metavar="FILE"),
        Option("--calibration", "to fit on; paired with --test", default=(), count="+", metavar="FILE"),
        Option("--calibrator", "a,b,c; all of them when not given, see `list baselines`", items, metavar="NAMES"),
        Option("--plugins", "folders with calibrators of your own", PLUGINS.type, (), metavar="FOLDERS"),
        Option("--groups", "a column of the files: everything by its values too", metavar="COLUMN"),
        whole("--bins", "bins of calibration errors and of the reliability diagram", 15, 1, 10_000),
        *OPTIONS,
    ),
    (
        "evaluate --calibration cal.npz --test test.npz",
        "evaluate --test test.npz --cross-fit 5",
        "evaluate --test 'seed*_test.npz' --calibration 'seed*_cal.npz' calibrator=isotonic",
        "evaluate two-splits.npz groups=hospital",
        "evaluate benchmark.h5:cifar10/resnet",
    ),
    _call,
    notes=FORMATS,
)
