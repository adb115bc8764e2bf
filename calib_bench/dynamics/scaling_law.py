"""How a recipe that was tuned at inverse temperature 1 reads at another one, for a network of a known degree.

Let the logits be homogeneous of degree L in the weights theta, z(s theta) = s^L z(theta). Then beta z(theta) is
z(phi) with phi = beta^(1 / L) theta, and training theta at beta is training phi at 1 with other numbers: gradients are
multiplied by beta^(1 / L) and weights by beta^(-1 / L). `POWERS` says what follows for each number of a recipe.
Momentum, batch, warm-up and schedule stay. For other networks L is the Euler degree at initialization, see
`calib_bench.dynamics.euler_degree`, and the law is an approximation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from calib_bench.core.trial import check_beta
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


HEADROOM = {"sgd": (2.0, 8.4), "sgd with momentum 0.9": (3.9, 36.0), "adam": (38.0, 92.0)}
"""By how much the best rate lay below the rate at which training begins to fail, as a factor: smallest and largest over
six small MLPs and five betas, 20 seeds, 400 updates on digits (reports/digits-homogeneity). Seen, not derived."""
CAUTION = 2.0
"""The smallest of these factors: so far, at most, may a rate be off before training fails."""


@dataclass(frozen=True)
class Advice:
    """A recipe that was tuned at beta = 1, at another inverse temperature.

    Attributes:
        optimizer: "sgd", "adam" or "adamw".
        beta: inverse temperature.
        degree: mean of the measured Euler degree, or the degree that was given.
        spread: standard deviation of the degree over initializations; 0 of a single one.
        tuned: numbers at beta = 1, for each group of parameters.
        groups: the same at `beta`.
        lr_range: rate of the first group if the degree is one standard deviation off, ascending.
        weights: factor on the initial weights with which the run would be that at beta = 1 exactly, were the network
            homogeneous. Training from weights as they are is what studies of beta do.
    """

    optimizer: str
    beta: float
    degree: float
    spread: float
    tuned: tuple[Numbers, ...]
    groups: tuple[Numbers, ...]
    lr_range: tuple[float, float]
    weights: float

    @property
    def lr(self) -> float:
        """Learning rate of the first group at `beta`."""
        return self.groups[0].lr

    @property
    def cautious_lr(self) -> float:
        """The rate divided by `CAUTION`, for where a failed run costs more than a slow one."""
        return self.lr / CAUTION


def advise(optimizer: str, tuned: tuple[Numbers, ...], beta: float, degree: float, spread: float = 0.0) -> Advice:
    """What a recipe that was tuned at inverse temperature 1 becomes at beta.

    Args:
        optimizer: "sgd", "adam" or "adamw".
        tuned: numbers of the recipe, one a group of parameters.
        beta: inverse temperature.
        degree: Euler degree L of the network.
        spread: its standard deviation.

    Raises:
        SettingsError: how the optimizer's numbers follow beta is not known, or beta or the degree is not positive and
            finite.
    """
    check_beta(beta)
    if not 0 < degree < float("inf"):
        raise SettingsError(
            f"the network's logits have degree {degree:g} in its weights, by which nothing can follow beta"
        )
    ends = (max(degree - spread, degree / 2), degree + spread)
    rates = sorted(carry(tuned[0], optimizer, beta, end).lr for end in ends)
    return Advice(
        optimizer,
        beta,
        degree,
        spread,
        tuned,
        tuple(carry(numbers, optimizer, beta, degree) for numbers in tuned),
        (rates[0], rates[1]),
        beta ** (powers(optimizer).weights / degree),
    )


def cautions(optimizer: str, degree: float, betas: Iterable[float]) -> list[str]:
    """Sentences on where the law holds and where it stops, as far as they concern this use of it."""
    seen = {name: factors for name, factors in HEADROOM.items() if name.startswith("sgd") == (optimizer == "sgd")}
    factors = ", ".join(f"{low:g} to {high:g} with {name}" for name, (low, high) in seen.items())
    sentences = [
        f"Safe side: the best rate lay below the rate at which training begins to fail by a factor of {factors} (six "
        "small MLPs on digits, study=homogeneity). These factors were seen there and are not from the theory. When in "
        "doubt, go below the rate, not above it.",
        "How it did there: a rate tuned at beta = 1 and carried to beta = 0.01 to 0.316 cost the same as one tuned at "
        "each beta, within 0.05 nats of test log loss, in 51 of 72 cases of net, optimizer and beta; more "
        "(established) in 8, of which 5 are the net of five layers (up to 1.8 nats).",
        "Where the law holds: exactly, for homogeneous networks whose initial weights are scaled too. From ordinary "
        "weights, where training forgets their scale: there slopes of the best rate were equivalent to the law's for "
        "MLPs of two and three layers with plain SGD, and of two with momentum.",
        "Where it stops: slopes of the best rate miss the law for five layers under SGD, and for three with momentum. "
        "Objectives that fix the scale of the logits do not follow it.",
    ]
    if max(betas) > 1:
        sentences.append(
            "Above beta = 1 training is lazy and the tangent kernel rules: there the best rate may fall as beta^-2 "
            "(lr_eff), which is below the law's."
        )
    if optimizer != "sgd":
        sentences.append("For adam the slope of the best rate was inconclusive, that of the failure mostly the law's.")
    if degree > UNSURE:
        sentences.append(
            f"A degree above {UNSURE:g} is beyond where the law was seen to hold from ordinary weights: try rates "
            "around this one."
        )
    return sentences


UNSURE = 4.5
"""Degrees above it belong to networks in which short training from ordinary weights was seen to miss the law."""
