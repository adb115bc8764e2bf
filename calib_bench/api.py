"""The command line as a few functions, for notebooks and scripts.

>>> import calib_bench
>>> folder = calib_bench.run(
...     task="digits", model="mlp_16", beta=[0.3, 1], objective="cross_entropy", lr_rel=[0.25, 0.5], seed=range(2),
...     epochs=4, extend=0, interventions="no", calibrator="temperature_scaling", workers=1, wandb="disabled",
...     quiet=True,
... )
>>> folder.name
'digits-separation'
>>> frame = calib_bench.load_results(folder)
>>> sorted(set(frame["beta"])), sorted(set(frame["method"]))
([0.3, 1.0], ['raw', 'temperature_scaling'])
>>> figure = calib_bench.plot_separation(folder)
>>> figure.savefig("separation.pdf")

Your own predictions, logits [N, K] and labels [N], judged like the harness's:

>>> import numpy as np, torch
>>> rng = np.random.default_rng(0)
>>> logits = 3 * rng.normal(size=(2000, 3))
>>> labels = [rng.choice(3, p=np.exp(z / 2) / np.exp(z / 2).sum()) for z in logits]
>>> frame = calib_bench.evaluate(
...     logits[1000:], labels[1000:], calibration=(logits[:1000], labels[:1000]), calibrators=["temperature_scaling"]
... )
>>> raw, scaled = frame["log_loss"]
>>> bool(scaled < raw), bool(1.5 < frame["kappa"][1] < 2.5)
(True, True)

A calibrator to take home, as an object, a file and a module of torch:

>>> fit = calib_bench.fit("temperature_scaling", logits[:1000], labels[:1000])
>>> fit.save("fit.safetensors")
>>> calib_bench.load("fit.safetensors").predict_proba(logits[1000:]).shape
(1000, 3)
>>> calibrated = fit.to_module(torch.nn.Linear(8, 3))

A recipe of your own that was tuned at beta = 1, at a smaller beta; here the network is homogeneous of degree 2:

>>> layers = torch.nn.Linear(8, 64, bias=False), torch.nn.ReLU(), torch.nn.Linear(64, 3, bias=False)
>>> network = torch.nn.Sequential(*layers)
>>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
>>> advice = calib_bench.advise(network, torch.randn(64, 8), optimizer, beta=0.1)
>>> round(advice.degree, 3), round(advice.lr, 3), round(advice.groups[0].weight_decay, 6)
(2.0, 1.0, 5e-05)
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.errors import SettingsError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn
    from torch.optim import Optimizer

    from calib_bench.core.study import Analysis, Table
    from calib_bench.dynamics.scaling_law import Advice, Numbers
    from calib_bench.evaluation.fits import Fitted
    from calib_bench.evaluation.predictions import Predictions
    from calib_bench.report.evaluation import Evaluation

__all__ = [
    "advise", "evaluate", "fit", "load", "load_results", "plot_learning_rates", "plot_over_beta", "plot_reliability",
    "plot_separation", "run",
]  # fmt: skip


def run(quiet: bool = False, **settings: Any) -> Path:
    """Do a whole study, like `python -m calib_bench run`; the run folder, ready for `load_results` and the plots.

    Args:
        quiet: print nothing.
        settings: the command line's keys; a list, tuple, range or array spans the grid. `config` names a TOML file of
            such keys, which the others override.

    Raises:
        SettingsError: an unknown key, or a value of the wrong kind.
    """
    from calib_bench.commands.run_study import run_study
    from calib_bench.core.config_file import with_config
    from calib_bench.core.settings import parse
    from calib_bench.planning.defaults import resolve

    typed = parse(with_config(f"{key}={_text(value)}" for key, value in settings.items()))
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        run_study(typed)
    return resolve(typed).folder


def _text(value: Any) -> str:
    """A value as a word of the command line would give it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, Iterable):
        return ",".join(map(_text, value))
    return repr(value.item() if hasattr(value, "item") else value)


def load_results(run: str | Path, table: str = "baselines") -> pd.DataFrame:
    """A table of a run's report: one row an entry, a metric `x` beside its limits `x_low`, `x_high`.

    Args:
        run: the run folder, or that of `evaluate` or `compare` on the command line.
        table: its name; `frame.attrs` has the title and the note.

    Raises:
        StoreError: there is no report.
        SettingsError: there is no such table.
    """
    from calib_bench.report.tables import read

    tables = read(Path(run))
    if table not in tables:
        raise SettingsError(f"{run} has no table {table!r}: {nearest(table, tables)}")
    return _with_title(tables[table])


def _with_title(table: Table) -> pd.DataFrame:
    frame = table.frame.copy()
    frame.attrs = {"title": table.title, "note": table.note}
    return frame


