"""How lazily a model learns: how far its tangent kernel and its weights move from where they began.

In lazy training the tangent kernel Theta = J J^T, J the derivative of the logits by the weights, stays what it was at
initialization, and features are not learned (Chizat, Oyallon & Bach, 2019, arXiv 1812.07956). Both measures depend on
the model alone, not on beta, and both are 0 at initialization.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from calib_bench import registry
from calib_bench.core.settings import Grid
from calib_bench.core.splits import Splits
from calib_bench.core.study import Analysis, Probe
from calib_bench.core.trial import Trial
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.models import unwrap
from calib_bench.report.drawing import plain, shades
from calib_bench.report.panels import draw_families, rows_of
from calib_bench.studies.separation.options import Options
from calib_bench.studies.separation.over_time import draw_epochs
from calib_bench.train.initialize import initial_model, prepare

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "separation/lazy"
BATCH = 32
"""Training examples on which the kernel is looked at."""
DIRECTIONS = 16
"""Random directions in the space of their logits along which kernels are compared: all N K are too many."""
PANELS = (("kernel_drift", "kernel drift"), ("weight_drift", "drift of the weights"), ("over_loss", "kernel drift"))
"""Columns over epochs; the last panel is over the training loss."""


def asked(grid: Grid) -> Grid:
    """The grid, its trials with the probe where the option asks for it."""
    if Options.of(grid).probe == "none":
        return grid
    spaces = {model: {**space, "probe": (NAME,)} for model, space in grid.spaces.items()}
    return grid.model_copy(update={"spaces": spaces})


def measure(trial: Trial, model: nn.Module, splits: Splits, device: torch.device) -> dict[str, float]:
    """How far the model is from its initialization, which the trial's seed gives again.

    kernel_drift: 1 - <Theta, Theta0> / (||Theta|| ||Theta0||), Frobenius, on the same examples for every trial,
    estimated along `DIRECTIONS` random directions, the same for both.
    weight_drift: ||theta - theta0|| / ||theta0||, over all parameters.
    """
    batch = min(BATCH, len(splits.train))
    x, _ = next(iter(splits.train.train_batches(seed=0, epoch=0, batch=batch, device=device)))
    x = prepare(x, trial.precision)
    with torch.random.fork_rng():
        start = initial_model(trial, splits, device, registry.objectives())
        start.train()
        before, now = _sketch(start, x), _sketch(model, x)
    moved, size = _distances(start, unwrap(model))
    cosine = (before * now).sum() / (before.norm() * now.norm())
    return {"kernel_drift": float((1 - cosine).clamp(min=0)), "weight_drift": moved / size}


def _sketch(model: nn.Module, x: Any) -> Tensor:
    """Theta times the random directions, float64 [DIRECTIONS, M, K]; a model that draws numbers draws the same."""
    torch.manual_seed(0)
    tangent = Tangent(model, x)
    v_RMK = torch.randn(DIRECTIONS, *tangent.z.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.stack([tangent.kernel(v_MK.to(tangent.z)) for v_MK in v_RMK]).cpu().double()


def _distances(start: nn.Module, model: nn.Module) -> tuple[float, float]:
    """||theta - theta0|| and ||theta0||."""
    pairs = list(zip(start.parameters(), model.parameters(), strict=True))
    moved = sum(float((now - before).detach().double().square().sum()) for before, now in pairs)
    size = sum(float(before.detach().double().square().sum()) for before, _ in pairs)
    return moved**0.5, size**0.5


def lazy(analysis: Analysis) -> Figure | None:
    """Drift of the kernel and of the weights over epochs, and of the kernel over the training loss, a shade a beta:
    near 0, learning is lazy.
    """
    if not len(rows_of(analysis, "over_time", "kernel_drift")):
        return None
    frame = rows_of(analysis, "over_time")
    colors = shades(frame["beta"])

    def draw(axis: Axes, arms: pd.DataFrame, column: str) -> None:
        if column in arms:
            draw_epochs(axis, arms, column, colors)
        else:
            _over_loss(axis, arms, colors)

    return draw_families(frame, PANELS, 2.9, draw, [(f"beta={b:.3g}", {"color": c}) for b, c in colors.items()])


def _over_loss(axis: Axes, arms: pd.DataFrame, colors: Mapping[float, Any]) -> None:
    """The kernel's drift over the training loss, a line a beta."""
    for beta, arm in arms.groupby("beta"):
        axis.plot(arm["train_loss"], arm["kernel_drift"], color=colors[beta], marker=".")
    axis.set(xscale="log", xlabel="training loss (nats)")
    plain(axis.xaxis)
    axis.invert_xaxis()


PROBES = {"lazy": Probe(columns=measure)}
