"""How fast are the initial logits forgotten, and how long does a network learn like its tangent, at each beta?

Everything is measured at initialization, on one batch of training examples, by full-batch gradient descent on it: the
early-learning time, the path of the logits beside that of the tangent model, the largest curvature, and the rates at
which descent is lost. The theory is that of Agarwala, Pennington, Dauphin, Schoenholz (2023, arXiv 2010.07344).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from calib_bench.analysis.tables import make_tables
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid, Settings
from calib_bench.core.splits import Splits
from calib_bench.core.study import Analysis, Probe, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.studies.early_learning import claims, figures, findings, probes, rows
from calib_bench.studies.early_learning.result import EarlyLearningResult
from calib_bench.studies.early_learning.tables import TABLES

KINDS = ("paths", "common", "curvature", "stability")
PLAIN = {
    "optimizer": "sgd", "lr": 1.0, "lr_unit": "lr", "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant",
    "warmup": 0.0, "epochs": 0, "clip": 0.0, "decay_scale": "none", "clip_scale": "none", "degree": None,
}  # fmt: skip
"""Fields of every trial: nothing is trained but by the probes, whose steps are their own."""
MEANINGLESS = (
    "optimizer", "lr", "lr_eff", "lr_rel", "lr_hom", "degree", "momentum", "weight_decay", "schedule", "warmup", "clip",
    "label_noise", "sampling",
)  # fmt: skip
BEYOND = 10.0
"""Curvature is measured at inverse temperatures this factor below and above the others too."""
ZERO = -1.0
"""Correlation of two copies whose logits cancel at initialization."""


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """One trial, of no epochs, for every measurement.

    Raises:
        SettingsError: a setting has no meaning here.
    """
    check(settings)
    return [trial for kind in KINDS for trial in trials(settings, kind)]


def check(settings: Settings) -> None:
    """Raises SettingsError for settings that would change nothing, or the theory."""
    for key in MEANINGLESS:
        if getattr(settings, key, None) not in (None, (0.0,), 0.0):
            raise SettingsError(
                f"study=early_learning takes its own steps of gradient descent from initialization: leave out {key}="
            )
    factors = dict.fromkeys(("head_lr", "head_decay", "body_lr"), (1.0,))
    for key, only in {"epochs": (0,), "objective": (CROSS_ENTROPY,), **factors}.items():
        if getattr(settings, key) != only:
            raise SettingsError(f"study=early_learning knows only {key}={only[0]}: leave {key} out")
    if settings.pretrained or settings.precision == "bf16":
        word = "pretrained=true" if settings.pretrained else "precision=bf16"
        raise SettingsError(f"study=early_learning is about initialization, measured to many digits: leave out {word}")


def trials(settings: Settings, kind: str) -> list[Trial]:
    """The trials of a kind of measurement; those with logits that start at zero come last."""
    seeds = settings.seed[: 1 if kind == "common" else None]
    ordinary, zero = [], []
    for template in tuning.templates(settings):
        start = template.model_copy(update={**PLAIN, "probe": f"early_learning/{kind}", **_precision(template, kind)})
        for beta in _betas(settings, template.beta) if kind == "curvature" else (template.beta,):
            each = [start.model_copy(update={"beta": beta, **_seed(settings, seed)}) for seed in seeds]
            ordinary += each
            if kind in ("common", "curvature") and template.correlation is None:
                zero += [trial.model_copy(update={"correlation": ZERO}) for trial in each]
    return list(dict.fromkeys([*ordinary, *zero]))


def _seed(grid: Grid, seed: int) -> dict[str, int]:
    return {"seed": seed, "split": seed if grid.split == "seed" else 0}


def _precision(template: Trial, kind: str) -> dict[str, str]:
    """Small networks are measured in float64; where descent is lost needs no digits."""
    if kind == "stability" or not template.model.startswith(("mlp", "cnn")):
        return {}
    return {"precision": "fp64"}


def _betas(settings: Settings, beta: float) -> tuple[float, ...]:
    """The inverse temperature, and a decade beyond it at the ends."""
    low, high = min(settings.beta or (beta,)), max(settings.beta or (beta,))
    down = (beta / BEYOND,) if beta / BEYOND < low else ()
    up = (beta * BEYOND,) if beta * BEYOND > high else ()
    return tuple(float(f"{value:.9g}") for value in (*down, beta, *up))


def analyse(settings: Settings, store: Results) -> Analysis:
    """The theory's numbers beside the measured ones.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    by_kind = {kind: [trial for trial in trials(settings, kind) if store.has(trial)] for kind in KINDS}
    measured = rows.frames(by_kind, store)
    theory = {"acceptance": claims.acceptance(measured), "slopes": claims.exponents(measured)}
    frames = measured | {name: pd.DataFrame(list(of_theory)) for name, of_theory in theory.items()}
    return Analysis(
        verdict=tuple(findings.verdict(frames)),
        tables=make_tables(TABLES, rows.summarized(frames), settings),
        warnings=tuple(findings.warnings(settings, frames)),
        result=EarlyLearningResult(settings.limit, settings.reference, (), **measured),
        summary=tuple(findings.summary(frames)),
    )


def _probe(kind: str) -> Probe:
    return Probe(arrays=partial(_measure, kind))


def _measure(kind: str, trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, Tensor]:
    measure: Callable[..., dict[str, Any]] = getattr(probes, kind)
    return measure(trial, model, splits, device)


STUDY = Study(
    question="How fast are initial logits forgotten, and how long does a network learn like its tangent, over beta?",
    plan=plan,
    analyse=analyse,
    figures={
        "timescales": figures.timescales,
        "collapse": figures.collapse,
        "curvature": figures.curvature,
        "frontier": figures.frontier,
    },
    defaults={
        "objective": (CROSS_ENTROPY,),
        "epochs": (0,),
        "batch": (300,),
        "seed": (0, 1, 2),
        "beta": (0.01, 0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
    },
    sections=(
        Section(
            "Theory against measurement",
            ("acceptance", "slopes"),
            "Known answers serve as controls. Expected not to change with beta: lambda_max/beta and "
            "lambda_max/beta^2 at zero logits, the early-learning time in its own unit. Expected change: the time at "
            "which networks leave their tangent model, in proportion to beta.",
        ),
        Section(
            "Early learning",
            ("timescales",),
            "Time is tau = beta^2 times the sum of the rates; Z = beta z, and Z0 are those at initialization.",
        ),
        Section(
            "One path for every beta",
            ("collapse",),
            "From equal initial logits the tangent model takes the same path in tau at every beta; networks leave it "
            "the earlier, the smaller beta is. A curve ends where a network is as far from the tangent model as that "
            "has gone, or has learned.",
        ),
        Section("Curvature", ("curvature",)),
        Section("Where descent is lost", ("frontier",)),
        Section("Every measurement", ("measurements",)),
    ),
    references=("agarwala2023temperature", "jacot2018", "lewkowycz2020"),
    probes={kind: _probe(kind) for kind in KINDS},
)
