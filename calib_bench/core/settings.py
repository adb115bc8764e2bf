"""Settings: what the user typed (`UserSettings`), checked word by word, and the complete ones (`Settings`) with their
parts: the grid of trials, how they are executed, and how they are logged."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calib_bench.core.syntax import expand, split_word
from calib_bench.core.task import Content
from calib_bench.core.trial import Correlation, NonNegative, Positive, Precision, RateUnit, Sampling, Scale
from calib_bench.errors import SettingsError, nearest
from calib_bench.system.object_store import url_of
from calib_bench.system.redaction import redact

Count = Annotated[int, Field(ge=1, le=2**53)]
Natural = Annotated[int, Field(ge=0, le=2**53)]
Carry = Literal["rate", "all", "none"]
Score = Literal["log_loss", "repaired_log_loss", "error"]
Space = dict[str, tuple[Any, ...]]
"""Values by trial field: their product is the grid of one model."""
RATES: tuple[RateUnit, ...] = get_args(RateUnit)
SHARED_BEFORE: dict[str, tuple[str, Any]] = {
    "switch_times": ("beta_switch", [0.01, 0.03, 0.1, 0.3, 0.6]),
    "budget": ("tune", 40),
}
"""Keys that older run folders store for every study: the study that has the key, and its default."""
Part = TypeVar("Part", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _only(condition: str, default: Any, description: str) -> Any:
    """A field that matters only where another key has a certain value, see `UserSettings.idle`.

    Args:
        condition: "key=value", or "key=value,value" where any of several will do.
    """
    return Field(default, description=f"{condition}: {description}", json_schema_extra={"only": condition})


class Question(_Frozen):
    """What a study asks, as the user typed it. A tuple spans the grid; None stands for the task's default."""

    task: str = Field("digits", description="task, see `list tasks`; your own data: folder, or hub/OWNER/NAME")
    study: str = Field("separation", description="question to answer, see `list studies`")

    model: tuple[str, ...] | None = Field(None, description="architectures; timm/NAME is for images, hf/NAME for texts")
    beta: tuple[Positive, ...] | None = Field(None, description="inverse temperatures used in training")
    objective: tuple[str, ...] | None = Field(
        None, description="training losses: cross_entropy, name, name:strength, or terms joined by +"
    )
    lr: tuple[Positive, ...] | None = Field(None, description="learning rates; several are tuned per arm")
    lr_eff: tuple[Positive, ...] | None = Field(None, description="learning rates as beta^2 * lr")
    lr_rel: tuple[Positive, ...] | None = Field(
        None,
        description="learning rates as lr * lambda_max / 2 at initialization (sgd): 1 is the critical rate of plain "
        "gradient descent, 1 + momentum that of the heavy ball",
    )
    lr_hom: tuple[Positive, ...] | None = Field(
        None,
        description="learning rates as lr * beta^(2/L) for sgd and lr * beta^(1/L) for adam and adamw, L the Euler "
        "degree of the net: a rate that was tuned at beta=1, carried to every beta",
    )
    degree: Positive | None = Field(
        None, description="the degree L that lr_hom, carry=all and eps_scale=beta use; default measured"
    )
    carry: Carry = Field(
        "rate",
        description="what follows beta by the degree L: rate: learning rates in lr_hom alone; all: weight decay, eps "
        "and clip too, whatever the rate's unit; none: not even lr_hom, which then is lr",
    )
    optimizer: tuple[str, ...] | None = Field(None, description="sgd, adam, adamw or timm/NAME")
    momentum: tuple[Annotated[float, Field(ge=0, lt=1)], ...] | None = Field(
        None, description="momentum of sgd; of adam and adamw their beta_1, where 0 is the usual 0.9"
    )
    eps: tuple[Positive, ...] | None = Field(
        None, description="eps of adam and adamw, added to the root of the second moment; default 1e-8"
    )
    eps_scale: Scale = Field(
        "none",
        description="beta: multiply eps of adam and adamw by beta^(1/L), as gradients scale with beta in a net that is "
        "homogeneous of degree L in its weights; carry=all does it too",
    )
    weight_decay: tuple[NonNegative, ...] | None = Field(None, description="weight decay")
    schedule: tuple[str, ...] | None = Field(
        None, description="constant, cosine, step, linear, parts_1_0.1_1 (factors over equal parts) or timm/NAME"
    )
    warmup: tuple[NonNegative, ...] | None = Field(None, description="epochs of linear warm-up")
    epochs: tuple[Natural, ...] | None = Field(None, description="passes over the training split")
    batch: tuple[Count, ...] | None = Field(None, description="global batch size")
    clip: tuple[NonNegative, ...] | None = Field(None, description="bound of the global gradient norm; 0 is off")
    head_lr: tuple[Positive, ...] = Field((1.0,), description="factor on the linear head's learning rate")
    head_decay: tuple[NonNegative, ...] = Field((1.0,), description="factor on the linear head's weight decay")
    head_init: tuple[Positive, ...] = Field((1.0,), description="factor on the linear head's initial weights")
    body_lr: tuple[NonNegative, ...] = Field(
        (1.0,), description="factor on the learning rate of all but the head; 0 trains the head alone"
    )
    correlation: tuple[Correlation, ...] | None = Field(
        None,
        description="-1 to 1: two copies of the body whose heads are correlated; initial logits grow as sqrt(1 + c)",
    )
    label_noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, description="share of the training labels that are replaced by another class"
    )
    sampling: tuple[Sampling, ...] | None = Field(
        None, description="shuffled: each example once an epoch; independent: batches drawn with replacement"
    )
    norm_batch: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        None, description="examples per batch norm computation; default the whole batch, over all processes"
    )
    seed: tuple[Natural, ...] | None = Field(None, description="seeds, for example 0..4")

    calibrator: tuple[str, ...] | None = Field(None, description="post-hoc calibrators; default all")
    reference: Positive = Field(1.0, description="beta of the arm that others are compared with")
    select: Score = Field("log_loss", description="score on the selection split that chooses a learning rate")
    extend: Natural = Field(
        4, description="how many learning rates a grid may grow by at each end when the best one is at its edge"
    )
    tune_seeds: Count | None = Field(
        None, description="how many seeds choose the learning rate; the others run at the chosen one"
    )
    interventions: Literal["auto", "yes", "no"] = _only(
        "study=separation", "auto", "add arms that change one part of beta at a time; auto: as the task says"
    )
    switch_at: Annotated[float, Field(gt=0, lt=1)] = _only(
        "study=separation", 0.5, "share of the updates before an intervention switches beta"
    )
    options: dict[str, Any] = Field({}, description="keys that the study declares itself, see `StudyOptions`")
    split: Literal["shared", "seed"] = Field("shared", description="one data split for all seeds, or one per seed")
    limit: Count | None = Field(None, description="smoke mode: use at most this many examples of each split")
    pretrained: bool = Field(
        False, description="start from published weights, or those of weights=; epochs=0 only calibrates them"
    )
    keep: Literal["weights"] | None = Field(
        None, description="weights: store the model of each chosen trial too, for `predict`; trains it once more"
    )


