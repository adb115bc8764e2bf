"""What the study of the homogeneity law trains: nets, each with an optimizer, over beta and the learning rate.

The grid of rates is that of plain gradient descent, in lr_hom. With momentum it is multiplied by 1 - momentum, and for
Adam by `ADAM`, so that each optimizer's best rate lies inside its own grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calib_bench import models
from calib_bench.analysis import beta_rate_plane
from calib_bench.analysis.result_rows import Row
from calib_bench.core.settings import Grid, Space
from calib_bench.core.study import Role
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.dynamics.scaling_law import powers
from calib_bench.errors import SettingsError
from calib_bench.models.variations import form
from calib_bench.planning import tuning
from calib_bench.studies.homogeneity.options import Options

STUDY = "homogeneity"
DEGREE = f"{STUDY}/degree"
ADAM = 2.0**-6
"""Adam's grid of rates over that of gradient descent."""
RANGE = "beta <= 0.1"
"""Where the law is judged, a range of `beta_rate_plane.regimes`: there the initial weights are small."""
CONTROL_EPOCHS = 10
"""Longest run of the exact control: rounding grows with the number of updates."""


@dataclass(frozen=True)
class Net:
    """One model with one optimizer.

    Attributes:
        grid: those of this net alone, every seed in every cell.
        family: its arms, one a beta, as far as they are tuned.
        tuners: seeds that choose the rate that is carried.
    """

    grid: Grid
    family: tuning.Family
    tuners: tuple[int, ...]

    @property
    def arms(self) -> list[tuning.Arm]:
        """Its arms by ascending beta."""
        return sorted(self.family.arms, key=lambda arm: arm.trial.beta)

    @property
    def trial(self) -> Trial:
        """The template of the first arm."""
        return self.family.arms[0].trial

    @property
    def betas(self) -> tuple[float, ...]:
        """Inverse temperatures, ascending."""
        return tuple(arm.trial.beta for arm in self.arms)

    @property
    def seeds(self) -> tuple[int, ...]:
        """All of its seeds."""
        return tuple(self.grid.seed)

    @property
    def fresh(self) -> tuple[int, ...]:
        """Seeds that judge the carried rate, none of which helped to choose it."""
        return tuple(seed for seed in self.seeds if seed not in self.tuners)

    @property
    def complete(self) -> bool:
        """Whether every rate of the grid has a score at every beta and seed."""
        return all(arm.status != "pending" for arm in self.arms)

    @property
    def optimizer(self) -> str:
        """The optimizer for people, with its momentum."""
        trial = self.trial
        return f"{trial.optimizer} momentum={trial.momentum:g}" if trial.momentum else trial.optimizer

    @property
    def name(self) -> Row:
        """Columns that name it."""
        return {"model": self.trial.model, "optimizer": self.optimizer}

    @property
    def can_fail(self) -> bool:
        """Whether training fails at high rates. Softmax regression's does not: large steps are those of a perceptron,
        whose logits grow with the rate and are right after temperature scaling."""
        return degree_by_name(self.trial.model) != 1

    @property
    def power(self) -> int:
        """The law's slope of the best rate over beta times the degree: -2 of gradient descent, -1 of Adam."""
        return powers(self.trial.optimizer).rate

    def at(self, arm: tuning.Arm, rate: float, seed: int) -> Trial:
        """The trial of an arm at a rate and seed."""
        return tuning.trial_at(self.grid, arm.trial, rate, seed)

    def trials(self, arm: tuning.Arm) -> Iterator[Trial]:
        """Every trial of an arm: all seeds at each rate of the grid."""
        return (self.at(arm, rate, seed) for rate in arm.rates for seed in self.seeds)

    def best(self, arm: tuning.Arm, scores: Scores, seeds: Sequence[int]) -> float:
        """The rate of the grid with the lowest mean selection score over some seeds."""
        failed = beta_rate_plane.is_failed(self.grid)

        def mean(rate: float) -> float:
            values = [scores(self.at(arm, rate, seed)) for seed in seeds]
            return math.fsum(math.inf if value is None or failed(value) else value for value in values)

        return min(arm.rates, key=lambda rate: (mean(rate), rate))

    def carried(self, scores: Scores) -> float:
        """The rate that the tuning seeds choose at beta = 1."""
        return self.best(next(arm for arm in self.arms if arm.trial.beta == 1), scores, self.tuners)


