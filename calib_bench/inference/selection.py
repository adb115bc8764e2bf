"""What it is worth to choose an arm, with the choice itself counted as part of the procedure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from calib_bench.inference.interval import Interval, Sampling, around, crossed_interval, pool, variances

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[np.float64]


class SelectedGain(NamedTuple):
    """The gain of choosing an arm over always taking the reference.

    Attributes:
        gain: test score of the chosen arm less the reference's.
        chosen: index of the arm that all seeds together choose.
        choices: for each seed, the arm that the other seeds choose.
    """

    gain: Interval
    chosen: int
    choices: tuple[int, ...]


def selected_gain(
    selection_AS: ArrayLike,
    test_ASN: ArrayLike | Sequence[Sequence[ArrayLike]],
    reference: int,
    *,
    largest: bool = False,
    level: float = 0.95,
    nested: bool = False,
) -> SelectedGain:
    """Gain on the test split of "take the arm with the best mean selection score" over the reference arm.

    The quantity covered is the expected gain, over fresh seeds and test examples, of the procedure with S - 1 seeds: a
    seed's gain is that of the arm which the other seeds choose, so no seed judges an arm that it helped to choose
    (lucky seeds are lucky on both splits). The half width is the larger of two, that of these gains, their variance due
    to seeds no less than by the jackknife of the whole procedure, and that of the gain of the arm chosen by all seeds:
    choices that share seeds go together. With one seed the choice is that seed's, and the interval is over examples
    alone, the choice taken as given.

    Args:
        selection_AS: selection scores [A, S], the lowest best unless `largest`; a NaN, say of a seed that diverged,
            counts as the worst possible score.
        test_ASN: per-example test scores [A, S, N]; with `nested` rows may differ in length by seed.
        reference: index of the reference arm.

    Raises:
        ValueError: shapes do not match, or the reference is no arm.
    """
    selection = np.asarray(selection_AS, np.float64)
    test = cast("Sequence[Sequence[ArrayLike]]", test_ASN)
    A, S = selection.shape
    if len(test) != A or any(len(rows) != S for rows in test) or not 0 <= reference < A:
        raise ValueError(
            f"{A} arms by {S} seeds of selection scores need test scores to match and a reference below {A}"
        )
    cost = np.nan_to_num(-selection if largest else selection, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    chosen, choices = int(cost.mean(1).argmin()), _left_out(cost)

    def gains(arms: Sequence[int]) -> list[Array]:
        pairs = ((np.asarray(test[a][s]), np.asarray(test[reference][s])) for s, a in enumerate(arms))
        return [np.atleast_1d(mine.astype(np.float64) - theirs) for mine, theirs in pairs]

    apart, together = gains(choices), gains([chosen] * S)
    found = crossed_interval(apart, level, nested)
    if S == 1 or not all(np.isfinite(row).all() for row in (*apart, *together)):
        return SelectedGain(found, chosen, choices)
    if nested:
        apart, together = ([np.array([row.mean()]) for row in rows] for rows in (apart, together))
    mean_AS = np.array([[np.mean(np.asarray(row)) for row in rows] for rows in test])
    gain_AS = mean_AS - mean_AS[reference]
    parts = [variances(d, d) for d in (np.stack(apart), np.stack(together))]
    parts[0][0] = max(parts[0][0], _instability(cost, gain_AS))
    sums = [one for part in parts for one in pool(part, S, len(apart[0])).sums]
    method = f"{found.method}, choice left one seed out"
    gain = around(found.mean, Sampling.of(*sums), level, S, found.n_examples, method)
    return SelectedGain(gain, chosen, choices)


def _left_out(cost_AS: Array) -> tuple[int, ...]:
    """For each seed the arm of least mean cost over the others; with one seed, over itself."""
    S = cost_AS.shape[1]
    if S == 1:
        return (int(cost_AS[:, 0].argmin()),)
    return tuple(int(np.delete(cost_AS, s, 1).mean(1).argmin()) for s in range(S))


def _instability(cost_AS: Array, test_AS: Array) -> float:
    """Jackknife variance over seeds of the mean score of left-out choices."""
    S = cost_AS.shape[1]
    means = []
    for s in range(S):
        cost, test = np.delete(cost_AS, s, 1), np.delete(test_AS, s, 1)
        means.append(test[list(_left_out(cost)), np.arange(S - 1)].mean())
    return float((S - 1) / S * np.square(np.array(means) - np.mean(means)).sum())
