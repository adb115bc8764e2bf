"""`evaluate`: every calibrator and every metric on predictions made elsewhere."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.commands.command import PLUGINS, Command, Option, items, whole
from calib_bench.commands.prediction_files import (
    FORMATS,
    OPTIONS,
    new_folder,
    read_models,
    test_files,
    write_results,
)
from calib_bench.errors import SettingsError, counted

if TYPE_CHECKING:
    from calib_bench.core.baseline import Calibrator

STANDINGS = "Which calibrators are best over all experiments, and which of them cannot be told apart?"
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

    registry.use_plugins(arguments.plugins, arguments.calibrator)
    calibrators = registry.calibrators(arguments.calibrator)
    if (path := _many_experiments(paths)) is not None:
        return _benchmark(path, calibrators, arguments)
    models = read_models(paths, arguments.calibration, arguments, arguments.groups)
    is_chosen = arguments.calibrator is not None
    if is_chosen and models[0].calibration is None and not arguments.cross_fit:
        raise SettingsError("--calibrator needs something to fit on: give --calibration, or --cross-fit 5")
    with status(open_console(stderr=True), "calibrating and measuring"):
        analysis = evaluate(
            models, calibrators, arguments.cross_fit, arguments.seed, is_chosen, arguments.bins, arguments.groups or ""
        )
    out = arguments.out or new_folder("evaluate", [models[0].test.name], test_files(models))
    result = EvaluationResult.of(analysis)
    kept = out / "fits.safetensors"
    if result.params:
        fits.save(fits.of_models(models, result.params), kept)
    elif kept.exists():
        kept.unlink()
    write_results("evaluate", arguments.words, QUESTION, models, analysis, out)
    return 0


def _many_experiments(paths: Sequence[str]) -> Path | None:
    """The HDF5 file of several experiments, where that is all that is to be judged."""
    from calib_bench.evaluation.hdf5 import groups, is_hdf5

    path = Path(paths[0])
    is_file = len(paths) == 1 and is_hdf5(paths[0]) and path.is_file()
    return path if is_file and len(groups(path)) > 1 else None


def _benchmark(path: Path, calibrators: Mapping[str, Calibrator], arguments: Namespace) -> int:
    """Judge every experiment of an HDF5 file; print how methods stand over them."""
    from calib_bench.commands.console import open_console, status
    from calib_bench.evaluation.benchmark import benchmark
    from calib_bench.evaluation.hdf5 import groups

    if arguments.calibration or arguments.cross_fit or arguments.groups:
        raise SettingsError(
            f"{path} holds several experiments, each with a calibration set: --calibration, --cross-fit and --groups "
            f"are for one of them, {path}:{groups(path)[0]}"
        )
    names = groups(path)
    models = [model for name in names for model in read_models([f"{path}:{name}"], (), arguments)]
    if lacking := [model.test.name for model in models if model.calibration is None]:
        raise SettingsError(
            f"{path}:{lacking[0]} holds no calibration split: a table over experiments needs one of each"
        )
    with status(open_console(stderr=True), f"measuring {counted(len(models), 'experiment')}"):
        analysis = benchmark(dict(zip(names, models, strict=True)), calibrators, arguments.bins)
    out = arguments.out or new_folder("evaluate", [path.stem], test_files(models))
    write_results("evaluate", arguments.words, STANDINGS, models, analysis, out)
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
        "evaluate two-splits.npz groups=hospital",
        "evaluate --test 'seed*_test.npz' --calibration 'seed*_cal.npz' calibrator=isotonic",
    ),
    _call,
    notes=FORMATS,
)
