"""What one-vs-rest calibrators share: scores, and many small logistic regressions at once.

The score of class k is its log odds under softmax(Z), z_k - logsumexp of the other logits: the model's own probability
on an unbounded scale. It does not see a shift of a row, so log probabilities give what logits give. For K = 2 it is
proportional to the logits' scale, for K > 2 it is not, so a fit at one inverse temperature is not the fit at another.

C is the number of fits: K, but 1 for K = 2, where class 1 against class 0 says all.

A row that does not offer a class, or offers no other, is no part of that class's fit: its score is -inf or +inf.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from calib_bench.baselines._solvers import checked, log_odds, moments
from calib_bench.baselines._stacks import one_by_one
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.metrics import masks

ENTRIES = 1 << 17
"""Entries of the features of a block of classes: they stay in the cache, and memory constant in K."""
RIDGE = 1e-6
"""Precision of slopes of standardized features, in units of total log loss: decides them where these are constant."""


UNSEEN_1N = torch.linspace(-4.0, 4.0, 9, dtype=torch.float64)[None]
"""Scores of a class that no row offers: the model's own probabilities, as nine examples would support them."""


def scores(Z_NK: Tensor, y_N: Tensor | None = None) -> Tensor:
    """Log odds of each class against the rest, float64 [C, N]; infinite where a class is masked, or all others."""
    x_NK = log_odds(checked(Z_NK, y_N))
    return (x_NK[:, 1:] if x_NK.shape[1] == 2 else x_NK).T.contiguous()


def scores_stack(Z_SNK: Tensor, y_SN: Tensor) -> Tensor:
    """`scores` of each of S sets, one after another: float64 [S C, N]."""
    S, N, K = Z_SNK.shape
    x_RK = log_odds(checked(Z_SNK.reshape(S * N, K), y_SN.reshape(S * N)))
    return x_RK.view(S, N, K)[:, :, K == 2 :].mT.reshape(-1, N)


def joined(q_CN: Tensor) -> Tensor:
    """Probabilities [N, K] of fits [C, N], rows not normalized for K > 2."""
    return torch.cat([1 - q_CN, q_CN]).T if len(q_CN) == 1 else q_CN.T


def joined_logits(f_CN: Tensor, Z_NK: Tensor) -> Tensor:
    """Log probabilities [N, K] of fits sigmoid(f) [C, N], rows normalized over the classes that Z offers."""
    if len(f_CN) == 1:
        logp_NK = -softplus(torch.cat([f_CN, -f_CN])).T
        return logp_NK if not masks.any_masked(Z_NK) else masks.without(logp_NK, masks.offered(Z_NK)).log_softmax(1)
    return torch.log_softmax(masks.without(-softplus(-f_CN.T), masks.offered(Z_NK)), 1)