class Execution(_Frozen):
    """Where and how trials run."""

    data: Path | None = Field(None, description="folder of the data; else $CALIB_BENCH_DATA/<task>, else the Hub")
    weights: Path | None = Field(
        None,
        description="start from the weights of this file, .safetensors or a checkpoint of tensors, of any one model; "
        "as pretrained=true",
    )
    input: tuple[str, ...] = Field(
        (), description="your own data: the column of images or texts, or the columns of numbers; default the others"
    )
    label: str | None = Field(None, description="your own data: the column of class names or numbers; default label")
    out: Path = Field(
        Path("runs"), description="where run folders go: a folder, or an object store as s3://bucket/folder"
    )
    precision: Precision = Field("fp32", description="fp32, bf16 or fp64")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    executor: Literal["local", "ray"] = Field("local", description="where trials run: this machine, or a Ray cluster")
    ray_address: str = _only(
        "executor=ray", "auto", "HOST[:PORT] of a cluster; local starts one; auto joins one here, or starts one"
    )
    ray_gpus: NonNegative | None = _only(
        "executor=ray", None, "share of a GPU per task; default 1 if the cluster has GPUs"
    )
    ray_memory: NonNegative = _only("executor=ray", 0.0, "GiB of memory reserved per task; 0 reserves none")
    retries: Natural = _only("executor=ray", 3, "how often a task that lost its worker is retried")
    gang: Count = Field(
        1,
        description="executor=ray: processes, one per GPU, that train each trial together if it is not stacked",
    )
    micro_batch: Count | None = Field(
        None, description="most examples per forward pass of a process; gradients are accumulated over the batch"
    )
    workers: Count | None = Field(None, description="worker processes; default one per core, or one on a GPU")
    threads: Count = Field(1, description="threads per worker; results repeat bit by bit only at equal threads")
    compile: Literal["auto", "yes", "no"] = Field(
        "auto", description="compile models that train alone and record CUDA graphs; auto: if the run is long enough"
    )
    stack: Count = Field(128, description="most small models that are trained as one; 1 trains each alone")
    checkpoint: NonNegative = Field(60.0, description="seconds between checkpoints; 0 writes one every step")
    lease: Positive = Field(
        120.0,
        description="several drivers on one store: seconds without a heartbeat after which another takes over a trial",
    )
    stall: NonNegative = Field(
        0.0,
        description="seconds without progress after which a trial is stopped and counted as failed; 0 waits forever. "
        "Trials then run in worker processes",
    )
    shift: tuple[str, ...] = Field(
        (),
        description="study=separation: further test data, corruptions by name, all of them, or folders such as "
        "CIFAR-10-C; the models at the chosen rates are trained anew and measured on it",
    )
    plugins: tuple[Path, ...] = Field((), description="folders with your own tasks, baselines and studies")


