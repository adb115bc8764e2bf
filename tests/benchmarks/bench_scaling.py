"""Temperature scaling: one fit, against the packages that offer it and torch's own optimizer.

Logits are 3 (K = 10) or 4 (K = 1000) times standard normal, labels drawn from softmax(0.6 z). netcal takes
probabilities, made untimed, and fits only float64; the others get the float32 logits they are usually given.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from calib_bench.baselines.temperature_scaling import fit_temperature, loss
from tests.benchmarks.harness import OURS, Bench, Case, Side


def data(N: int, K: int) -> tuple[Tensor, Tensor]:
    """Logits [N, K], float32, and labels [N]."""
    g = torch.Generator().manual_seed(0)
    z = (3 if K == 10 else 4) * torch.randn(N, K, generator=g)
    y = [torch.multinomial(torch.softmax(0.6 * part, 1), 1, generator=g)[:, 0] for part in z.split(5000)]
    return z, torch.cat(y)


def lbfgs(z: Tensor, y: Tensor) -> float:
    """The usual fit in torch: LBFGS with a line search on log(1 / T), the gradient from autograd."""
    u = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([u], max_iter=50, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(u.exp() * z, y)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return float(u.detach().exp())


def peers(z: Tensor, y: Tensor) -> dict[str, Side]:
    """Fits that return 1 / T."""
    warnings.simplefilter("ignore")
    from netcal.scaling import TemperatureScaling
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits
    from sklearn.calibration import _TemperatureScaling

    p, z_np, y_np = z.double().softmax(1).numpy(), z.numpy(), y.numpy()

    def netcal() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            return float(TemperatureScaling().fit(p, y_np).temperature[0])  # its temperature is the inverse

    def probmetrics() -> float:
        calibrator = TemperatureScalingCalibrator()
        calibrator.fit_torch(CategoricalLogits(z), y)
        return float(calibrator.invtemp_)

    return {
        "netcal": netcal,
        "probmetrics": probmetrics,
        "scikit-learn": lambda: float(_TemperatureScaling().fit(z_np, y_np).beta_),
        "torch LBFGS": lambda: lbfgs(z, y),
    }


def temperature(N: int, K: int, pairs: int) -> Bench:
    z, y = data(N, K)
    small = peers(z[:100], y[:100])
    for run in small.values():  # imports and first calls
        run()

    def check(results: Mapping[str, Any]) -> str:
        best = loss(z, y, results[OURS]).f
        excess = {name: loss(z, y, s).f - best for name, s in results.items() if name != OURS}
        for name, value in excess.items():
            assert value >= -1e-12, f"{name} reaches a lower log loss, by {-value:.1e}"
        return "log loss above ours: " + ", ".join(f"{name} {value:.0e}" for name, value in excess.items())

    return Bench(
        ours=lambda: 1 / float(fit_temperature(z, y)["temperature"]),
        peers=peers(z, y),
        pairs=pairs,
        warm=pairs > 2,
        limit=("memory", z.nbytes),
        check=check,
        unit=(N, "examples"),
    )


PACKAGES = ("netcal", "probmetrics", "scikit-learn")
CASES = [
    Case(
        "temperature_10000x10",
        "temperature scaling, 10,000 x 10",
        lambda: temperature(10_000, 10, pairs=9),
        least=dict.fromkeys(PACKAGES, 3.0),
    ),
    Case(
        "temperature_50000x1000",
        "temperature scaling, 50,000 x 1,000",
        lambda: temperature(50_000, 1000, pairs=1),
        least=dict.fromkeys(PACKAGES, 8.0),
    ),
]