def evaluate(
    values: Any,
    labels: Any = None,
    calibration: Any = None,
    *,
    kind: str | None = None,
    calibrators: str | Sequence[str] | None = None,
    folds: int = 0,
    seed: int = 0,
    bins: int = 15,
    groups: Any = None,
    trust_kind: bool = False,
) -> Evaluation:
    """Every metric with its interval, raw and after every calibrator, like `python -m calib_bench evaluate`.

    Args:
        values: predictions [N, K] of one model, or [S, N, K] (or a list of S arrays, or a mapping by name), one a seed.
            Arrays, tensors, lists and data frames will do; names of rows and columns go before their positions.
        labels: [N] int, or one array a seed; or names of columns, if `values` is a data frame that has them. The name
            of the column of labels, if `values` is a data frame that holds them; None finds one of the usual names.
        calibration: (values, labels) of a held-out set, alike in form, to fit calibrators on; a data frame, if `values`
            is one that holds its labels.
        kind: "logits", "probabilities", "log_probabilities" or "scores"; logits where no column's name says otherwise.
        calibrators: their names, or one; all of them when not given.
        folds: fit by so many folds of the test examples; only without a calibration set.
        seed: of the folds.
        bins: of calibration errors by binning.
        groups: the slice of each test example, [N], or one array a seed; or the name of a column of the data frame:
            everything is measured by slice too, in the tables "slices", "slice_metrics" and "slice_differences".
        trust_kind: believe `kind` even where logits look like probabilities.

    Returns:
        One row a method; `frame.attrs` has "verdict" and "warnings", sentences, and `frame.tables` every table of the
        command's report by name, as data frames. In a notebook it shows a picture too.

    Raises:
        DataError: the numbers cannot be predictions of that kind.
        SettingsError: no calibrator has that name; or folds are given beside a calibration set.
    """
    from calib_bench import registry
    from calib_bench.evaluation.arrays import held_out, predictions
    from calib_bench.evaluation.evaluate import evaluate as judge
    from calib_bench.evaluation.models import pair_up
    from calib_bench.evaluation.predictions import check_kind
    from calib_bench.report.evaluation import Evaluation

    check_kind(kind)
    for name, number in (("folds", folds), ("seed", seed)):
        if not isinstance(number, Integral):
            raise SettingsError(f"{name}={number!r} is not a whole number")
    names = tuple(calibrators.split(",")) if isinstance(calibrators, str) else calibrators
    tests = predictions(values, labels, kind, "test", groups, trust_kind)
    fits: list[Predictions] = []
    if calibration is not None:
        fits = predictions(*held_out(calibration, values, labels), kind, "calibration", trust=trust_kind)
    chosen, column = names is not None, "" if groups is None else _column_name(groups)
    analysis = judge(pair_up(tests, fits), registry.calibrators(names), folds, seed, chosen, bins, column)
    frame = Evaluation(analysis.tables["metrics"].frame)
    frame.attrs = {"verdict": list(analysis.verdict), "warnings": list(analysis.warnings)}
    frame.tables = {name: _with_title(table) for name, table in analysis.tables.items()}
    return frame


def _column_name(groups: Any) -> str:
    """What slices are called: by the column's name, where there is one."""
    return groups if isinstance(groups, str) else str(getattr(groups, "name", "") or "group")


def fit(
    method: str, logits: Any, labels: Any = None, beta: float = 1.0, kind: str | None = None, trust_kind: bool = False
) -> Fitted:
    """Fit a calibrator on a calibration set, to use it elsewhere.

    Args:
        method: its name: "temperature_scaling", "structured_vector_scaling"...; `list baselines` shows them.
        logits: the model's raw outputs [N, K], or [N] of class 1 of two: array, tensor or data frame, see `evaluate`.
        labels: [N] int; or None or a column's name where a data frame holds them.
        beta: inverse temperature of the model: its own prediction is softmax(beta * logits).
        kind: "logits", "probabilities", "log_probabilities" or "scores"; logits where no column's name says otherwise.
        trust_kind: believe `kind` even where logits look like probabilities.

    Returns:
        What has `predict_proba`, `log_proba`, `params`, `save` and `to_module`.

    Raises:
        DataError: the numbers cannot be predictions of that kind.
        SettingsError: no calibrator has that name.
        UserError: the calibrator is not for such predictions.
    """
    from calib_bench.evaluation.fits import fit as fit_calibrator

    return fit_calibrator(method, logits, labels, beta, kind, trust_kind)


def load(path: str | Path, name: str | None = None) -> Fitted:
    """A fit that `Fitted.save` or `python -m calib_bench evaluate` wrote. Reading it runs no code of the file.

    Args:
        path: a file of fits, such as `fits.safetensors` beside the report of `evaluate`.
        name: which of several: the method, followed by `/MODEL` where several models were evaluated.

    Raises:
        DataError: it is missing, damaged or no file of fits.
        SettingsError: it holds several fits and none was named, or none of that name.
    """
    from calib_bench.evaluation.fits import load as load_fit

    return load_fit(path, name)


