"""Calibrators softmax(W x + b), x the logits or a function of them: one family, fitted and applied in one way.

W is a matrix, or diagonal. Members differ in x (`Inputs`), in W's form, and in their Gaussian priors on the departure
of (W, b) from temperature scaling; where x is tempered already, from the identity. Priors are in units of total log
loss and of x divided by its spread, so that they mean the same at every beta; their pull vanishes as N grows, and it
keeps a fit finite where a class has no examples or the data are separable. A class that a row does not offer adds
nothing to the other classes' logits. How the optimum is found is in `_linear` and, for many sets, `_linear_stacks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from calib_bench.baselines._linear import Precision, fit_diagonal, fit_full
from calib_bench.baselines._linear_stacks import fit_diagonals, fit_fulls, stackable
from calib_bench.baselines._solvers import blocks, checked, mix_uniform, spread, uniform_share
from calib_bench.baselines._stacks import checked_stack, one_by_one, per_set, spreads
from calib_bench.baselines.temperature_scaling import fit_temperature, fit_temperatures
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

WILDEST = 1e12
"""Inputs in units of their spread stop here: beyond it a row is decided, and curvature would overflow."""


@dataclass(frozen=True)
class Inputs:
    """What an affine map takes.

    Attributes:
        of: (parameters, logits [N, K]) -> x [N, K], float64; -inf where a class is not offered.
        unit: (logits [N, K], labels [N]) -> the spread of x.
        units: (logits [S, N, K], x [S, N, K]) -> the same of every set [S].
        tempered: whether x are made with a temperature and a share of the uniform, which are parameters then.
    """

    of: Callable[[Params, Tensor], Tensor]
    unit: Callable[[Tensor, Tensor], float]
    units: Callable[[Tensor, Tensor], Tensor]
    tempered: bool = False


def _logits(params: Params, Z_NK: Tensor) -> Tensor:
    return Z_NK.double()


def _log_probabilities(params: Params, Z_NK: Tensor) -> Tensor:
    return torch.log_softmax(Z_NK.double(), 1)


def tempered(params: Params, Z_NK: Tensor) -> Tensor:
    """Log of softmax(Z / T) mixed with the uniform over the classes offered, float64 [N, K]."""
    p_NK = torch.softmax(Z_NK.double() / params["temperature"], 1)
    return mix_uniform(p_NK, params["uniform"], masks.masked(Z_NK))


def _spread_of_logits(Z_NK: Tensor, y_N: Tensor) -> float:
    return spread(Z_NK)


def _spreads_of_logits(Z_SNK: Tensor, x_SNK: Tensor) -> Tensor:
    return spreads(Z_SNK)


def _size_of_log_p(Z_NK: Tensor, y_N: Tensor) -> float:
    """Root mean square of the offered classes' log p, without overflow; at least log(K), that of uniform p."""
    number, squares, unit = 0, 0.0, 1.0
    for z, _ in blocks(Z_NK, y_N):
        logp = torch.log_softmax(z, 1)
        number += int((logp > -torch.inf).sum())
        logp = masks.zeroed(logp)
        largest = -float(logp.min())
        if largest > 1e150 * unit:
            squares, unit = squares * (unit / largest) ** 2, largest
        squares += float((logp / unit).square().sum())
    return unit * (squares / number) ** 0.5 or 1.0


def _sizes_of_log_p(Z_SNK: Tensor, logp_SNK: Tensor) -> Tensor:
    return logp_SNK.square().mean((1, 2)).sqrt()


def _one(Z_NK: Tensor, y_N: Tensor) -> float:
    return 1.0


def _ones(Z_SNK: Tensor, x_SNK: Tensor) -> Tensor:
    return torch.ones(len(x_SNK), dtype=torch.float64)


LOGITS = Inputs(_logits, _spread_of_logits, _spreads_of_logits)
"""z, in units of `_solvers.spread`."""
LOG_PROBABILITIES = Inputs(_log_probabilities, _size_of_log_p, _sizes_of_log_p)
"""log softmax(z), in units of its root mean square."""
TEMPERED = Inputs(tempered, _one, _ones, tempered=True)
"""Log of temperature scaling's probabilities mixed with a share 1 / (N + 1) of the uniform, as they are."""