def nets(grid: Grid, scores: Scores) -> list[Net]:
    """Every model with every optimizer, as far as `scores` lets its rates be tuned."""
    tuners = tuple(grid.seed[: grid.tune_seeds])
    all_nets = []
    for model, space in grid.spaces.items():
        for recipe in _recipes(space):
            net_grid = grid.model_copy(update={"spaces": {model: {**space, **recipe}}})
            net_grid = beta_rate_plane.all_seeds(net_grid)
            all_nets += [Net(net_grid, family, tuners) for family in tuning.tuned(net_grid, scores)]
    return all_nets


def _recipes(space: Space) -> Iterator[Space]:
    """Each optimizer's part of a model's grid; Adam has no momentum of its own here."""
    for optimizer in space["optimizer"]:
        for momentum in space["momentum"] if optimizer == "sgd" else (0.0,):
            factor = 1 - momentum if optimizer == "sgd" else ADAM
            rates = tuple(float(f"{rate * factor:.10g}") for rate in space["lr"])
            yield {"optimizer": (optimizer,), "momentum": (momentum,), "lr": rates}


def check(grid: Grid) -> None:
    """Raises SettingsError where the law cannot be judged with these settings."""
    if grid.reference != 1:
        raise SettingsError(f"study={STUDY} carries rates from beta=1: leave reference= out")
    if grid.split == "seed":
        raise SettingsError(f"study={STUDY} compares rates on one test split: leave split at shared")
    for model, space in grid.spaces.items():
        _check_space(model, space)


def _check_space(model: str, space: Space) -> None:
    if 0 in space["epochs"]:
        raise SettingsError(f"study={STUDY} trains at every rate: give epochs=1 or more")
    if space["lr_unit"] != ("lr_hom",):
        raise SettingsError(f"study={STUDY} judges the unit lr_hom: give rates as lr_hom=, not {space['lr_unit'][0]}=")
    if space["objective"] != (CROSS_ENTROPY,):
        raise SettingsError(f"study={STUDY} is of plain cross-entropy: leave objective= out")
    if len(space["lr"]) < 3 or len([beta for beta in space["beta"] if beta <= 0.1]) < 2:
        raise SettingsError(
            f"study={STUDY} fits slopes of the best rate over beta <= 0.1, and model {model} has too few: give at "
            "least three rates lr_hom= and two such betas, for example beta=0.01,0.1,1"
        )


def degree_by_name(model: str) -> int | None:
    """The degree of a net of known depth: its layers of weights, or 2 under layer normalization; None of others.

    >>> degree_by_name("mlp_32_32_nobias"), degree_by_name("mlp_32_32_layernorm"), degree_by_name("bag_64")
    (3, 2, None)
    """
    name = models.canonical(model)
    if name.startswith("linear"):
        return 1
    architecture = form(name)
    if architecture is None or architecture.kind not in ("mlp", "cnn"):
        return None
    return 2 if architecture.norm == "layer" else architecture.depth + 1


def starts(net: Net) -> list[Trial]:
    """Trials of no epochs that measure the degree at each seed's initialization, one for all optimizers."""
    changes = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "beta": 1.0, "probe": DEGREE, "epochs": 0}
    changes |= {"warmup": 0.0, "lr_unit": "lr", "degree": None, "eps_scale": "none", "decay_scale": "none"}
    template = net.trial.model_copy(update={**changes, "clip_scale": "none"})
    return [tuning.trial_at(net.grid, template, 1.0, seed) for seed in net.seeds]


def same_rate(net: Net, beta: float, rate: float) -> list[Trial]:
    """The fresh seeds' trials at another beta, with the rate of beta = 1 as it stands."""
    arm = next(arm for arm in net.arms if arm.trial.beta == beta)
    template = arm.trial.model_copy(update={"lr_unit": "lr", "degree": None})
    return [tuning.trial_at(net.grid, template, rate, seed) for seed in net.fresh]


