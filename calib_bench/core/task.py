"""The task contract: where the data is, how it is partitioned, and the recipe that trains on it by default.

A task is one file in `tasks/` with one constant `TASK`; its file name is its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from calib_bench.core.trial import RateUnit

if TYPE_CHECKING:
    from calib_bench.core.splits import Request, Splits


@dataclass(frozen=True)
class Hub:
    """A data set on the Hugging Face Hub, or a local folder with the same columns.

    Attributes:
        name: "owner/name".
        revision: full commit hash.
        input: column of inputs.
        label: column of integer labels.
        rows: rows of each split that are used, by the Hub's name of the split; a whole local copy has as many.
        gated: whether the Hub asks for a licence to be accepted first.
    """

    name: str
    revision: str
    input: str
    label: str
    rows: Mapping[str, int]
    gated: bool = False


@dataclass(frozen=True)
class SplitSizes:
    """How many examples each split takes; `train=None` takes what is left, `test=None` likewise."""

    selection: int
    calibration: int
    train: int | None = None


@dataclass(frozen=True)
class Content:
    """What data of the user's own holds, as far as a plan needs it.

    Attributes:
        kind: of an input, as in `core.splits.InputSpec`.
        classes: number of classes K.
        sizes: of the splits, that of train among them.
        large: whether images are of many sizes, or too large for small networks.
    """

    kind: str
    classes: int
    sizes: SplitSizes
    large: bool


@dataclass(frozen=True)
class Recipe:
    """Training defaults; every one of them can be set on the command line."""

    epochs: int
    batch: int
    lr: tuple[float, ...]
    lr_unit: RateUnit = "lr"
    optimizer: str = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: float = 0.0
    clip: float = 0.0


@dataclass(frozen=True)
class Task:
    """One benchmark task.

    Attributes:
        title: one line for people.
        load: (Request) -> Splits; raises DataError when data is missing or not as declared.
        classes: number of classes K.
        sizes: of the splits.
        models: names of the models meant for it, the first is the default.
        recipe: training defaults.
        beta: default grid of inverse temperatures.
        objectives: default objectives, as on the command line.
        seeds: default seeds.
        tune_seeds: how many of the seeds are used to choose a rate; None is all of them.
        interventions: whether the separation study trains its interventions (four arms a beta) unless told otherwise:
            for tasks whose trials take seconds.
        recipes: fields of the recipe that a model changes, by model name: {"gru_64": {"lr": (1e-3,)}}.
        source: where the data comes from on the Hub; None when it ships with a package.
        example: (kind, shape, vocabulary) of an input, as in `data.splits.InputSpec`, where it is known before the data
            is there: so that what a study takes can be told without it.
        image: shape [C, H, W] of the image that an input is, where some models get it as a vector: corruptions take it
            as an image.
        look: Request -> what the data holds, of a task whose data the user brings; None where the task declares it.
        adapt: what the data holds -> the task that goes with it.
        licence: what the data's licence allows, in a sentence.
        reference: BibTeX key in references.bib.
    """

    title: str
    load: Callable[[Request], Splits]
    classes: int
    sizes: SplitSizes
    models: tuple[str, ...]
    recipe: Recipe
    beta: tuple[float, ...]
    licence: str
    reference: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tune_seeds: int | None = None
    objectives: tuple[str, ...] = ("cross_entropy", "label_smoothing", "confidence_penalty")
    interventions: bool = False
    recipes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    source: Hub | None = None
    example: tuple[str, tuple[int, ...], int] | None = None
    image: tuple[int, int, int] | None = None
    look: Callable[[Request], Content] | None = None
    adapt: Callable[[Content], Task] | None = None
