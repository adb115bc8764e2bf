"""When a training has failed: one definition for the status of trials, for rates of failure and for their frontier.

A training failed when its loss is not finite, or ends at `GUESS` or more of the entropy of the training labels: the
loss of the best constant prediction, log K nats where K classes are equally frequent. Networks whose units have died,
or saturate however large their weights grow, end there with finite logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from calib_bench.core.trial import Trial

GUESS = 0.95
"""A loss of this share of the label entropy, or more, is no better than guessing."""
DIVERGED, DEAD = "diverged", "dead"
"""Status of a trial that failed: its loss or logits are not finite; its end loss is no better than guessing."""
FAILED = (DIVERGED, DEAD)


def label_entropy(y_M: Tensor, classes: int) -> float:
    """Loss in nats of the best constant prediction of labels [M], int64 in 0..classes - 1."""
    import torch

    share_K = torch.bincount(y_M, minlength=classes).double() / len(y_M)
    return float(torch.special.entr(share_K).sum())


def failed(loss: float, entropy: float) -> bool:
    """Whether a training that ends at this loss failed, given the label entropy; both in nats.

    >>> import math
    >>> failed(2.3, math.log(10)), failed(0.4, math.log(10)), failed(math.nan, math.log(10))
    (True, False, True)
    """
    return not loss < GUESS * entropy


def trained(trial: Trial) -> bool:
    """Whether the trial trains at all: one of no epochs cannot fail at it."""
    return trial.epochs > 0


def end_loss(selection: Mapping[str, float], train_loss: float | None) -> float:
    """The loss at which a training ended, in nats.

    That of the selection split after temperature scaling; before it, where the training loss is as high. A network that
    fits its training examples and is overconfident about others has not failed, however large its raw loss; one that
    is saturated, and wrong with large logits about both, has.

    Args:
        selection: "log_loss" and "repaired_log_loss" at the end of training; without the second the first counts.
        train_loss: mean cross-entropy over the last epoch; None where it was not measured, or was another objective.
    """
    raw = selection["log_loss"]
    repaired = selection.get("repaired_log_loss", raw)
    return repaired if train_loss is None else max(repaired, min(raw, train_loss))