def advise(
    model: nn.Module | Sequence[nn.Module],
    x: Any,
    optimizer: Optimizer,
    beta: float,
    clip: float | None = None,
    degree: float | None = None,
) -> Advice:
    """A recipe that was tuned at beta = 1, at another inverse temperature, like `python -m calib_bench advise`.

    Where training minimizes the cross-entropy of beta * model(x), a network of Euler degree L takes other rates, decay
    and eps at each beta, see `calib_bench.dynamics.scaling_law`. Momentum, batch, warm-up and schedule stay.

    Args:
        model: any module that returns logits [N, K], at its initialization; several, one a seed, tell how much the
            degree depends on the initialization.
        x: a batch as the model takes it: a tensor [N, ...], or a tuple of tensors that it takes as one argument.
        optimizer: torch's SGD, Adam or AdamW over the model's parameters, as tuned at beta = 1; left as it is.
        beta: inverse temperature.
        clip: bound of the gradient's norm at beta = 1, if there is one.
        degree: L, where it is known; else it is measured.

    Returns:
        The numbers of each group of parameters in `groups`; `lr_range` and `cautious_lr` say how sure they are.

    Raises:
        SettingsError: how the optimizer's numbers follow beta is not known, or the network has no degree.
    """
    from torch import nn

    from calib_bench.dynamics.euler_degree import DegreeOverSeeds, euler_degree
    from calib_bench.dynamics.scaling_law import advise as carried

    models = [model] if isinstance(model, nn.Module) else list(model)
    values = [euler_degree(one, x) for one in models] if degree is None else [degree]
    measured = DegreeOverSeeds(tuple(values))
    name, groups = _recipe(optimizer, clip)
    return carried(name, groups, beta, measured.mean, measured.spread)


def _recipe(optimizer: Optimizer, clip: float | None) -> tuple[str, tuple[Numbers, ...]]:
    """The name of a torch optimizer in `scaling_law.POWERS`, and the numbers of each of its groups."""
    import torch

    from calib_bench.dynamics.scaling_law import Numbers, powers

    names = {torch.optim.SGD: "sgd", torch.optim.Adam: "adam", torch.optim.AdamW: "adamw"}
    name = names.get(type(optimizer), type(optimizer).__name__)
    powers(name)
    if name == "adam" and optimizer.param_groups[0].get("decoupled_weight_decay"):
        name = "adamw"
    groups = tuple(
        Numbers(float(group["lr"]), float(group["weight_decay"]), group.get("eps"), clip)
        for group in optimizer.param_groups
    )
    return name, groups


def plot_separation(run: str | Path) -> Figure:
    """Change of test log loss over beta, split into confidence and dynamics, a panel an objective."""
    return _draw(run, "separation", "separation")


def plot_over_beta(run: str | Path) -> Figure:
    """Accuracy, log loss, ECE and kappa over beta, before and after temperature scaling."""
    return _draw(run, "over_beta", "baselines")


def plot_reliability(run: Any, labels: Any = None, *, kind: str | None = None, bins: int = 15) -> Figure:
    """Confidence against accuracy: of a run, a panel a beta, before and after temperature scaling; or of predictions.

    Args:
        run: a run folder; or predictions, as `evaluate` takes them, with counts and the band in which the accuracy of
            a calibrated model falls.
        labels: of predictions.
        kind: of predictions, see `evaluate`.
        bins: of predictions.
    """
    if isinstance(run, (str, Path)):
        return _draw(run, "reliability", "reliability_bins")
    from calib_bench.evaluation import curves
    from calib_bench.evaluation.arrays import predictions
    from calib_bench.metrics.scores import top_label
    from calib_bench.report import evaluation_figures, figures

    pairs = [top_label(one.Z_NK, one.y_N) for one in predictions(run, labels, kind, "test")]
    confidences, rights = ([one.numpy() for one in side] for side in zip(*pairs, strict=True))
    table = curves.tables({"predictions": (confidences, rights)}, bins)["reliability"]
    with figures.style():
        return _shown(evaluation_figures.reliability(table.frame))


def plot_learning_rates(run: str | Path) -> Figure:
    """Selection score over the learning rate, the chosen rate circled."""
    return _draw(run, "learning_rates", "rates")


def _draw(run: str | Path, name: str, needs: str) -> Figure:
    from calib_bench.report import figures
    from calib_bench.studies.separation import arm_figures

    analysis = _saved(Path(run), needs)
    with figures.style():
        return _shown(getattr(arm_figures, name)(analysis))


def _shown(figure: Figure) -> Figure:
    """The figure, which notebooks then show."""
    figure.__dict__["_repr_png_"] = partial(_png, figure)  # IPython knows of figures only once pyplot was imported
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _saved(run: Path, needs: str) -> Analysis:
    """What the drawings need, from the tables of the report."""
    from calib_bench.core.study import Analysis, StudyResult
    from calib_bench.report.tables import read
    from calib_bench.store.store import Store

    tables = read(run)
    if needs not in tables:
        raise SettingsError(f"{run} has no table {needs!r} to draw from; it has {', '.join(tables)}")
    settings = Store(run, "read").settings()
    bins = tables["reliability_bins"].frame if "reliability_bins" in tables else None
    return Analysis((), tables, result=StudyResult(settings.limit, settings.reference, reliability=bins))
