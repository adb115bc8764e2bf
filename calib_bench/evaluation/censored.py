"""Probabilities of exactly zero: below the last digit that a file keeps, and what calibrators see in their place.

A fit to log 0 is a fit to nothing. A zero enters as a share of the last digit instead, 1/2, 1/4, 1/8..., and its row is
normalized: the share with which a temperature explains the calibration labels best. Half an example more, whose label
has a zero, keeps the share from vanishing where no label fell on one. Overconfident nets have most of their zeros far
below the last digit, forests have not: on CIFAR-10 probabilities of a wide residual net cut to 4 decimals the
temperature is then that of the full ones within 2%, where a half of the digit would be a fifth too low.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from calib_bench import registry
from calib_bench.evaluation import Array
from calib_bench.evaluation.resolution import FROM_UNDERFLOW, Resolution, narrowest, resolution

LOGS = 4
"""How much further a rounded log p puts p from what it was than rounding p would; several times that is allowed."""
SMALLEST = 40
"""Halvings of the last digit at most."""
ROWS = 8192
"""Calibration rows at most from which the share is found."""


@dataclass(frozen=True, eq=False)
class Zeros:
    """Probabilities of exactly zero, which are below what the file keeps.

    Attributes:
        resolution: what it keeps.
        step_K: the smallest number above zero that it can hold, of each class or [1] of all.
        number: how many there are.
        at_labels: how many of them are the label's.
        structural: whether they look like classes that rows do not offer: no rule of rounding is seen, no label has
            one, and they are whole columns or the ends of rows.
    """

    resolution: Resolution
    step_K: Array
    number: int
    at_labels: int
    structural: bool

    @property
    def words(self) -> str:
        """How many, and what the file keeps."""
        count = f"{self.number:,} probabilities are zero, {self.at_labels:,} of them the label's"
        infinite = ", whose raw log loss is infinite" if self.at_labels else ""
        kept = f"; the file's numbers are {self.resolution.words}"
        return count + infinite + ("; taken as classes that rows do not offer" if self.structural else kept)

    def of_classes(self, order: Sequence[int]) -> Zeros:
        """These zeros with the classes in another order, [K] class numbers."""
        return self if len(self.step_K) == 1 else replace(self, step_K=self.step_K[list(order)])


def zeros_of(Z: Array, y: Array, probabilities: Array | None) -> Zeros | None:
    """The zeros among the probabilities of a file, which are -inf in Z [N, K]; None if there are none.

    A probability of exactly one in a single column is a zero of the other class, whose last digit is that of numbers
    near one. `probabilities`, [N, K] or [N], are as stored in the file; None if it holds log probabilities.
    """
    where = np.isneginf(Z)
    if not where.any():
        return None
    if probabilities is None:
        narrow = narrowest(np.where(where, 0.0, Z).reshape(-1))
        p = np.exp(Z.astype(np.float64))
        kept = resolution(p, replace(narrow, rounding=LOGS * narrow.rounding))
    else:
        p, kept = probabilities, resolution(probabilities)
    step_K = np.array([kept.step])
    if kept.form in ("type", "least") and Z.shape[1] == 2:
        first = 1 - p.astype(np.float64) if p.ndim == 1 else p[:, 0]
        step_K = np.array([_last(first, kept, p.ndim == 1), _last(p if p.ndim == 1 else p[:, 1], kept, False)])
    at_labels = int(where[np.arange(len(y)), y].sum())
    structural = kept.form == "least" and at_labels == 0 and _structural(where)
    return Zeros(kept, step_K, int(where.sum()), at_labels, structural)


def _last(column: Array, kept: Resolution, complement: bool) -> float:
    """The last digit of one of two columns; of 1 - p, where only p was kept, the distance of neighbours below one."""
    if complement and kept.form == "type":
        return 2 * kept.type.rounding
    above = column[column > 0]
    if len(above) == 0:
        return kept.step
    return min(float(above.min()), kept.step if float(above.min()) < FROM_UNDERFLOW * kept.type.normal else math.inf)


def _structural(where: Array) -> bool:
    """Whether zeros are whole columns, or the ends of enough rows, which offer two classes at least."""
    rest = where[:, ~where.all(0)]
    rows = int(rest.any(1).sum())
    if rows and rest.shape[1] ** min(rows, 64) < 1000:  # so few zeros stand in the last columns by chance
        return False
    return rest.shape[1] > 1 and bool((rest[:, 1:] >= rest[:, :-1]).all()) and bool((~where).sum(1).min() > 1)


CLIPPED, OFTENER, AT_LEAST = 0.01, 10, 20
"""Share of the numbers that are the least one, how much oftener than those next to it, and how many, if it is a cut."""
CUT_OFF = "{share:.0%} of the probabilities are {least:.2g}, the least, as if cut off there: what was below is lost"


def clip_note(p: Array) -> tuple[str, ...]:
    """A note on probabilities, [N, K] or [N], that seem to be cut off from below; empty where they do not.

    Rows may have been normalized after the cut, which then differs by K times itself. A tree's numbers are few, all of
    them frequent; those on a grid are rounded.
    """
    least, row = float(p.min()), p[0].size
    alike = 1 + row * least + 1e-6
    number, with_next = int((p <= least * alike).sum()), int((p <= least * alike**2).sum())
    is_cut = least > 0 and number >= max(AT_LEAST, CLIPPED * p.size, OFTENER * (with_next - number))
    if not is_cut or resolution(p).form == "grid":
        return ()
    return (CUT_OFF.format(share=number / p.size, least=least),)


def joint_zeros(one: Zeros | None, other: Zeros | None) -> Zeros | None:
    """The zeros of two files of one model: what one of them keeps, the other does; None where all are structural."""
    parts = [zeros for zeros in (one, other) if zeros is not None]
    if not parts or all(zeros.structural for zeros in parts):
        return None
    finest = min(parts, key=lambda zeros: zeros.resolution.step)
    return replace(finest, structural=False)


def filled(Z_NK: Tensor, zeros: Zeros, share: float) -> Tensor:
    """Log probabilities with `share` of the last digit in place of zeros, float64, rows normalized."""
    Z_NK = Z_NK.double()
    step_K = torch.from_numpy(np.log(zeros.step_K) + math.log(share)).to(Z_NK.device)
    return torch.where(Z_NK.isneginf(), step_K, Z_NK).log_softmax(-1)


def share_of(Z_NK: Tensor, y_N: Tensor, zeros: Zeros) -> float:
    """The share of the last digit at which a zero explains the calibration labels best, with a temperature."""
    if zeros.resolution.form == "hard":
        return 0.5  # any share is the same with a temperature
    temperature = registry.calibrators(("temperature_scaling",))["temperature_scaling"]
    stride = -(-len(y_N) // ROWS)
    Z_NK, y_N = Z_NK[::stride], y_N[::stride]
    best, share = math.inf, 0.5
    for halvings in range(1, SMALLEST + 1):
        some_NK = filled(Z_NK, zeros, 0.5**halvings)
        s = 1 / float(temperature.fit(some_NK, y_N)["temperature"])
        loss = -float((s * some_NK).log_softmax(1).gather(1, y_N[:, None]).sum())
        loss += 0.5 * s * halvings * math.log(2)
        if not loss < best:
            break
        best, share = loss, 0.5**halvings
    return share