def scaled(net: Net) -> dict[float, tuning.Arm]:
    """Arms at beta = 1 from initial weights times s = beta^(1 / L), by the beta that each stands for.

    Every other rate of the grid is enough to bracket where training fails. None for other optimizers than plain
    gradient descent, where the name of the model does not tell L, and where no rate is too high.
    """
    degree = degree_by_name(net.trial.model)
    plain = net.trial.optimizer == "sgd" and not net.trial.momentum and net.can_fail
    if degree is None or not plain or Options.of(net.grid).initial_scales == "no" or not net.complete:
        return {}
    arms = {}
    for arm in net.arms:
        if arm.trial.beta != 1:
            scale = float(f"{arm.trial.beta ** (1 / degree):.10g}")
            template = arm.trial.model_copy(update={"beta": 1.0, "init_scale": scale, "lr_unit": "lr", "degree": None})
            arms[arm.trial.beta] = tuning.Arm(template, arm.rates[::2], {}, None, "fixed", {})
    return arms


FURTHER = 2
"""Failure is looked for so many times as far above a grid as the grid may grow: Adam fails late."""


def frontier(net: Net) -> Grid:
    """The net's grid as the search for its frontier of failure takes them."""
    return net.grid.model_copy(update={"extend": FURTHER * net.grid.extend})


def of_tuners(net: Net) -> Grid:
    """The net's grid with its tuning seeds alone."""
    return net.grid.model_copy(update={"seed": net.tuners, "tune_seeds": len(net.tuners)})


def scaled_trials(net: Net, scores: Scores) -> Iterator[Trial]:
    """What brackets the frontier over the scale of the initial weights, on the tuning seeds."""
    grid = of_tuners(net)
    for arm in scaled(net).values():
        for rate in arm.rates:
            for seed in net.tuners:
                yield tuning.trial_at(grid, arm.trial, rate, seed)
        yield from beta_rate_plane.wanted(grid, arm, scores)


def exact(net: Net) -> tuple[Trial, Trial] | None:
    """A run at beta = 1 and the same at the smallest beta from scaled weights, in float64; None of a net with biases.

    In exact arithmetic beta times the logits of the second are the logits of the first.
    """
    if not net.trial.model.endswith("_nobias"):
        return None
    degree, beta = degree_by_name(net.trial.model), net.betas[0]
    assert degree is not None
    rate = net.grid.spaces[net.trial.model]["lr"][0]
    scales = dict.fromkeys(("decay_scale", "clip_scale"), "beta")
    if net.trial.optimizer != "sgd":
        scales["eps_scale"] = "beta"
    epochs = min(net.trial.epochs, CONTROL_EPOCHS)
    changes = {"precision": "fp64", "epochs": epochs, "warmup": min(net.trial.warmup, epochs), "degree": degree}
    template = net.trial.model_copy(update={**changes, **scales})
    at_one = template.model_copy(update={"beta": 1.0})
    at_beta = template.model_copy(update={"beta": beta, "init_scale": beta ** (-1 / degree)})
    one, other = (tuning.trial_at(net.grid, trial, rate, net.seeds[0]) for trial in (at_one, at_beta))
    return one, other


def wanted(net: Net, scores: Scores) -> Iterator[tuple[Trial, Role]]:
    """Every trial of a net that is wanted so far, and its role."""
    yield from net.family.roles()
    yield from tuning.with_role(starts(net), "chosen")
    yield from tuning.with_role(exact(net) or (), "control")
    for arm in net.arms if net.can_fail else ():
        yield from tuning.with_role(beta_rate_plane.wanted(frontier(net), arm, scores), "tuning")
    yield from tuning.with_role(scaled_trials(net, scores), "control")
    if net.complete and net.fresh:
        rate = net.carried(scores)
        for beta in net.betas:
            if beta != 1:
                yield from tuning.with_role(same_rate(net, beta, rate), "chosen")
