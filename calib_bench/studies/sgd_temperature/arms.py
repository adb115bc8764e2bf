"""What the study of SGD's temperature trains: arms of one family, a model at one beta, objective and label noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from calib_bench.core.settings import Grid
from calib_bench.core.trial import Trial
from calib_bench.dynamics.stationary import rate_at
from calib_bench.errors import SettingsError

STUDY = "sgd_temperature"
DECAY = 0.03
"""Weight decay of a convex model whose recipe has none: without any, its minimum may lie at infinity."""
CONVEX = ("linear", "bag")
COOLING = "parts_1_0.25_1"
COLD = 0.25
ADAM_RATES = (1e-3, 2e-3)
"""Adam's rates at the first batch size."""
ADAM_STEPS = (4, 16)
"""Batch sizes of Adam, in units of the first."""
GIBBS = (0.0625, 0.25, 1.0, 4.0)
"""Temperatures of the model of one parameter, at batches of one."""
GIBBS_EXAMPLES = 30
"""Its training examples: of them it sees the labels alone, and a pass over few is a sample often."""
GIBBS_SEEDS = 4
"""Its runs for each seed."""
GIBBS_EPOCHS = 400
HEAT, BATCHES, MOMENTA, SHUFFLED, ADAM = "heat", "batch", "momentum", "shuffled", "adam"
COOLED, UNCOOLED = "cooling", "not cooled"


@dataclass(frozen=True)
class Arm:
    """Trials that differ in their seed alone, which is their average.

    Attributes:
        part: of the study.
        temperature: eta0 = rate / ((1 - momentum) batch) in the rate's unit; of Adam the rate at the first batch size.
        rule: of Adam, how the rate follows the batch size: "linear" or "square root".
        trials: one a seed.
    """

    part: str
    temperature: float
    trials: tuple[Trial, ...]
    rule: str = ""

    @property
    def trial(self) -> Trial:
        """The first of the arm's trials."""
        return self.trials[0]


@dataclass(frozen=True)
class Family:
    """Arms of one model, beta, objective and label noise, and the trial that finds its minimum."""

    model: str
    convex: bool
    minimum: Trial
    arms: list[Arm] = field(default_factory=list)

    def trials(self) -> Iterator[Trial]:
        """All trials of the family."""
        yield self.minimum
        for arm in self.arms:
            yield from arm.trials

    def part(self, *names: str) -> list[Arm]:
        """The arms of these parts."""
        return [arm for arm in self.arms if arm.part in names]


def families(grid: Grid) -> list[Family]:
    """The families of resolved settings.

    Raises:
        SettingsError: rates are relative to the critical one, or there is nothing to train.
    """
    if grid.split == "seed":
        raise SettingsError(
            f"study={STUDY} compares all seeds with one minimum, that of one split: leave split at shared"
        )
    if grid.pretrained:
        raise SettingsError(f"study={STUDY} starts from random weights: leave pretrained at false")
    planned = []
    for model, space in grid.spaces.items():
        if space["lr_unit"] in (("lr_rel",), ("lr_hom",)):
            unit = space["lr_unit"][0]
            raise SettingsError(
                f"a temperature is an absolute rate over a batch size: give lr= or lr_eff=, not {unit}="
            )
        if grid.carry == "all":
            raise SettingsError(f"study={STUDY} finds the minimum of one objective: leave carry=all out")
        if min(space["epochs"]) < 16 or "sgd" not in space["optimizer"]:
            raise SettingsError(
                f"study={STUDY} waits for SGD's stationary state: give optimizer=sgd and epochs=16 or more"
            )
        for beta, objective, noise in itertools.product(space["beta"], space["objective"], space["label_noise"]):
            base = _base(grid, model, beta, objective, noise)
            planned.append(_family(grid, base, space["lr"], space["batch"], space["momentum"], space["optimizer"]))
    return planned


