"""Post-hoc fits at 10,000 x 10 against the packages people use: time to fit, and log loss on 10,000 further examples.

Logits are 3 times standard normal, labels drawn from softmax(0.6 z). Peers get what they ask for, float64 probabilities
or logits, ready made; where a package fits two classes only, it is looped over the classes against the rest. A peer
that is not installed is left out. The job is the fit; of Venn-Abers, whose package fits when it predicts, fit and
prediction.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from tests.benchmarks.harness import OURS, Bench, Case

N, K = 10_000, 10
Predict = Callable[[np.ndarray], np.ndarray]
"""Probabilities [N, K] float64 -> calibrated ones, perhaps not normalized."""
Peer = Callable[[np.ndarray, np.ndarray], Predict]
"""Fit to probabilities [N, K] float64 and labels [N]."""


@dataclass(frozen=True)
class Fit:
    """A case: this project's calibrator against peers.

    Attributes:
        baseline: the calibrator's name.
        peers: by package: the function that fits it, and how many times as fast as it this project should be.
        worse: how much higher than the best peer's our held-out log loss may be; None where their models differ.
        predict: whether the job includes prediction for the held-out set.
        slow: the peers take many seconds: time each once, without a first untimed call.
        suffix: of the case's name, where a calibrator has several.
    """

    baseline: str
    peers: Mapping[str, tuple[Peer, float]] = field(default_factory=dict)
    worse: float | None = 1e-3
    predict: bool = False
    slow: bool = False
    suffix: str = ""

    def case(self) -> Case:
        found = {name: peer for name, peer in self.peers.items() if find_spec(name.split()[0].replace("-", "_"))}
        title = f"{self.baseline.replace('_', ' ')}: fit{' and predict' * self.predict} at {N:,} x {K}"
        least = {name: least for name, (_, least) in found.items()}
        return Case(
            f"fit_{self.baseline}{self.suffix}",
            title,
            lambda: _bench(self, {n: f for n, (f, _) in found.items()}),
            least,
        )


def _bench(fit: Fit, peers: Mapping[str, Peer]) -> Bench:
    calibrator = importlib.import_module(f"calib_bench.baselines.{fit.baseline}").BASELINE
    (z, y), (new, truth) = (sample(seed) for seed in (0, 1))
    p, q = z.softmax(1).numpy(), new.softmax(1).numpy()

    def ours() -> Any:
        params = calibrator.fit(z, y)
        return calibrator.apply(params, new) if fit.predict else params

    def theirs(peer: Peer) -> Callable[[], Any]:
        def run() -> Any:
            predict = peer(p, y.numpy())
            return predict(q) if fit.predict else predict

        return run

    def check(results: Mapping[str, Any]) -> str:
        logp = results[OURS] if fit.predict else calibrator.apply(results[OURS], new)
        losses = {OURS: float(-logp.gather(1, truth[:, None]).mean())}
        for name in peers:
            probabilities = results[name] if fit.predict else results[name](q)
            losses[name] = _log_loss(probabilities, truth.numpy())
        if fit.worse is not None:
            assert losses[OURS] <= min(losses.values()) + fit.worse, losses
        return "held-out log loss: " + ", ".join(f"{name} {loss:.5f}" for name, loss in losses.items())

    if fit.slow:
        ours()
    sides = {name: theirs(peer) for name, peer in peers.items()}
    return Bench(ours, sides, pairs=1 if fit.slow else 7, warm=not fit.slow, check=check)


def sample(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overconfident logits [N, K], float64, and labels [N]."""
    g = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(N, K, generator=g, dtype=torch.float64)
    return z, torch.multinomial((0.6 * z).softmax(1), 1, generator=g)[:, 0]


def _log_loss(p: np.ndarray, y: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return float(-np.log((p / p.sum(1, keepdims=True))[np.arange(len(y)), y]).mean())


# ---- peers


def one_vs_rest(fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]) -> Peer:
    """A fit of two classes (scores [N], 0 or 1 [N]), class by class."""

    def run(p: np.ndarray, y: np.ndarray) -> Predict:
        fits = [fit(p[:, k], (y == k).astype(int)) for k in range(p.shape[1])]
        return lambda q: np.stack([f(q[:, k]) for k, f in enumerate(fits)], 1)

    return run


def netcal(module: str, name: str, **options: Any) -> Peer:
    def run(p: np.ndarray, y: np.ndarray) -> Predict:
        method = getattr(importlib.import_module(f"netcal.{module}"), name)(**options)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            method.fit(p, y)
        return method.transform

    return run


def probmetrics(name: str, **options: Any) -> Peer:
    def run(p: np.ndarray, y: np.ndarray) -> Predict:
        package = importlib.import_module("probmetrics.calibrators")
        method = package.get_calibrator(name) if name.islower() else getattr(package, name)(**options)
        method.fit(p, y)
        return method.predict_proba

    return run


def probmetrics_spline(p: np.ndarray, y: np.ndarray) -> Predict:
    from probmetrics.calibrators import CDFSplineCalibrator, MulticlassOneVsRestCalibrator

    method = MulticlassOneVsRestCalibrator(CDFSplineCalibrator())
    method.fit(p, y)
    return lambda q: np.clip(method.predict_proba(q), 0, None)


