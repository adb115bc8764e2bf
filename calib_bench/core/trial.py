"""The trial: one training run, named completely; its result; its selection score. Same key, same result."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from numbers import Real
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

RateUnit = Literal["lr", "lr_eff", "lr_rel", "lr_hom"]
Precision = Literal["fp32", "bf16", "fp64"]
Sampling = Literal["shuffled", "independent"]
Scale = Literal["none", "beta"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Correlation = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
CROSS_ENTROPY = "cross_entropy"
ADAM_EPS = 1e-8
FILE = "file:"
"""How `Trial.weights` begins where it names the user's file."""
HF = "hf/"
"""How names of transformers' models begin."""
NUMERICS = 4
"""Raised whenever a trial of the same key would train to another result: stores of different numerics do not mix."""


def format_objective(terms: dict[str, float]) -> str:
    """Canonical text of an objective: terms by name, `name:strength` joined by `+`; none at all is cross-entropy.

    >>> format_objective({"label_smoothing": 0.1, "confidence_penalty": 0.05})
    'confidence_penalty:0.05+label_smoothing:0.1'
    """
    return "+".join(f"{name}:{terms[name]!r}" for name in sorted(terms)) or CROSS_ENTROPY


def split_terms(text: str) -> list[str]:
    """The terms of an objective, at each plus sign that a name follows: those of exponents stay.

    >>> split_terms("mixup:1e+2+focal_loss:2")
    ['mixup:1e+2', 'focal_loss:2']
    """
    return re.split(r"\+(?=\s*[A-Za-z_]|\s*$)", text)


def parse_objective(text: str) -> dict[str, float]:
    """Terms of a canonical objective text; the inverse of `format_objective`.

    Raises:
        ValueError: a term is not `name:strength`, its strength is not a finite number, or a name comes twice.
    """
    if text == CROSS_ENTROPY:
        return {}
    terms: dict[str, float] = {}
    for term in split_terms(text):
        name, colon, strength = term.partition(":")
        if not colon or not name:
            raise ValueError(f"objective term {term!r} is not of the form name:strength")
        if name in terms:
            raise ValueError(f"objective {text!r} names {name!r} twice")
        terms[name] = float(strength)
        if not math.isfinite(terms[name]):
            raise ValueError(f"objective strength {strength!r} is not finite")
    return terms