def unmarked(x_CN: Tensor, y_N: Tensor, features: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores and targets [c, n] of classes that are fitted at once: blocks, or one by one where rows mask some.

    Args:
        features: unknowns of a class.
    """
    C, N = x_CN.shape
    offered_N = (x_CN > -torch.inf).sum(0) if C > 1 else torch.full((N,), 2)
    t_CN = targets(y_N, C, offered_N)
    for plain, run in itertools.groupby(range(C), x_CN.isfinite().all(1).tolist().__getitem__):
        members = list(run)
        if plain:
            x, t = x_CN[members[0] : members[-1] + 1], t_CN[members[0] : members[-1] + 1]
            for part in class_blocks(len(members), features * N):
                yield x[part], t[part]
            continue
        for c in members:
            rows = x_CN[c].isfinite()
            if bool(rows.any()):
                yield x_CN[c : c + 1, rows], targets(y_N[rows], C, offered_N[rows])[c : c + 1]
            else:
                yield UNSEEN_1N, UNSEEN_1N.sigmoid()


def class_blocks(C: int, entries: int) -> Iterator[slice]:
    """Slices of classes whose features, `entries` a class, stay within ENTRIES."""
    step = C if torch.compiler.is_exporting() else max(1, ENTRIES // max(entries, 1))
    for start in range(0, C, step):
        yield slice(start, min(start + step, C))


@dataclass(frozen=True)
class Regressions:
    """Calibrators that fit a regression of each class against the rest, all classes at once.

    Attributes:
        unknowns: of a class.
        of_classes: (scores [C, N], targets [C, N], S) -> parameters, every tensor with a leading axis C. The classes
            are those of S sets, one set after another; they know nothing of each other.
    """

    unknowns: int
    of_classes: Callable[[Tensor, Tensor, int], Params]

    def calibrator(self, apply: Callable[[Params, Tensor], Tensor], reference: str, title: str) -> Calibrator:
        """As a plug-in, given how its parameters are applied."""
        return Calibrator(
            self.fit, apply, keeps_argmax=False, reference=reference, title=title, fit_stack=self.fit_stack
        )

    def fit(self, Z_NK: Tensor, y_N: Tensor) -> Params:
        """Fits C regressions, C = K or 1 for K = 2, to logits [N, K] and labels [N].

        Raises:
            UserError: NaN or +inf logits, or labels that do not match.
        """
        x_CN = scores(Z_NK, y_N)
        return _concatenated([self.of_classes(x, t, 1) for x, t in unmarked(x_CN, y_N, self.unknowns)])

    def fit_stack(self, Z_SNK: Tensor, y_SN: Tensor) -> Params:
        """`fit` of S sets, every tensor with a leading axis S; classes of several sets at once where they are small.

        Raises:
            UserError: as `fit`.
        """
        S, N, K = Z_SNK.shape
        C = 1 if K == 2 else K
        sets = ENTRIES // (C * N * self.unknowns)
        if sets < 2 or masks.any_masked(Z_SNK):
            return one_by_one(self.fit, Z_SNK, y_SN)
        parts = []
        for Z, y in zip(Z_SNK.split(sets), y_SN.split(sets), strict=True):
            t_CN = torch.cat([targets(y_N, C) for y_N in y])
            parts.append(self.of_classes(scores_stack(Z, y).contiguous(), t_CN, len(Z)))
        return {name: values.unflatten(0, (S, C)) for name, values in _concatenated(parts).items()}


def _concatenated(parts: list[Params]) -> Params:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def targets(y_N: Tensor, C: int, offered_N: Tensor | None = None) -> Tensor:
    """Labels mixed with a share 1 / (N + 1) of the uniform, float64 [C, N]: (N [y = k] + 1 / K) / (N + 1).

    Args:
        offered_N: how many of the K classes each row offers, where not all: the uniform is over these.

    Fitting them is fitting the labels themselves, under a prior: total log loss against them is N / (N + 1) times the
    total log loss of the labels plus that of one more example, whose score is any of the N and whose label is any of
    the K, all equally likely (the conjugate prior of Diaconis & Ylvisaker, 1979, with the weight of one observation).
    That example's loss grows without bound wherever f does, so that every fit is finite, also where a class is missing
    or separable; its pull is of order 1 / N; and no confidence below 1 - (1 - 1 / K) / (N + 1) is out of reach.
    Platt's targets, one example more of each label for every class's own fit, would stop class k, with N+ examples, at
    (N+ + 1) / (N+ + 2): with many classes and few examples of each that is far below what a good model may say.
    """
    K, N = max(C, 2), len(y_N)
    even_N = torch.full((N,), 1 / K, dtype=torch.float64) if offered_N is None else 1 / offered_N.double()
    t_KN = (even_N / (N + 1)).repeat(K, 1)
    t_KN[y_N, torch.arange(N)] += N / (N + 1)
    return t_KN[K - C :]


def standardized(x_CN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows about their mean in units of their standard deviation [C, N], that mean [C] and deviation [C]."""
    centre_C1, unit_C1 = moments(x_CN, 1)
    constant = unit_C1 <= 1e-12 * (1 + centre_C1.abs())  # but for rounding
    unit_C1 = torch.where(constant, 1.0, unit_C1)
    return torch.where(constant, 0.0, (x_CN - centre_C1) / unit_C1), centre_C1[:, 0], unit_C1[:, 0]


class Logistic(NamedTuple):
    """Fits theta [C, P], their penalized loss [C] and its Hessian [C, P, P]."""

    theta: Tensor
    value: Tensor
    hessian: Tensor


def logistic(
    X_CPN: Tensor, t_CN: Tensor, penalty_CP: Tensor, start_CP: Tensor, free_CP: Tensor | None = None, steps: int = 50
) -> Logistic:
    """C logistic regressions at once: total log loss against targets t plus penalty theta^2 / 2, each minimized.

    Newton's method, each fit with its own step halving, until half the squared decrement is below 1e-12 or no step
    decreases the loss beyond rounding, or for `steps` steps.

    Args:
        X_CPN: features.
        free_CP: which unknowns may move; all without one.
    """
    theta_CP = start_CP.clone()

    def at(theta: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and penalized losses; softplus(f) = max(f, 0) - log(max(p, 1 - p)), at half softplus's cost."""
        f_CN = torch.bmm(theta[:, None], X_CPN)[:, 0]
        p_CN = torch.sigmoid(f_CN)
        value_C = (f_CN.clamp(min=0) - torch.maximum(p_CN, 1 - p_CN).log_()).sum(1) - torch.linalg.vecdot(t_CN, f_CN)
        return p_CN, value_C + (penalty_CP * theta.square()).sum(1) / 2

    p_CN, value_C = at(theta_CP)
    for done in range(steps + 1):
        H = torch.bmm(X_CPN * (p_CN * (1 - p_CN))[:, None], X_CPN.mT)
        H.diagonal(dim1=1, dim2=2).add_(penalty_CP + 1e-12)
        if done == steps:
            break
        g_CP = torch.bmm(X_CPN, (p_CN - t_CN)[:, :, None])[:, :, 0] + penalty_CP * theta_CP
        if free_CP is not None:
            g_CP, H = torch.where(free_CP, g_CP, 0.0), _held(H, free_CP)
        step_CP = torch.linalg.solve(H, g_CP)
        decrement_C = (g_CP * step_CP).sum(1)
        live_C = decrement_C > 2e-12
        if not live_C.any():
            break
        rate_C = live_C.double()
        for _ in range(30):
            new_p, new_value = at(theta_CP - rate_C[:, None] * step_CP)
            worse = live_C & ~(new_value <= value_C - 0.25 * rate_C * decrement_C)
            if not worse.any():
                break
            rate_C = torch.where(worse, rate_C / 2, rate_C)
        rate_C = torch.where(worse, 0.0, rate_C)
        if not rate_C.any():
            break
        theta_CP = theta_CP - rate_C[:, None] * step_CP
        p_CN, value_C = at(theta_CP) if worse.any() else (new_p, new_value)
    return Logistic(theta_CP, value_C, H)


def _held(H_CPP: Tensor, free_CP: Tensor) -> Tensor:
    """The Hessian with the rows and columns of unknowns that may not move taken from the identity."""
    both = free_CP[:, :, None] & free_CP[:, None, :]
    return torch.where(both, H_CPP, torch.eye(free_CP.shape[1], dtype=H_CPP.dtype))