@dataclass(frozen=True)
class Affine:
    """Calibrators softmax(W x + b) of one kind of inputs and one prior.

    Attributes:
        inputs: x.
        prior: K -> the prior's precisions.
        full: whether W is a matrix; else diagonal.
    """

    inputs: Inputs
    prior: Callable[[int], Precision]
    full: bool

    def fit(self, Z_NK: Tensor, y_N: Tensor, prior: Precision | None = None) -> Params:
        """Fits to logits [N, K] and labels [N].

        Args:
            Z_NK: logits.
            y_N: labels.
            prior: in place of the calibrator's own.

        Returns:
            weight W, [K, K] or its diagonal [K], and bias b [K]; of tempered inputs also temperature and uniform, the
            uniform's share, [] each. All float64.

        Raises:
            UserError: NaN or +inf logits, or labels that do not match.
        """
        Z_NK = checked(Z_NK, y_N)
        inputs, params = self.inputs, {}
        temperature = fit_temperature(Z_NK, y_N)["temperature"]
        slope = 1 / float(temperature)
        if inputs.tempered:
            params, slope = {"temperature": temperature, "uniform": uniform_share(y_N)}, 1.0
        unit = inputs.unit(Z_NK, y_N)

        def features(z_RK: Tensor) -> tuple[Tensor, Tensor]:
            x_RK = inputs.of(params, z_RK)
            return slope * x_RK, (masks.zeroed(x_RK) / unit).clamp_(-WILDEST, WILDEST)

        solve = fit_full if self.full else fit_diagonal
        departure, bias = solve(Z_NK, y_N, features, prior or self.prior(Z_NK.shape[1]))
        weight = departure / unit
        self._diagonal(weight).add_(slope)
        return {**params, "weight": weight, "bias": bias}

    def fit_stack(self, Z_SNK: Tensor, y_SN: Tensor) -> Params:
        """`fit` of each of S sets but for rounding, every tensor with a leading axis S.

        Raises:
            UserError: as `fit`.
        """
        if not stackable(Z_SNK):
            return one_by_one(self.fit, Z_SNK, y_SN)
        Z_SNK = checked_stack(Z_SNK, y_SN)
        (S, N, K), params = Z_SNK.shape, {}
        temperature_S = fit_temperatures(Z_SNK, y_SN)["temperature"]
        slope_S = 1 / temperature_S
        if self.inputs.tempered:
            params = {"temperature": temperature_S, "uniform": uniform_share(y_SN[0]).repeat(S)}
            slope_S = torch.ones_like(slope_S)
        of_rows = {name: values.repeat_interleave(N)[:, None] for name, values in params.items()}
        x_SNK = self.inputs.of(of_rows, Z_SNK.reshape(S * N, K)).view(S, N, K)
        unit_S = self.inputs.units(Z_SNK, x_SNK)
        features = (x_SNK / per_set(unit_S)).clamp_(-WILDEST, WILDEST)
        solve = fit_fulls if self.full else fit_diagonals
        departure, bias_SK = solve(per_set(slope_S) * x_SNK, features, y_SN, self.prior(K))
        weight = departure / (per_set(unit_S) if self.full else unit_S[:, None])
        self._diagonal(weight).add_(slope_S[:, None])
        return {**params, "weight": weight, "bias": bias_SK}

    def _diagonal(self, weight: Tensor) -> Tensor:
        return weight.diagonal(dim1=-2, dim2=-1) if self.full else weight

    def apply(self, params: Params, Z_NK: Tensor) -> Tensor:
        """log softmax(W x + b), float64 [N, K].

        Raises:
            UserError: NaN or +inf logits.
        """
        x_NK = self.inputs.of(params, checked(Z_NK))
        offered_NK, weight = masks.zeroed(x_NK), params["weight"]
        turned_NK = offered_NK @ weight.T if self.full else offered_NK * weight
        return torch.log_softmax(masks.without(turned_NK + params["bias"], x_NK), 1)

    def calibrator(
        self, reference: str, title: str, warn: Callable[[Tensor, Tensor], str | None] | None = None
    ) -> Calibrator:
        """As a plug-in; unless told otherwise it warns of classes without examples."""
        return Calibrator(
            self.fit,
            self.apply,
            keeps_argmax=False,
            reference=reference,
            title=title,
            shift_invariant=self.inputs is not LOGITS,
            fit_stack=self.fit_stack,
            unknowns=unknowns_of_full if self.full else None,
            warn=warn or unseen,
        )


def odir(K: int) -> Precision:
    """Off-diagonal and intercept regularization (Kull et al., 2019, arXiv 1910.12656), at strengths that are fixed.

    Precision 10 K on the off-diagonal weights, so that together they may move a logit as far whatever the number of
    classes, and 1 on the intercepts; the authors choose both by cross-validation. The diagonal, which they leave free,
    has 0.1, which matters on separable data alone.
    """
    return Precision(diagonal=0.1, intercept=1.0, off_diagonal=10.0 * K)


def structured(K: int) -> Precision:
    """Ridge penalties K / N, off the diagonal K (K - 1) / N, on the mean log loss (Berta et al., arXiv 2511.03685).

    As precisions in units of total log loss they are twice as much times N. Their strength 1 is the default of the
    authors' package.
    """
    return Precision(diagonal=2 * K, intercept=2 * K, off_diagonal=2 * K * (K - 1))


def unknowns_of_full(K: int) -> int:
    """How many numbers the fit of a full matrix and its intercepts learns."""
    return K * (K + 1)


def unseen(Z_NK: Tensor, y_N: Tensor) -> str | None:
    """What to know where the labels [N] of logits [N, K] leave classes out: None where they do not."""
    K = Z_NK.shape[1]
    missing = (torch.bincount(y_N, minlength=K) == 0).nonzero()[:, 0].tolist()
    if not missing:
        return None
    listed = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
    return (
        f"no calibration example is of {len(missing)} of the {K} classes ({listed}): the fit learns that they are rare,"
        " and loses more than it repairs on new examples of them"
    )