class Trial(BaseModel):
    """Everything that decides a training run's result, and nothing that does not.

    The fields without a default are always part of the key; those with one enter it only when they differ from it, so
    that a field added later, with a neutral default, leaves the keys of stored trials as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    model: str
    beta: Positive
    """Softmax inverse temperature: the model's probabilities are softmax(beta z), in training and at evaluation."""
    objective: str
    """Canonical text, see `format_objective`. Each term departs from cross-entropy of beta z by its own strength."""
    optimizer: str
    lr: Positive
    lr_unit: RateUnit
    """lr: the rate itself; lr_eff: beta^2 rate; lr_rel: rate * lambda_max(H0) / 2, in units of plain
    gradient descent's critical rate. The heavy ball's is 1 + momentum of these units (Polyak, 1964), up to which a
    quadratic does not diverge. lr_hom: rate * beta^(2 / L) for sgd, rate * beta^(1 / L) for adam and adamw, L the
    degree of the net's logits in its weights, see `calib_bench.dynamics.scaling_law`."""
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NonNegative
    schedule: str
    warmup: NonNegative
    """Epochs of linear warm-up from zero."""
    epochs: Annotated[int, Field(ge=0)]
    batch: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)]
    """Fixes the initial weights, the order of batches, augmentation and dropout: arms with equal seeds are pairs."""
    split: Annotated[int, Field(ge=0)] = 0
    """Seed of the partition into train, selection, calibration and test."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most this many training examples (and as many of each other split): a smoke run, never a result."""
    precision: Precision = "fp32"
    clip: NonNegative = 0.0
    """Global gradient-norm bound; 0 is off."""
    head_lr: Positive = 1.0
    """Factor on the linear head's rate (its weight decay is divided by it), Agarwala et al. arXiv 2010.07344."""
    head_init: Positive = 1.0
    """Factor on the linear head's initial weights and bias."""
    body_lr: NonNegative = 1.0
    """Factor on the rate of all parameters but the head's. At 0 the body is at rest: its parameters are no part of
    training, and it is in evaluation mode throughout, so that batch norm's running moments stay too."""
    head_decay: NonNegative = 1.0
    """Factor on the linear head's weight decay."""
    correlation: Correlation | None = None
    """None: the model itself. Else two copies of its body under one head, W1 h(x; theta1) + W2 h(x; theta2), equal at
    first, the head's two halves drawn with this correlation: see `calib_bench.models.pair`."""
    switch_from: Positive | None = None
    """Until `switch_at`, train at this inverse temperature; there, the head's weights are multiplied by switch_from /
    beta and its momentum divided by that, so that beta z goes on unchanged and only what is learned next differs."""
    switch_at: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run's updates made at `switch_from`, rounded to whole updates."""
    pretrained: bool = False
    weights: str | None = None
    """Which weights a pretrained model starts from: "file:SHA-256" of the user's file, see
    `calib_bench.models.weights`; of timm's published ones "sha256:..." of a local file, "hub:REPOSITORY@COMMIT" or
    "url:..."; None for whatever is there, as trials of earlier versions are stored."""
    probe: str | None = None
    """What the trial leaves beside its logits, as "STUDY/NAME": a probe of a study, see
    `calib_bench.core.study.Probe`."""
    label_noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the training labels that are another class instead, drawn once for a split: the same for all seeds."""
    sampling: Sampling = "shuffled"
    """shuffled: every epoch meets each training example once, in a new order; independent: every batch is drawn anew
    from all of them, with replacement, as theories of SGD's noise assume."""

    norm_batch: Annotated[int, Field(ge=2)] | None = None
    """Examples of a batch whose moments batch norm takes together, rows i, i + n, i + 2n, ... of n such parts; None for
    all, on however many processes they are."""

    eps: Positive = ADAM_EPS
    """Adam's and AdamW's eps, added to the root of the second moment."""
    eps_scale: Scale = "none"
    """beta: their eps is `eps` * beta^(1 / L), L the degree of the net's homogeneity in its weights. Gradients by the
    weights of an L-homogeneous net at inverse temperature beta are beta^(1 / L) times those of the same training at
    beta = 1, in the coordinates that make them one, so that eps rules no beta more than another."""
    decay_scale: Scale = "none"
    """beta: weight decay is `weight_decay` * beta^(2 / L), of adamw `weight_decay` * beta^(1 / L)."""
    clip_scale: Scale = "none"
    """beta: the bound on the gradient's norm is `clip` * beta^(1 / L)."""
    degree: Positive | None = None
    """L, the degree of the net's logits in its weights, where lr_hom or a scale asks for it; None measures it at
    initialization."""
    init_scale: Positive = 1.0
    """Factor on all initial parameters: weights, biases and gains."""
    keep: Literal["losses", "weights"] | None = None
    """losses: the trial also leaves its logits as they are after the first epoch whose mean training loss is at or
    below each of a few levels, see `calib_bench.train.snapshots`; weights: its model's parameters and buffers as they
    are at the end. What it trains to does not change."""

    shift: str = ""
    """Names of corruptions and of folders with shifted test data, in order and joined by commas, on which the trial
    leaves further logits: see `calib_bench.core.corruption`. They change nothing else of its result."""

    @field_validator("objective")
    @classmethod
    def _canonical_objective(cls, text: str) -> str:
        return format_objective(parse_objective(text))

    @model_validator(mode="after")
    def _whole_switch(self) -> Trial:
        if (self.switch_from is None) != (self.switch_at == 0):
            raise ValueError("switch_from and switch_at belong together: give both, switch_at above 0, or neither")
        return self

    @property
    def terms(self) -> dict[str, float]:
        """The objective's terms by name; empty for plain cross-entropy."""
        return parse_objective(self.objective)

    @property
    def needs_degree(self) -> bool:
        """Whether a number of the trial follows beta by the degree of the net's logits in its weights."""
        return self.lr_unit == "lr_hom" or "beta" in (self.eps_scale, self.decay_scale, self.clip_scale)

    @property
    def copies(self) -> int:
        """How many times the model's body is there."""
        return 1 if self.correlation is None else 2

    def canonical(self) -> dict[str, Any]:
        """The fields that make the key, in declaration order."""
        return _canonical(self.model_dump(mode="json"))

    @cached_property
    def key(self) -> str:
        """20 hexadecimal digits of SHA-256 over the canonical JSON."""
        return _digest(self.canonical())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Trial:
        """A copy with other fields, and so with a key of its own."""
        if deep:
            copy = super().model_copy(update=update, deep=True)
            copy.__dict__.pop("key", None)
            return copy
        fields = {**self.__dict__, **(update or {})}
        fields.pop("key", None)
        copy = type(self).__new__(type(self))  # a grid has many: they share what pydantic keeps beside the values
        for name, value in (
            ("__dict__", fields),
            ("__pydantic_fields_set__", self.__pydantic_fields_set__),
            ("__pydantic_extra__", None),
            ("__pydantic_private__", None),
        ):
            object.__setattr__(copy, name, value)
        return copy

    def arm(self) -> Trial:
        """This trial with its rate and seed set aside (both to a fixed value): trials of one arm compare equal."""
        return self.model_copy(update={"lr": 1.0, "seed": 0, "split": 0})

    def family(self) -> Trial:
        """The arm with beta and objective set aside too: arms of one family are compared with each other."""
        return self.arm().model_copy(update={"beta": 1.0, "objective": CROSS_ENTROPY})


