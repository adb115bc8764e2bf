"""How a recipe that was tuned at inverse temperature 1 reads at another one, for a network of a known degree.

Let the logits be homogeneous of degree L in the weights theta, z(s theta) = s^L z(theta). Then beta z(theta) is
z(phi) with phi = beta^(1 / L) theta, and training theta at beta is training phi at 1 with other numbers: gradients are
multiplied by beta^(1 / L) and weights by beta^(-1 / L). `POWERS` says what follows for each number of a recipe.
Momentum, batch, warm-up and schedule stay. For other networks L is the Euler degree at initialization, see
`calib_bench.dynamics.euler_degree`, and the law is an approximation.
"""

from __future__ import annotations

from dataclasses import dataclass

from calib_bench.errors import SettingsError


@dataclass(frozen=True)
class Powers:
    """Powers p in the factors beta^(p / L) by which an optimizer's numbers are multiplied at beta.

    Attributes:
        rate: of the learning rate.
        weight_decay: of weight decay: coupled where it is added to the gradient, decoupled where a step removes
            rate * weight_decay * theta.
        eps: of what is added to the root of the second moment.
        clip: of a bound on the gradient's norm.
        weights: of the initial weights; training from weights that are not scaled is another run, which forgets that
            where it learns features.
    """

    rate: int
    weight_decay: int
    eps: int = 1
    clip: int = 1
    weights: int = -1


POWERS = {"sgd": Powers(rate=-2, weight_decay=2), "adam": Powers(-1, 2), "adamw": Powers(-1, 1)}
"""By optimizer. SGD's hold with momentum too; Adam's weight decay is added to the gradient, AdamW's is decoupled."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a recipe that depend on beta; None where the recipe has no such number."""

    lr: float
    weight_decay: float = 0.0
    eps: float | None = None
    clip: float | None = None


def powers(optimizer: str) -> Powers:
    """Powers of an optimizer.

    Raises:
        SettingsError: they are not known.
    """
    if optimizer not in POWERS:
        raise SettingsError(
            f"how the numbers of optimizer {optimizer!r} follow beta is not known; it is known for {', '.join(POWERS)}"
        )
    return POWERS[optimizer]


def carry(numbers: Numbers, optimizer: str, beta: float, degree: float) -> Numbers:
    """The numbers at inverse temperature beta of a recipe that was tuned at 1.

    >>> at_small_beta = carry(Numbers(lr=0.1, weight_decay=1e-3), "sgd", beta=0.01, degree=2)
    >>> round(at_small_beta.lr, 6), round(at_small_beta.weight_decay, 9)
    (10.0, 1e-05)

    Args:
        numbers: of the recipe at beta = 1.
        optimizer: "sgd", "adam" or "adamw".
        beta: inverse temperature.
        degree: L of the network's logits in its weights.

    Raises:
        SettingsError: how the optimizer's numbers follow beta is not known.
    """
    of = powers(optimizer)
    scale = beta ** (1 / degree)
    return Numbers(
        numbers.lr * scale**of.rate,
        numbers.weight_decay * scale**of.weight_decay,
        None if numbers.eps is None else numbers.eps * scale**of.eps,
        None if numbers.clip is None else numbers.clip * scale**of.clip,
    )