def _base(grid: Grid, model: str, beta: float, objective: str, noise: float) -> Trial:
    """Constant-rate SGD at the first of every list."""
    space = grid.spaces[model]
    fields = {key: values[0] for key, values in space.items()}
    decay = fields["weight_decay"] or (DECAY if convex(model) else 0.0)
    overrides = {"beta": beta, "objective": objective, "label_noise": noise, "weight_decay": decay, "optimizer": "sgd"}
    overrides |= {"schedule": "constant", "warmup": 0.0, "seed": 0, "task": grid.task, "model": model}
    overrides |= {"limit": grid.limit, "precision": grid.precision, "probe": f"{STUDY}/whole"}
    return Trial(**fields | overrides)


def convex(model: str) -> bool:
    """Whether a model's training objective has one minimum."""
    return model.split("_")[0] in CONVEX


def _family(
    grid: Grid,
    base: Trial,
    rates: tuple[float, ...],
    batches: tuple[int, ...],
    momenta: tuple[float, ...],
    optimizers: tuple[str, ...],
) -> Family:
    at = {"probe": f"{STUDY}/minimum", "epochs": 0, "lr": 1.0, "batch": 1, "momentum": 0.0, "sampling": "shuffled"}
    family = Family(base.model, convex(base.model), base.model_copy(update=at))
    heats = [float(f"{rate / ((1 - base.momentum) * base.batch):.10g}") for rate in rates]

    def add(part: str, temperatures: list[float], **changes: object) -> None:
        for heat in temperatures:
            one = base.model_copy(update=changes)
            one = one.model_copy(update={"lr": rate_at(heat, one.batch, one.momentum)})
            family.arms.append(Arm(part, heat, seeds_of(grid, one)))

    add(HEAT, heats)
    hot = [heats[-2] if len(heats) > 2 else heats[-1]]
    add(COOLED, hot, schedule=COOLING, epochs=2 * base.epochs)
    add(UNCOOLED, hot, epochs=2 * base.epochs)
    if not family.convex:
        return family
    for batch in batches[1:]:
        add(BATCHES, heats, batch=batch)
    for momentum in momenta[1:]:
        add(MOMENTA, heats, momentum=momentum)
    if base.sampling == "independent":
        add(SHUFFLED, heats, sampling="shuffled")
    if "adam" in optimizers:
        family.arms.extend(_adam(grid, base))
    return family


def _adam(grid: Grid, base: Trial) -> Iterator[Arm]:
    """Adam at growing batches, its rate in proportion to the batch or to its square root."""
    plain = base.model_copy(update={"optimizer": "adam", "momentum": 0.0, "lr_unit": "lr"})
    for rate in ADAM_RATES:
        yield Arm(ADAM, rate, seeds_of(grid, plain.model_copy(update={"lr": rate})))
        for times, (rule, power) in itertools.product(ADAM_STEPS, (("linear", 1.0), ("square root", 0.5))):
            changes = {"batch": times * base.batch, "lr": float(f"{rate * times**power:.12g}")}
            yield Arm(ADAM, rate, seeds_of(grid, plain.model_copy(update=changes)), rule)


def gibbs(grid: Grid) -> list[Arm]:
    """The model of one parameter at every temperature of `GIBBS`."""
    probe, limit = f"{STUDY}/logit", min(GIBBS_EXAMPLES, grid.limit or GIBBS_EXAMPLES)
    base = Trial(
        task=grid.task, model="scalar", beta=1.0, objective="cross_entropy", optimizer="sgd", lr=1.0, lr_unit="lr",
        momentum=0.0, weight_decay=0.0, schedule="constant", warmup=0.0, epochs=_gibbs_epochs(grid), batch=1,
        seed=0, limit=limit, sampling="independent", probe=probe,
    )  # fmt: skip
    seeds = [seed + 1000 * k for seed in grid.seed for k in range(GIBBS_SEEDS)]
    made = (base.model_copy(update={"lr": rate}) for rate in GIBBS)
    return [Arm("gibbs", one.lr, tuple(one.model_copy(update={"seed": seed}) for seed in seeds)) for one in made]


def _gibbs_epochs(grid: Grid) -> int:
    longest = max(max(space["epochs"]) for space in grid.spaces.values())
    return min(GIBBS_EPOCHS, 2 * longest)


def seeds_of(grid: Grid, trial: Trial) -> tuple[Trial, ...]:
    """The trial with every seed; the split is one for all, since its minimum is."""
    return tuple(trial.model_copy(update={"seed": seed}) for seed in grid.seed)