def scored_as_published(trial: Trial) -> bool:
    """Whether a trial measures a pretrained head as it is: nothing trains it, and no probe asks for something else."""
    return trial.pretrained and trial.epochs == 0 and trial.probe is None


def check_beta(beta: object) -> None:
    """Raises SettingsError where an inverse temperature is not a positive number."""
    if not isinstance(beta, Real) or not 0 < float(beta) < math.inf:
        raise SettingsError(f"beta={beta!r} is not a positive number")


def of_file(weights: str | None) -> bool:
    """Whether weights, as `Trial.weights` names them, are those of the user's file."""
    return weights is not None and weights.startswith(FILE)


def key_of(fields: Mapping[str, Any]) -> str:
    """The key of the trial that was dumped to these JSON values."""
    return _digest(_canonical(fields))


def _digest(canonical: Mapping[str, Any]) -> str:
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _canonical(fields: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _defaults(Trial)
    return {name: value for name, value in fields.items() if name not in defaults or value != defaults[name]}


@cache
def _defaults(kind: type[Trial]) -> dict[str, Any]:
    """Fields that have a default, with it."""
    return {name: field.default for name, field in kind.model_fields.items() if not field.is_required()}


Scores = Callable[[Trial], float | None]
"""Selection score of a trial, lower is better: inf when it diverged or failed, None when it has not run."""


class Score(float):
    """A selection score out of a store, which also knows whether the training failed, see `calib_bench.core.fate`."""

    _failed: Callable[[], bool]

    def __new__(cls, value: float, failed: Callable[[], bool]) -> Score:
        """
        Args:
            value: the score.
            failed: called when `failed` is asked for.
        """
        score = super().__new__(cls, value)
        score._failed = failed
        return score

    @property
    def failed(self) -> bool:
        """Whether the training failed or could not be finished."""
        return self._failed()


@dataclass(frozen=True)
class Snapshot:
    """Logits of a trial as they were after the first epoch whose mean training loss was at or below a level.

    Attributes:
        level: the level, in nats.
        epoch: epochs done by then.
        step: updates done by then.
        train_loss: mean objective over that epoch's batches as they were met, in nats, at most `level`.
        logits: "selection", "calibration", "test" -> raw z [N, K] on the CPU, as in `TrialResult`.
    """

    level: float
    epoch: int
    step: int
    train_loss: float
    logits: Mapping[str, Tensor]


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        trial: the trial.
        status: "done", or "diverged" when a batch's loss (or a final logit) was not finite.
        logits: "selection", "calibration", "test" and names of further test splits -> raw z [N, K] on the CPU, not
            times beta, rows as in the split's labels; float32, or float64 for precision fp64. Empty when diverged.
        history: `COLUMNS`, and those of its probe, -> values, one a measured epoch; of a diverged run, until the last
            update before its end.
        metadata: JSON-able: lr, lambda_max, lambda_max_converged, euler_degree and euler_degree_spread where they were
            needed, diverged_step (updates made before the first bad
            loss, or None), steps, seconds, mode, stack, world, device, device_name, threads, precision, parameters.
        arrays: what its probe measured at the end, by name, on the CPU.
        snapshots: of a trial that keeps some, the highest level first; none of a diverged one.
        weights: of a trial that keeps them, the model's parameters and buffers by name, on the CPU.
    """

    trial: Trial
    status: str
    logits: dict[str, Tensor]
    history: dict[str, list[float]]
    metadata: dict[str, Any]
    arrays: dict[str, Tensor] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
