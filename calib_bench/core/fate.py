"""When a training has failed: one definition for the status of trials, for rates of failure and for their frontier.

A training failed when its loss is not finite, or ends at `GUESS` or more of the entropy of the training labels: the
loss of the best constant prediction, log K nats where K classes are equally frequent. Networks whose units have died,
or saturate however large their weights grow, end there with finite logits; `is_dead` tells them from networks that are
only over- or underconfident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


def is_dead(
    selection: Mapping[str, float], entropy: float, classes: Callable[[], int], train_loss: Callable[[], float | None]
) -> bool:
    """Whether a training ended, with finite logits, no better than guessing.

    It did where the selection loss after temperature scaling is as high as that: such a network ranks nothing. It also
    did where it is saturated: the raw loss is above log K, that of equal probabilities, and the training loss no better
    than guessing, so that it is wrong with large logits about both. A network that fits its training examples and is
    overconfident about others has not failed, however large its raw loss. Nor has one that is only underconfident: the
    loss is convex in the scale of the logits, is log K at scale 0, and so at most log K below its best scale.

    Args:
        selection: "log_loss" and "repaired_log_loss" at the end of training; without the second the first counts.
        entropy: of the training labels, in nats.
        classes: gives K; this and the next are asked for only where they decide.
        train_loss: gives the mean cross-entropy over the last epoch; None where it was not measured, or was another
            objective.
    """
    raw = selection["log_loss"]
    if failed(selection.get("repaired_log_loss", raw), entropy):
        return True
    loss = train_loss() if raw > math.log(classes()) else None
    return loss is not None and failed(loss, entropy)
