"""Per-example scores, their means, and the pass over blocks of rows that every metric shares.

Everywhere: `logp` is [..., N, K], logits or log probabilities (rows are normalized in float64; -inf is a probability of
zero), `y` is int64 [..., N] or [N]. Results are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from calib_bench.errors import UserError

BLOCK = 1 << 17
"""Entries of a block of rows: a few float64 temporaries of it stay in the cache."""


TIE = 1e-14
"""Confidences that differ by no more than this share are equal: a sum of exponentials has other last digits in another
order of the classes, so that rows which are permutations of one another would else not tie."""


def differ(sorted_: Tensor) -> Tensor:
    """Whether each of sorted confidences differs from the one before it by more than rounding, [..., N - 1]."""
    before, after = sorted_[..., :-1], sorted_[..., 1:]
    return (after - before).abs() > TIE * torch.maximum(before, after)


class Rows:
    """A block of rows, flattened over the leading axes; valid until the next one is made.

    Attributes:
        here: which rows they are.
        top: the row's largest logit [R], float64.
        w: logits less it [R, K].
        e: exp(w).
        y: labels [R].
        size: sum of e [R], at least 1, or NaN where the logits have no softmax.
    """

    def __init__(self, here: slice, Z_RK: Tensor, y_R: Tensor, room: Tensor) -> None:
        self.here, self.y = here, y_R
        w, e = room[:, : len(y_R)]  # the same for every block, to stay in the cache
        self.top = Z_RK.amax(-1).double()
        self.w = w.copy_(Z_RK).sub_(self.top[:, None])
        self.e = torch.exp(w, out=e)
        self.size = self.e.sum(-1)

    @cached_property
    def mean(self) -> Tensor:
        """sum of e w [R], NaN where a probability is zero; on a CPU by numpy, which needs no temporary."""
        if self.w.device.type == "cpu":
            return torch.from_numpy(np.einsum("rk,rk->r", self.e.numpy(), self.w.numpy()))
        return torch.linalg.vecdot(self.e, self.w)

    @cached_property
    def mean_of_finite(self) -> Tensor:
        """sum of e w over probabilities above zero [R]; uses up `w`."""
        return self.w.clamp_(min=-800.0).mul_(self.e).sum(-1)  # exp(-800) is zero in float64

    @cached_property
    def inverse(self) -> Tensor:
        """1 / size [R]: probabilities are e times it."""
        return self.size.reciprocal()

    @cached_property
    def own(self) -> Tensor:
        """The label's probability [R]."""
        return self.e.gather(-1, self.y[:, None])[:, 0] * self.inverse

    @cached_property
    def positive(self) -> Tensor:
        """Probability of class 1 [R]."""
        return self.e[:, 1] * self.inverse

    @cached_property
    def brier(self) -> Tensor:
        """sum of (p - the label's indicator)^2 [R]; uses up `e`."""
        # Not sum(p^2) - 2 p_y + 1, which cancels when the prediction is nearly certain.
        own = self.own
        self.e.scatter_(-1, self.y[:, None], 0.0)
        others = torch.linalg.vector_norm(self.e, dim=-1) * self.inverse
        return others.square() + (1 - own).square()


PARTS = ("size", "top", "mean", "own", "positive", "brier")
"""What a pass keeps of each row, in the order of use: some use up what others take."""
Parts = Mapping[str, Tensor]
SCORES: dict[str, tuple[tuple[str, ...], Callable[[Parts], Tensor]]] = {
    "log_loss": (("top",), lambda part: part["size"].log() - (part["logit"].double() - part["top"])),
    "brier": (("brier",), lambda part: part["brier"]),
    "correct": (("top",), lambda part: _correct(part)),
    "confidence": ((), lambda part: part["size"].reciprocal()),
    "entropy": (("mean",), lambda part: (part["size"].log() - part["mean"] / part["size"]).clamp_(min=0.0)),
    "positive": (("positive",), lambda part: part["positive"]),
}
"""Per-example scores: the parts they take beside `size`, and what is made of them at the end of the pass, together with
all `logits`, the labels `y` and their `logit`."""