def probmetrics_platt(p: np.ndarray, y: np.ndarray) -> Predict:
    from probmetrics.calibrators import BinaryLogisticCalibrator, MulticlassOneVsRestCalibrator

    method = MulticlassOneVsRestCalibrator(BinaryLogisticCalibrator(type="affine"))
    method.fit(p, y)
    return method.predict_proba


def sklearn_sigmoid(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.special import logit
    from sklearn.calibration import _SigmoidCalibration

    fitted = _SigmoidCalibration().fit(logit(x), y)
    return lambda new: fitted.predict(logit(new))


def sklearn_isotonic(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.isotonic import IsotonicRegression

    return IsotonicRegression(out_of_bounds="clip").fit(x, y).predict


def sklearn_pooled(p: np.ndarray, y: np.ndarray) -> Predict:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(p.ravel(), np.eye(p.shape[1])[y].ravel())
    return lambda q: fitted.predict(q.ravel()).reshape(q.shape)


def betacal(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from betacal import BetaCalibration

    return BetaCalibration("abm").fit(x[:, None], y).predict


def splinecalib(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    from splinecalib import SplineCalib

    method = SplineCalib()
    method.fit(x, y)
    return method.calibrate


def venn_abers(p: np.ndarray, y: np.ndarray) -> Predict:
    from venn_abers import VennAbersCalibrator

    method = VennAbersCalibrator()
    return lambda q: method.predict_proba(p_cal=p, y_cal=y, p_test=q, va_type="one_vs_all")


def torch_lbfgs(form: str) -> Peer:
    """Maximum likelihood of "vector" or "matrix" scaling of log p by torch's L-BFGS, as it is usually written."""

    def run(p: np.ndarray, y: np.ndarray) -> Predict:
        x, labels = torch.from_numpy(p).log(), torch.from_numpy(y)
        k = x.shape[1]
        w = (torch.ones(k) if form == "vector" else torch.eye(k)).double().requires_grad_()
        b = torch.zeros(k, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

        def logits(x: torch.Tensor) -> torch.Tensor:
            return w * x + b if form == "vector" else x @ w.T + b

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(logits(x), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
        return lambda q: logits(torch.from_numpy(q).log()).softmax(1).detach().numpy()

    return run


def dirichletcal(p: np.ndarray, y: np.ndarray) -> Predict:
    from dirichletcal.calib.fulldirichlet import FullDirichletCalibrator

    method = FullDirichletCalibrator(reg_lambda=1e-3, reg_mu=1e-3)
    method.fit(p, y)
    return method.predict_proba


FITS = [
    Fit(
        "platt_scaling",
        {"sklearn one-vs-rest": (one_vs_rest(sklearn_sigmoid), 1), "probmetrics": (probmetrics_platt, 1)},
    ),
    Fit("beta_calibration", {"netcal": (netcal("scaling", "BetaCalibration"), 10)}, worse=None, slow=True),
    Fit("beta_calibration", {"betacal": (one_vs_rest(betacal), 1)}, suffix="_betacal"),
    Fit(
        "isotonic",
        {
            "sklearn one-vs-rest": (one_vs_rest(sklearn_isotonic), 1),
            "netcal": (netcal("binning", "IsotonicRegression"), 1),
            "probmetrics": (probmetrics("isotonic"), 1),
        },
    ),
    Fit("isotonic_multiclass", {"sklearn pooled": (sklearn_pooled, 1)}),
    Fit("histogram_binning", {"netcal": (netcal("binning", "HistogramBinning", bins=15), 1)}, worse=None),
    Fit("bbq", {"netcal": (netcal("binning", "BBQ"), 1)}, slow=True),
    Fit("ensemble_temperature_scaling", {"probmetrics": (probmetrics("ETSCalibrator", loss="ce"), 1)}),
    Fit("venn_abers", {"venn_abers": (venn_abers, 1)}, worse=None, predict=True, slow=True),
    Fit("spline", {"probmetrics": (probmetrics_spline, 1)}),
    Fit("spline", {"splinecalib": (one_vs_rest(splinecalib), 1)}, slow=True, suffix="_splinecalib"),
    Fit(
        "vector_scaling",
        {
            "torch LBFGS": (torch_lbfgs("vector"), 1),
            "probmetrics": (probmetrics("VectorScalingCalibrator"), 1),
            "netcal": (netcal("scaling", "LogisticCalibration", temperature_only=False), 1),
        },
    ),
    Fit(
        "matrix_scaling",
        {
            "torch LBFGS": (torch_lbfgs("matrix"), 1),
            "probmetrics": (probmetrics("MatrixScalingCalibrator"), 1),
        },
    ),
    Fit("dirichlet_scaling", {"torch LBFGS": (torch_lbfgs("matrix"), 1)}),
    Fit("dirichlet_scaling", {"dirichletcal": (dirichletcal, 10)}, slow=True, suffix="_dirichletcal"),
    Fit("structured_vector_scaling", {"probmetrics": (probmetrics("SVSCalibrator"), 1)}),
    Fit("structured_matrix_scaling", {"probmetrics": (probmetrics("SMSCalibrator"), 1)}),
]
"""Add a calibrator here; a second row of one needs a suffix. A case none of whose peers is installed is left out."""

CASES = [case for case in (fit.case() for fit in FITS) if case.least]