class Logging(_Frozen):
    """How progress and results are reported while a study runs."""

    wandb: Literal["offline", "online", "disabled"] = Field("offline", description="Weights & Biases")
    wandb_runs: Literal["arms", "selected", "all"] = _only(
        "wandb=offline,online",
        "arms",
        "what is a run: each arm at its chosen rates with all its seeds, each of these trials (selected), "
        "or each trial (all); the tables hold all",
    )
    wandb_wait: Positive = _only("wandb=offline,online", 60.0, "timeout of the Weights & Biases server, in seconds")
    log_format: Literal["text", "json"] = Field(
        "text",
        description="--log-format json writes progress as JSON lines to standard output, all else to standard error",
    )


class UserSettings(Logging, Execution, Question):
    """One command line, as typed: `planning.defaults.resolve` completes it."""

    yes: bool = Field(False, description="do not ask before a long run")

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return f"{self.task.replace('/', '-')}-{self.study}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.name

    def words(self) -> list[str]:
        """The `key=value` words that give these settings: those that differ from the default, and the study's own."""
        words = []
        for key in FIELDS:
            value = getattr(self, key)
            if key == "options":
                words += [f"{name}={_text(option)}" for name, option in value.items()]
            elif value is not None and value != UserSettings.model_fields[key].default:
                words.append(f"{key}={_text(value)}")
        return words

    def names(self) -> tuple[str, ...]:
        """Every name that may be that of a plug-in, with its parameters."""
        lists = (self.model, self.objective, self.calibrator, self.shift)
        return (self.task, self.study, *(name for names in lists for name in names or ()))

    def idle(self) -> list[str]:
        """A sentence for each setting that has no effect, since it goes with another executor, study or logging."""
        sentences = []
        for key, field in UserSettings.model_fields.items():
            condition = str((field.json_schema_extra or {}).get("only", ""))  # type: ignore[union-attr]
            other, _, value = condition.partition("=")
            if other and getattr(self, key) != field.default and getattr(self, other) not in value.split(","):
                word = f"{key}={_text(getattr(self, key))}"
                sentences.append(f"{word} has no effect with {other}={getattr(self, other)}: it goes with {condition}")
        return sentences

    def command(self, verb: str = "run") -> str:
        """These settings as one shell line, to be shown and stored: secrets in it are hidden."""
        return shell_line(verb, self.words())


_LAST = ("plugins", "yes")
FIELDS = (*(name for name in UserSettings.model_fields if name not in _LAST), *_LAST)
"""Fields of `UserSettings` in the order of the command line."""
KEYS = tuple(name for name in FIELDS if name != "options")
"""Keys of the command line that every study has."""
CONFIG = "config"
"""The key that names a file of settings, see `calib_bench.core.config_file`."""


class Grid(_Frozen):
    """What is asked: which trials complete settings span, how a learning rate is chosen among them, and what they are
    compared with. Planning and analyses read nothing else.

    Attributes:
        spaces: by model, the values of all trial fields but the seed.
        seed: all seeds; the first `tune_seeds` of them choose the rate.
        reference: beta of the arms that others are compared with.
        options: keys that the study declares itself, see `StudyOptions`.
        content: what the user's own data holds; None where the task declares its data.
    """

    task: str
    beta: tuple[float, ...]
    spaces: dict[str, Space]
    seed: tuple[int, ...]
    tune_seeds: int
    select: Score
    extend: int
    split: Literal["shared", "seed"]
    limit: int | None
    shift: tuple[str, ...]
    precision: Precision
    pretrained: bool
    calibrator: tuple[str, ...]
    carry: Carry
    reference: float
    interventions: Literal["auto", "yes", "no"]
    switch_at: float
    options: dict[str, Any]
    content: Content | None = None


