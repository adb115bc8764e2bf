"""Seeds of two kinds: a few that trained to much worse results than the others, told by the gap between them.

A t interval on a few seeds does not cover what it has not seen: where one seed in five collapses, means over 3 to 10
seeds cover .54 to .88 at nominal .95. Collapse is therefore counted as an event with a rate, and the mean over the
other seeds stands beside the mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHARE, FEW_SHARE, LONE_SHARE = 0.2, 0.3, 0.5
"""How much of the better seeds' distance to guessing the gap must take: of five seeds or more, of 3 or 4, of 2."""
TIMES = 5.0
"""What that share, times the gap in standard deviations within both groups, must be: 5 of them for a gap of the whole
distance, 25 for one of a fifth."""
SEEDS = 20
"""Seeds to ask for where some collapsed: one seed in five is then seen with probability .99."""


def collapsed(values_S: ArrayLike, chance: float, largest: bool) -> NDArray[np.bool_]:
    """Which of an arm's seeds collapsed: [S], none in most arms and never more than half.

    Of every split of the ordered results into the k worst and the others, k at most S / 2, the gap between them is
    compared with the distance from the others' mean to guessing and with the standard deviation within both groups:
    the smaller a share of that distance the gap is, the more standard deviations it must be (TIMES). Seeds at guessing
    are found in 99% of arms where the others spread by a twentieth of the distance, in 81% or more at a tenth. Normal
    results and those with symmetric heavy tails (t with 3 degrees) of a spread up to a tenth are mistaken for two kinds
    in 1% of arms or less, of 3 to 20 seeds; those with one long tail towards guessing, at a tenth, in up to 3%
    (exponential) and 5% (lognormal, sigma 1; gamma, shape 1/2), at a twentieth in about 2% or less.

    Args:
        values_S: a result of each seed; one that is not finite has collapsed.
        chance: of guessing: 1 / K for an accuracy, log K for a log loss.
        largest: whether the largest result is the best.

    >>> collapsed([0.91, 0.90, 0.92, 0.11, 0.91], 0.1, largest=True)
    array([False, False, False,  True, False])
    """
    values = np.asarray(values_S, np.float64)
    finite = np.isfinite(values)
    good = (1.0 if largest else -1.0) * values[finite]
    lost = ~finite
    cut = _cut(np.sort(good), (1.0 if largest else -1.0) * chance)
    if cut is not None:
        lost[finite] = good <= cut
    return lost


def _cut(ordered: NDArray[np.float64], chance: float) -> float | None:
    """The best result, the larger the better, that counts as collapsed; None where no gap is wide enough."""
    S = len(ordered)
    share = SHARE if S >= 5 else FEW_SHARE if S > 2 else LONE_SHARE
    for k in range(S // 2, 0, -1):
        worse, better = ordered[:k], ordered[k:]
        gap = better[0] - worse[-1]
        within = np.sqrt((worse.var() * k + better.var() * (S - k)) / max(S - 2, 1))
        distance = better.mean() - chance
        if gap > 0 and gap >= share * distance > 0 and gap * min(gap, distance) >= TIMES * distance * within:
            return float(worse[-1])
    return None
