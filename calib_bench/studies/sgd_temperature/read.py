"""Stored trials to numbers: stationary losses, their plateaus, and what theory says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from calib_bench import registry
from calib_bench.core.results import Results
from calib_bench.dynamics import stationary
from calib_bench.inference import collapsed
from calib_bench.inference.arrays import Array
from calib_bench.studies.sgd_temperature import gibbs as densities
from calib_bench.studies.sgd_temperature.arms import Arm, Family

MARGIN = 0.1
"""A drift below this share of the excess loss does not matter."""
INTERPOLATES = 0.01
"""A minimum whose loss (nats) is below this fits every label."""
LEAST = 8
"""Samples that a plateau needs."""
DIVERGED, FAILED, SHORT = "diverged", "failed", "too short"


@dataclass(frozen=True)
class Minimum:
    """What the trial at the minimum measured, see `calib_bench.studies.sgd_temperature.minimum.Minimum`."""

    values: dict[str, float]

    def __getattr__(self, name: str) -> float:
        return self.values[name]

    @property
    def interpolates(self) -> bool:
        """Whether it fits every training label."""
        return self.values["loss"] < INTERPOLATES and self.values["accuracy"] == 1

    @property
    def capacity(self) -> float:
        """The heat capacity: the slope of the excess loss over eta0."""
        return stationary.heat_capacity(self.values["mean_square"])


@dataclass(frozen=True)
class Reading:
    """Stationary loss of an arm's trials.

    Attributes:
        arm: the arm.
        eta0: rate / ((1 - momentum) batch), the rate itself whatever its unit; of Adam it has no meaning.
        batch: examples of a batch, no more than there are.
        epochs: of the samples [T].
        loss: objective over all training examples [S, T]; empty when a trial diverged or failed.
        excess: mean over the second half of the run, less the minimum's, [S]; NaN without a plateau to speak of.
        plateau: of the second half; None when a trial did not end or the run is too short.
        state: "flat", "drifts", "undecided", "diverged", "failed" or "too short".
        mixed: whether some seeds collapsed (`inference.collapsed`, towards the excess loss of guessing), not all: then
            their mean depends on how many did.
    """

    arm: Arm
    eta0: float
    batch: int
    epochs: Array
    loss: Array
    excess: Array
    plateau: stationary.Plateau | None
    state: str
    mixed: bool = False

    @property
    def mean(self) -> float:
        """Excess loss, mean over seeds."""
        return float(self.excess.mean())


def read_minimum(store: Results, family: Family) -> Minimum | None:
    """The minimum of a family, as stored; None when its trial failed."""
    if store.state(family.minimum) != "done":
        return None
    return Minimum({name: float(value) for name, value in store.arrays(family.minimum).items()})


def read(store: Results, arm: Arm, minimum: Minimum) -> Reading:
    """An arm's stationary loss above the minimum.

    Raises:
        StoreError: a trial cannot be read.
    """
    states = {store.state(trial) for trial in arm.trials}
    batch = min(arm.trial.batch, round(minimum.examples))
    rates = [store.record(trial).metadata["lr"] for trial in arm.trials if store.has(trial)]
    heat = stationary.eta0(float(next(iter(rates), None) or math.nan), batch, arm.trial.momentum)
    nan = np.full(len(arm.trials), math.nan)
    if states != {"done"}:
        ended = DIVERGED if states <= {"done", "diverged"} else FAILED
        return Reading(arm, heat, batch, np.zeros(0), np.zeros((0, 0)), nan, None, ended)
    frames = [store.history(trial) for trial in arm.trials]
    epochs = frames[0]["epoch"].to_numpy(float)
    loss = np.stack([frame["whole_objective"].to_numpy(float) for frame in frames])
    late = epochs > epochs[-1] / 2
    if late.sum() < LEAST:
        return Reading(arm, heat, batch, epochs, loss, nan, None, SHORT)
    excess = loss - minimum.objective
    scale = max(abs(float(excess[:, late].mean())), 1e-12)
    plateau_test = stationary.plateau(excess[:, late], MARGIN * scale)
    mean_S = excess[:, late].mean(1)
    guess = math.log(registry.task(arm.trial.task).classes) - minimum.objective
    mixed = bool(collapsed(mean_S, guess, largest=False).any())
    return Reading(arm, heat, batch, epochs, loss, mean_S, plateau_test, plateau_test.verdict, mixed)


def predicted(reading: Reading, minimum: Minimum) -> float:
    """The excess loss that theory gives: capacity times eta0, times the factor of a finite rate in the curvature that
    the noise feels."""
    heat, momentum = reading.eta0, reading.arm.trial.momentum
    factor = stationary.finite_rate(heat, reading.batch, momentum, minimum.noise_curvature)
    return minimum.capacity * heat * factor


@dataclass(frozen=True)
class Phases:
    """The three parts of a run whose rate is dropped and restored.

    Attributes:
        hot, cold, again: excess loss in the second half of each part, [S].
        control: in that of the last one, of runs with the same batches whose rate was never changed.
    """

    hot: Array
    cold: Array
    again: Array
    control: Array


def phases(cooled: Reading, control: Reading, minimum: Minimum) -> Phases | None:
    """Of arms of the parts "cooling" and "not cooled"; None when one did not end."""
    if not (len(cooled.loss) and len(control.loss)):
        return None

    def mean(reading: Reading, part: int) -> Array:
        last = reading.epochs[-1]
        inside = (reading.epochs > (part + 0.5) * last / 3) & (reading.epochs <= (part + 1) * last / 3)
        return (reading.loss[:, inside] - minimum.objective).mean(1)

    return Phases(mean(cooled, 0), mean(cooled, 1), mean(cooled, 2), mean(control, 2))


@dataclass(frozen=True)
class Density:
    """The one-parameter model at one temperature beside its Gibbs density, on a grid."""

    eta0: float
    samples: Array
    x: Array
    density: Array
    gaussian: Array
    fit: densities.Fit
    gaussian_distance: float


def read_gibbs(store: Results, arm: Arm) -> Density | None:
    """The samples of an arm of `arms.gibbs` and the density that theory gives them; None when a trial did not end."""
    if any(store.state(trial) != "done" for trial in arm.trials):
        return None
    constants = store.arrays(arm.trial)
    share, classes = float(constants["share"]), int(constants["classes"])
    first, rest = classes // 2, classes - classes // 2
    frames = [store.history(trial) for trial in arm.trials]
    start = frames[0]["epoch"].to_numpy(float) > frames[0]["epoch"].iloc[-1] / 4
    samples = np.stack([frame["logit"].to_numpy(float)[start] for frame in frames])
    noise = share * (1 - share)
    centre, width = math.log(share * rest / ((1 - share) * first)), math.sqrt(arm.temperature / 2)
    x = np.linspace(centre - 12 * width - 4, centre + 12 * width + 4, 8001)

    def loss(s: Array) -> Array:
        return np.logaddexp(math.log(first) + s, math.log(rest)) - share * s

    density = densities.gibbs(loss, arm.temperature, noise, x)
    gaussian = densities.gibbs(lambda s: noise * (s - centre) ** 2 / 2, arm.temperature, noise, x)
    tau = stationary.autocorrelation_time(samples)[0]
    fit = densities.compare(samples, x, density, independent=min(1.0, 0.5 / tau))
    other = densities.compare(samples, x, gaussian).distance
    return Density(arm.temperature, samples, x, density, gaussian, fit, other)
