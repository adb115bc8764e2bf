"""Smooth calibration error: binning without bins (Blasiok & Nakkiran, arXiv 2309.12236)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from calib_bench.errors import UserError
from calib_bench.metrics.scores import scores_n, top_label

CELLS = 1 << 11
"""Cells of [0, 1]: residuals lie on their edges, shared linearly, which displaces them by less than a bandwidth."""
TOLERANCE, STEPS = 1e-9, 60


def smooth_error(p: Tensor, hit: Tensor) -> Tensor:
    """The smooth calibration error of probabilities and outcomes [..., N]: float64 [...], in [0, 1].

    With a Gaussian kernel of bandwidth sigma, reflected at 0 and 1, the error at sigma is the integral over t of
    |mean_n k(t, p_n) (hit_n - p_n)|. It falls as sigma grows; the result is the sigma that equals it.

    The kernel is diagonal in the cosine series of the residuals, its coefficients exp(-(pi k sigma)^2 / 2).
    """
    lead, n = p.shape[:-1], p.shape[-1]
    p, residual = p.reshape(-1, n), (hit.double() - p.double()).reshape(-1, n)
    place = p.double() * CELLS
    left = place.floor().clamp_(0, CELLS - 1)
    share = (place - left) * residual / n
    mass_SC = torch.zeros(len(p), CELLS + 1, dtype=torch.float64, device=p.device)
    mass_SC.scatter_add_(1, left.long(), residual / n - share)
    mass_SC.scatter_add_(1, left.long() + 1, share)
    # A sequence reflected at both ends has a real transform; a mass on an end meets its mirror image there.
    mass_SC[:, 0] *= 2
    mass_SC[:, -1] *= 2
    series_SC = torch.fft.rfft(torch.cat([mass_SC, mass_SC[:, 1:-1].flip(1)], 1)).real
    k = torch.arange(CELLS + 1, dtype=torch.float64, device=p.device)

    def error(sigma_S: Tensor) -> Tensor:
        damped = series_SC * torch.exp(-0.5 * (math.pi * k * sigma_S[:, None]).square())
        density = torch.fft.irfft(damped, n=2 * CELLS)[:, : CELLS + 1].abs()
        return density.sum(1) - 0.5 * (density[:, 0] + density[:, -1])

    # Smoothing cannot raise the error above its own start, nor sink it below the mean residual's size.
    low, high = residual.mean(1).abs(), residual.abs().mean(1)
    return _root(lambda sigma_S: error(sigma_S) - sigma_S, low, high).view(lead)


def _root(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where each f falls through zero in [low, high], all [S]: false position, the end that stays being halved.

    f's slope is -1 or steeper, so that a value within `TOLERANCE` of 0 is as near the root.
    """
    f_low, f_high = f(low), f(high)
    root, side, left = high, torch.zeros_like(low), torch.ones_like(low, dtype=torch.bool)
    for _ in range(STEPS):
        fall = f_low - f_high
        middle = torch.where(fall > 0, (low * -f_high + high * f_low) / fall.clamp(min=1e-300), high)
        middle = torch.minimum(torch.maximum(middle, low), high)
        value = f(middle)
        root = torch.where(left, middle, root)  # one that is found stays, whoever else is still looking
        left = left & (value.abs() >= TOLERANCE)
        if not bool(left.any()):
            break
        above = value > 0
        halve_high, halve_low = above & (side > 0), ~above & (side < 0)
        f_low, f_high = torch.where(halve_low, f_low / 2, f_low), torch.where(halve_high, f_high / 2, f_high)
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        f_low, f_high = torch.where(above, value, f_low), torch.where(above, f_high, value)
        side = torch.where(above, 1.0, -1.0)
    return root


def smece(logp: Tensor, y: Tensor) -> Tensor:
    """Smooth calibration error of the top label, [...].

    >>> round(float(smece(torch.tensor([[0.75, 0.25]] * 4).log(), torch.tensor([0, 0, 0, 0]))), 2)
    0.25
    """
    return smooth_error(*top_label(logp, y))


def smece_positive(logp: Tensor, y: Tensor) -> Tensor:
    """Smooth calibration error of the probability of class 1 of two, [...].

    Raises:
        UserError: K is not 2.

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(smece_positive(logits, y)), 4)
    0.2083
    """
    if logp.shape[-1] != 2:
        raise UserError(f"smece_positive is for 2 classes, not {logp.shape[-1]}; use smece.")
    p = scores_n(logp, y, "positive")[0]
    return smooth_error(p, y.expand(p.shape))