def _correct(part: Parts) -> Tensor:
    """Whether the first of a row's largest logits is the label's: float64 [..., N]."""
    correct = part["logit"].double() == part["top"]
    # Only where several are largest does their order matter; exp(w) is then 1 for each.
    tied = (correct & (part["size"] >= 2)).view(-1).nonzero()[:, 0]
    flat_RK, y_R = part["logits"].reshape(-1, part["logits"].shape[-1]), part["y"].reshape(-1)
    for block_R in tied.split(max(1, BLOCK // flat_RK.shape[-1])):
        first = torch.from_numpy(flat_RK[block_R].double().numpy(force=True).argmax(-1))  # faster than torch's
        correct.view(-1)[block_R] = first.to(y_R.device) == y_R[block_R]
    return correct.double()


@torch.no_grad()
def scores_n(logp: Tensor, y: Tensor | None, *names: str, each: Callable[[Rows], None] | None = None) -> list[Tensor]:
    """Scores named in SCORES, each float64 [..., N], in one pass over the rows; `each` may read a block.

    Raises:
        UserError: shapes do not match, a label is outside 0..K-1, or a row has no softmax (NaN, +inf, all -inf).
    """
    if y is None:
        y = torch.zeros(logp.shape[-2:-1], dtype=torch.int64, device=logp.device)
    wanted = {"size", *(part for name in names for part in SCORES[name][0])}
    parts = _parts(logp, y, [part for part in PARTS if part in wanted], each)
    if not parts["size"].isfinite().all():
        raise UserError(
            "Logits contain NaN or +inf (or a row of -inf only): such a model has no probabilities to measure."
        )
    if "mean" in parts and parts["mean"].isnan().any():
        parts["mean"] = _parts(logp, y, ["mean_of_finite"])["mean_of_finite"]
    parts["y"] = y = y.expand(logp.shape[:-1])
    parts["logits"], parts["logit"] = logp, logp.gather(-1, y.long()[..., None])[..., 0]
    return [SCORES[name][1](parts) for name in names]


def _parts(
    logp: Tensor, y: Tensor, wanted: Sequence[str], each: Callable[[Rows], None] | None = None
) -> dict[str, Tensor]:
    """What is wanted of each row, in the order of PARTS, [..., N]; `each` reads a block before `brier` uses it up."""
    # Made before the pass: results kept between blocks fragment memory.
    parts = {part: torch.empty(logp.shape[:-1], dtype=torch.float64, device=logp.device) for part in wanted}
    before = [part for part in wanted if part != "brier"]
    for block in rows(logp, y):
        for part in before:
            parts[part].view(-1)[block.here] = getattr(block, part)
        if each:
            each(block)
        if "brier" in parts:
            parts["brier"].view(-1)[block.here] = block.brier
    return parts


def rows(logp: Tensor, y: Tensor) -> Iterator[Rows]:
    """Blocks of rows in order, each within one model, or of whole models.

    Raises:
        UserError: shapes do not match, or a label is outside 0..K-1.
    """
    _check(logp, y)
    n, classes = logp.shape[-2:]
    flat_RK, y_R = logp.reshape(-1, classes), y.expand(logp.shape[:-1]).reshape(-1).long()
    step = max(1, BLOCK // classes)
    block_rows = step // n * n  # rows of the models that fit into a block
    room = torch.empty(2, min(step, len(flat_RK)), classes, dtype=torch.float64, device=logp.device)
    for model in range(0, len(flat_RK), block_rows or n):
        stop = min(model + (block_rows or n), len(flat_RK))
        for start in range(model, stop, block_rows or step):
            here = slice(start, min(start + (block_rows or step), stop))
            yield Rows(here, flat_RK[here], y_R[here], room)


def _check_tensor(values: object, what: str) -> None:
    if not isinstance(values, Tensor):
        raise UserError(f"Metrics take tensors, and {what} are {type(values).__name__}: give torch.as_tensor({what}).")


def _check(logp: Tensor, y: Tensor) -> None:
    _check_tensor(logp, "logits")
    _check_tensor(y, "labels")
    if logp.ndim < 2 or logp.shape[-1] < 2 or logp.shape[-2] < 1:
        raise UserError(f"Metrics need logits [..., N, K] with N >= 1 and K >= 2, not shape {tuple(logp.shape)}.")
    classes = logp.shape[-1]
    if y.shape not in (logp.shape[:-1], logp.shape[-2:-1]):
        raise UserError(
            f"Labels of shape {tuple(y.shape)} do not match logits of shape {tuple(logp.shape)}; "
            f"expected {tuple(logp.shape[:-1])}."
        )
    if y.is_floating_point() or y.is_complex():
        raise UserError(f"Labels are class numbers 0 to {classes - 1}, not {y.dtype}.")
    if y.min() < 0 or y.max() >= classes:
        raise UserError(
            f"Labels run from {int(y.min())} to {int(y.max())}; logits of {classes} classes need 0 to {classes - 1}."
        )


def log_loss_n(logp: Tensor, y: Tensor) -> Tensor:
    """-log p_y in nats, [..., N]; inf where the label's probability is zero, never clipped.

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> [round(value, 4) for value in log_loss_n(logits, y).tolist()]
    [0.1269, 1.3133, 0.3133, 0.0486]
    """
    return scores_n(logp, y, "log_loss")[0]


def brier_n(logp: Tensor, y: Tensor) -> Tensor:
    """sum_k (p_k - [k = y])^2 in [0, 2], [..., N] (Brier, 1950).

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> [round(value, 4) for value in brier_n(logits, y).tolist()]
    [0.0284, 1.0689, 0.1447, 0.0045]
    """
    return scores_n(logp, y, "brier")[0]


def correct_n(logp: Tensor, y: Tensor) -> Tensor:
    """1.0 where the most probable class (the first of equals) is the label, [..., N].

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> [round(value, 4) for value in correct_n(logits, y).tolist()]
    [1.0, 0.0, 1.0, 1.0]
    """
    return scores_n(logp, y, "correct")[0]


def top_label(logp: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """`confidence_n` and `correct_n` in one pass."""
    confidence, correct = scores_n(logp, y, "confidence", "correct")
    return confidence, correct


def confidence_n(logp: Tensor) -> Tensor:
    """Largest probability, [..., N].

    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> [round(value, 4) for value in confidence_n(logits).tolist()]
    [0.8808, 0.7311, 0.7311, 0.9526]
    """
    return scores_n(logp, None, "confidence")[0]


def entropy_n(logp: Tensor) -> Tensor:
    """Entropy of the prediction in nats, [..., N], in [0, log K].

    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> [round(value, 4) for value in entropy_n(logits).tolist()]
    [0.3653, 0.5822, 0.5822, 0.1909]
    """
    return scores_n(logp, None, "entropy")[0]


def log_loss(logp: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats, [...].

    >>> log_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
    tensor(0.6931, dtype=torch.float64)
    """
    return log_loss_n(logp, y).mean(-1)


def brier(logp: Tensor, y: Tensor) -> Tensor:
    """Mean multi-class Brier score, [...], in [0, 2].

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(brier(logits, y)), 4)
    0.3116
    """
    return brier_n(logp, y).mean(-1)


def accuracy(logp: Tensor, y: Tensor) -> Tensor:
    """Share of examples whose most probable class is the label, [...].

    >>> logits, y = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), torch.tensor([0, 1, 1, 0])
    >>> round(float(accuracy(logits, y)), 4)
    0.75
    """
    return correct_n(logp, y).mean(-1)


def mean_confidence(logp: Tensor) -> Tensor:
    """Mean of the largest probability, [...].

    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> round(float(mean_confidence(logits)), 4)
    0.8239
    """
    return confidence_n(logp).mean(-1)


def mean_entropy(logp: Tensor) -> Tensor:
    """Mean entropy of the predictions in nats, [...].

    >>> logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    >>> round(float(mean_entropy(logits)), 4)
    0.4302
    """
    return entropy_n(logp).mean(-1)