class Settings(UserSettings, Grid):
    """Complete settings: the task's and the study's defaults are put in, and every name is checked."""

    model: tuple[str, ...]
    beta: tuple[Positive, ...]
    objective: tuple[str, ...]
    seed: tuple[Natural, ...]
    calibrator: tuple[str, ...]
    tune_seeds: Count

    @property
    def grid(self) -> Grid:
        """The part that planning and analyses read."""
        return _part(self, Grid)

    @property
    def execution(self) -> Execution:
        """The part that says where and how trials run."""
        return _part(self, Execution)

    @property
    def logging(self) -> Logging:
        """The part that says what is logged where."""
        return _part(self, Logging)

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, content: dict[str, Any]) -> dict[str, Any]:
        """Settings of an older run folder, where the keys of single studies stand among those of all."""
        older = {key: content[key] for key in SHARED_BEFORE if key in content}
        if not older:
            return content
        options = {key: value for key, value in older.items() if SHARED_BEFORE[key][0] == content.get("study")}
        return {key: value for key, value in content.items() if key not in older} | {"options": options}


class StudyOptions(_Frozen):
    """Keys of the command line that one study has: a study subclasses this, with a description and a default each.

    >>> class Options(StudyOptions):
    ...     budget: Count = Field(40, description="configurations that each search may try")
    """

    @classmethod
    def of(cls, grid: Grid) -> Self:
        """The study's own keys in complete settings."""
        return cls.model_validate(grid.options)


def _part(settings: Settings, kind: type[Part]) -> Part:
    return kind.model_construct(**{name: getattr(settings, name) for name in kind.model_fields})


def shell_line(verb: str, words: Iterable[str]) -> str:
    """A command line as it may be shown and stored: secrets in it are hidden."""
    return shlex.join(["python", "-m", "calib_bench", verb, *map(redact, words)])


def _text(value: object) -> str:
    """A value as the command line has it."""
    if isinstance(value, (tuple, list)):
        return ",".join(map(_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return url_of(value) or str(value)
    return repr(value) if isinstance(value, float) else str(value)


def parse(words: Iterable[str]) -> UserSettings:
    """Command-line words -> settings as typed.

    A key that is not one of `KEYS` is kept as text in `options`: which keys the study has is known once plug-ins are
    loaded, see `planning.defaults.resolve`.

    Raises:
        SettingsError: a repeated key, a value of the wrong kind, a repeated or non-finite grid value, or two units of
            the learning rate at once.
    """
    values: dict[str, Any] = {}
    options: dict[str, str] = {}
    for word in words:
        key, text = split_word(word)
        if key in values or key in options:
            raise SettingsError(f"{key} is given twice: give one list, for example {key}=a,b")
        if key in KEYS:
            values[key] = read_value(UserSettings, key, text)
        else:
            options[key] = text
    units = [unit for unit in RATES if unit in values]
    if len(units) > 1:
        raise SettingsError(f"{' and '.join(units)} are units of one learning rate: give one of them")
    return UserSettings(**values, options=options)


def read_value(model: type[BaseModel], key: str, text: str) -> Any:
    """The value that the text of `key=text` stands for, as the field of the model wants it.

    Raises:
        SettingsError: it is not valid, or names a value of a list twice.
    """
    field = model.model_fields[key]
    raw: Any = expand(key, text) if "tuple" in str(field.annotation) else text
    if field.annotation is bool and text.lower() not in ("true", "false"):
        raise SettingsError(f"{key}={text} is neither true nor false")
    try:
        value = getattr(model.model_validate({key: raw}), key)
    except ValidationError as error:
        first = error.errors()[0]
        bad = first.get("input", text)
        raise SettingsError(f"{key}={bad} is not valid: {_reason(first)}; {key}: {describe(key, model)}") from None
    if isinstance(value, tuple):
        _check_unique(key, text, value)
    return value


def _check_unique(key: str, text: str, values: tuple[Any, ...]) -> None:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise SettingsError(f"{key}={text} names {_text(value)} twice: remove one")
        seen.add(value)


def _reason(error: Any) -> str:
    if error["type"] == "literal_error":
        choices = [c.strip("' ") for c in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        return nearest(str(error["input"]), choices)
    return str(error["msg"]).lower()


def describe(key: str, model: type[BaseModel] = UserSettings) -> str:
    """One line on a key, for help and errors."""
    if key == CONFIG:
        return "a TOML file of these keys, as every run leaves one (study.toml); what is typed beside it wins"
    return model.model_fields[key].description or ""
