"""The temperature that repairs each of several models' logits best, in the few steps that a history row can afford.

The mean log loss f(s) of softmax(s Z) is convex in s = 1/T, and f' and f'' are means over rows of the mean and the
variance of Z under softmax(s Z). `baselines/temperature_scaling.py`, which judges trained models, finds the same
minimum; of logits that have none it says what it takes instead, and this says that there is none.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 60
"""Newton's steps, or halvings of a bracket, at most."""
PRECISE = 1e-5
"""Relative step in s after which one more, whose error is of its square's order, is not taken."""


def best_temperature(Z: Tensor, y: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """T of least mean log loss of softmax(Z / T), and that loss in nats.

    A model's result does not depend on those beside it. Where f has no minimum, since no label is beaten by another
    class (f falls as T falls to 0) or the logits say nothing of the labels (f falls as T grows), T is nan and the loss
    f's limit. Both are nan of logits that are not all finite.

    Args:
        Z: logits [..., N, K], float64.
        y: labels [..., N], int64.
        start: T [...] to start from; nan for 1.

    Returns:
        T [...] and loss [...], float64.
    """
    w = (Z - Z.amax(-1, keepdim=True)).movedim(-1, 0).contiguous()  # short rows are slow to reduce, columns are not
    w_y = w.gather(0, y[None]).squeeze(0)
    separable = (w_y == 0).all(-1)
    uninformative = (w.mean(0) - w_y).mean(-1) >= 0
    s = (1 / start).nan_to_num(1.0)
    low, high = torch.zeros_like(s), torch.full_like(s, torch.inf)
    loss = torch.full_like(s, torch.nan)
    done = separable | uninformative | ~Z.isfinite().all(-1).all(-1)
    for _ in range(STEPS):
        if done.all():
            break
        f, d1, d2 = _derivatives(w, w_y, s)
        low, high = torch.where(d1 < 0, s, low), torch.where(d1 > 0, s, high)
        new = s - d1 / d2
        new = torch.where(new > low, new, (s + low) / 2)
        new = torch.where(new < high, new, (s + high) / 2)
        loss = torch.where(done, loss, f - d1.square() / (2 * d2))
        close = (new - s).abs() <= PRECISE * s
        s = torch.where(done, s, new)
        done = done | close
    loss = torch.where(separable, (w == 0).sum(0).double().log().mean(-1), loss)
    loss = torch.where(uninformative, torch.full_like(loss, len(w)).log(), loss)
    return torch.where(separable | uninformative | loss.isnan(), torch.nan, 1 / s), loss


def _derivatives(w: Tensor, w_y: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f, f' and f'' at s [...], of logits less their row's largest: w [K, ..., N], and of the labels w_y [..., N]."""
    e = (s[..., None] * w).exp_()
    size = e.sum(0)
    first = e.mul_(w).sum(0) / size
    second = e.mul_(w).sum(0) / size
    f = (size.log() - s[..., None] * w_y).mean(-1)
    return f, (first - w_y).mean(-1), (second - first.square()).mean(-1)
