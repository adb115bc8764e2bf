"""The largest curvature of the loss, and with it the critical learning rate, without ever forming the Hessian."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from calib_bench.errors import UserError
from calib_bench.models import head, unwrap


@dataclass(frozen=True)
class Curvature:
    """A largest eigenvalue and how well it is known.

    Attributes:
        value: the largest Ritz value; a lower bound of the largest eigenvalue up to rounding.
        iterations: Hessian-vector products used.
        converged: whether the residual fell below the tolerance.
        residual: ||A v - value v|| / |value| for the unit Ritz vector v: an eigenvalue lies within this relative
            distance of `value`.
    """

    value: float
    iterations: int
    converged: bool
    residual: float


def lambda_max(
    model: nn.Module,
    x: Any,
    y: Tensor,
    beta: float,
    head_lr: float = 1.0,
    iterations: int = 100,
    tol: float = 1e-3,
    seed: int = 0,
    shift: Tensor | None = None,
) -> Curvature:
    """Largest (algebraic) eigenvalue of D^(1/2) H D^(1/2), H the Hessian of the mean cross-entropy of beta z.

    D multiplies the head's rate by `head_lr` and the body's by 1: gradient descent preconditioned by D has the update
    matrix I - eta D H, whose spectrum is that of I - eta D^(1/2) H D^(1/2), so this eigenvalue is the one that limits
    eta. Training at beta and training at 1 with the head times beta and its rate times beta^2 (Agarwala et al., arXiv
    2010.07344) then have the same value, as they have the same trajectory.

    Lanczos iteration from a random start, on products by double backward through one stored graph. No vector is
    reorthogonalized: orthogonality is lost only once a Ritz pair has converged (Paige, 1980,
    doi 10.1016/0024-3795(80)90167-6), and the largest is all that is sought; memory is that of a few parameter copies.

    The model runs in training mode, so batch norm uses the batch's statistics; its buffers, modes and gradients are
    left as they were.

    Args:
        model: returns logits z [N, K]; must end in a linear layer when `head_lr` is not 1.
        x: a batch as the model takes it, of N examples.
        y: labels int64 [N].
        beta: inverse temperature.
        head_lr: factor on the head's learning rate.
        iterations: most Hessian-vector products.
        tol: relative residual at which to stop.
        seed: of the starting vector.
        shift: [N, K], a constant that is added to beta z; none by default.

    Returns:
        The eigenvalue; NaN and not converged when the loss or its derivatives are not finite.
    """
    model = unwrap(model)  # compiled graphs cannot be differentiated twice
    with twice_differentiable(model):
        product, size, like = _hessian(model, x, y, beta, head_lr, shift)
        start = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return _lanczos(product, start.to(like), min(iterations, size), tol)


def critical_rate(
    model: nn.Module,
    x: Any,
    y: Tensor,
    beta: float,
    head_lr: float = 1.0,
    iterations: int = 100,
    tol: float = 1e-3,
    seed: int = 0,
) -> float:
    """2 / lambda_max: the rate above which plain gradient descent on this batch is unstable; arguments as there.

    Warns when the eigenvalue has not converged; it is then an underestimate, and the rate an overestimate.

    Raises:
        UserError: the largest curvature is not a positive finite number, so that no rate is critical.
    """
    top = lambda_max(model, x, y, beta, head_lr, iterations, tol, seed)
    if not (math.isfinite(top.value) and top.value > 0):
        raise UserError(
            f"the largest curvature of the loss at beta={beta:g} is {top.value:g}, which is not a positive finite "
            "number, so there is no critical rate to be relative to; give the rate itself with lr="
        )
    if not top.converged:
        warnings.warn(
            f"largest curvature {top.value:.4g} at beta={beta:g} has relative residual {top.residual:.1e} after "
            f"{top.iterations} iterations; the critical rate may be overestimated",
            stacklevel=2,
        )
    return 2 / top.value


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Training mode, and only such kernels as can be differentiated twice; modes are restored after."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if any(isinstance(module, nn.RNNBase) for module in modes):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        model.train()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


def _hessian(
    model: nn.Module, x: Any, y: Tensor, beta: float, head_lr: float, shift: Tensor | None
) -> tuple[Any, int, Tensor]:
    """(v [P] -> D^(1/2) H D^(1/2) v [P], P, a parameter for dtype and device)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    heads = {id(parameter) for parameter in head(model).parameters()} if head_lr != 1 else set()
    roots = [math.sqrt(head_lr) if id(parameter) in heads else 1.0 for parameter in parameters]
    sizes = [parameter.numel() for parameter in parameters]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    Z_NK = beta * torch.func.functional_call(model, buffers, (x,))
    loss = F.cross_entropy(Z_NK if shift is None else Z_NK + shift, y)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True, materialize_grads=True)

    def product(v_P: Tensor) -> Tensor:
        pieces = [
            root * piece.view_as(parameter)
            for root, piece, parameter in zip(roots, v_P.split(sizes), parameters, strict=True)
        ]
        rows = torch.autograd.grad(
            gradients, parameters, pieces, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([root * row.reshape(-1) for root, row in zip(roots, rows, strict=True)])

    return product, sum(sizes), parameters[0]


def _lanczos(product: Any, start_P: Tensor, iterations: int, tol: float) -> Curvature:
    """Largest eigenvalue of a symmetric operator by the three-term recurrence (Golub & Van Loan, section 10.1)."""
    v_P = start_P / start_P.norm()
    before_P = torch.zeros_like(v_P)
    diagonal: list[float] = []
    off: list[float] = [0.0]
    value, residual = math.nan, math.inf
    for step in range(1, iterations + 1):
        w_P = product(v_P) - off[-1] * before_P
        diagonal.append(float(w_P @ v_P))
        w_P = w_P - diagonal[-1] * v_P
        norm = float(w_P.norm())
        if not math.isfinite(norm + diagonal[-1]):
            return Curvature(math.nan, step, False, math.inf)
        values, vectors = torch.linalg.eigh(_tridiagonal(diagonal, off[1:]))
        value = float(values[-1])
        scale = max(abs(value), float(values.abs().max()) * torch.finfo(w_P.dtype).eps)
        residual = norm * abs(float(vectors[-1, -1])) / scale if scale else 0.0
        if residual <= tol or norm <= torch.finfo(w_P.dtype).eps * scale:
            return Curvature(value, step, True, residual)
        before_P, v_P = v_P, w_P / norm
        off.append(norm)
    return Curvature(value, iterations, False, residual)


def _tridiagonal(diagonal: list[float], off: list[float]) -> Tensor:
    main, side = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(off, dtype=torch.float64)
    return torch.diag(main) + torch.diag(side, 1) + torch.diag(side, -1)
