"""Settings: what the command line asked for, typed and checked, and the grid that it spans."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from calib_bench.core.syntax import expand, split_word
from calib_bench.core.trial import Correlation, EpsScale, NonNegative, Positive, Precision, RateUnit, Sampling
from calib_bench.errors import SettingsError, nearest
from calib_bench.system.object_store import url_of
from calib_bench.system.redaction import redact

Count = Annotated[int, Field(ge=1, le=2**53)]
Natural = Annotated[int, Field(ge=0, le=2**53)]
RATES: tuple[RateUnit, ...] = get_args(RateUnit)


class Settings(BaseModel):
    """One command line. A tuple is a grid key; None stands for the task's default until `resolve` puts it in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field("digits", description="the task, a file in tasks/")
    study: str = Field("separation", description="the question asked, a file in calib_bench/studies/")

    model: tuple[str, ...] | None = Field(None, description="architectures; timm/NAME works for images")
    beta: tuple[Positive, ...] | None = Field(None, description="softmax inverse temperatures in training")
    objective: tuple[str, ...] | None = Field(
        None, description="training losses: cross_entropy, name, name:strength, or terms joined by +"
    )
    lr: tuple[Positive, ...] | None = Field(None, description="learning rates; several are tuned per arm")
    lr_eff: tuple[Positive, ...] | None = Field(None, description="rates as beta^2 * lr")
    lr_rel: tuple[Positive, ...] | None = Field(
        None,
        description="rates as lr * lambda_max / 2 at initialization (sgd): 1 is the critical rate of plain gradient "
        "descent, 1 + momentum that of the heavy ball",
    )
    optimizer: tuple[str, ...] | None = Field(None, description="sgd, adam, adamw or timm/NAME")
    momentum: tuple[Annotated[float, Field(ge=0, lt=1)], ...] | None = Field(None, description="momentum of sgd")
    eps: tuple[Positive, ...] | None = Field(
        None, description="eps of adam and adamw, added to the root of the second moment; default 1e-8"
    )
    eps_scale: EpsScale = Field(
        "none",
        description="beta: eps of adam and adamw times beta^(1/L), as gradients go with beta in a net that is "
        "homogeneous of degree L in its weights; L is measured at initialization",
    )
    weight_decay: tuple[NonNegative, ...] | None = Field(None, description="weight decay")
    schedule: tuple[str, ...] | None = Field(
        None, description="constant, cosine, step, linear, parts_1_0.1_1 (factors over equal parts) or timm/NAME"
    )
    warmup: tuple[NonNegative, ...] | None = Field(None, description="epochs of linear warm-up")
    epochs: tuple[Natural, ...] | None = Field(None, description="passes over the training split")
    batch: tuple[Count, ...] | None = Field(None, description="global batch size")
    clip: tuple[NonNegative, ...] | None = Field(None, description="global gradient-norm bound; 0 is off")
    head_lr: tuple[Positive, ...] = Field((1.0,), description="factor on the linear head's rate")
    head_decay: tuple[NonNegative, ...] = Field((1.0,), description="factor on the linear head's weight decay")
    head_init: tuple[Positive, ...] = Field((1.0,), description="factor on the linear head's initial weights")
    correlation: tuple[Correlation, ...] | None = Field(
        None,
        description="-1 to 1: two copies of the body under heads so correlated; initial logits grow as sqrt(1 + c)",
    )
    label_noise: tuple[Annotated[float, Field(ge=0, le=1)], ...] | None = Field(
        None, description="share of the training labels replaced by another class"
    )
    sampling: tuple[Sampling, ...] | None = Field(
        None, description="shuffled: each example once an epoch; independent: batches drawn with replacement"
    )
    norm_batch: tuple[Annotated[int, Field(ge=2)], ...] | None = Field(
        None, description="examples of a batch whose moments batch norm takes together; default all, over all processes"
    )
    seed: tuple[Natural, ...] | None = Field(None, description="seeds, for example 0..4")

    calibrator: tuple[str, ...] | None = Field(None, description="post-hoc calibrators; default all")
    reference: Positive = Field(1.0, description="beta of the arm that others are compared with")
    select: Literal["log_loss", "repaired_log_loss", "error"] = Field(
        "log_loss", description="what chooses a rate on the selection split"
    )
    extend: Natural = Field(4, description="how many rates a grid may grow by at each end when the best is at its edge")
    tune_seeds: Count | None = Field(
        None, description="how many seeds choose the rate; the others run at the chosen one"
    )
    interventions: Literal["auto", "yes", "no"] = Field(
        "auto",
        description="study=separation: arms that move one part of beta at a time; auto: as the task says",
    )
    switch_at: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="study=separation: share of the updates before an intervention switches beta"
    )
    switch_times: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.01, 0.03, 0.1, 0.3, 0.6), description="study=beta_switch: shares of the updates before beta switches"
    )
    budget: Count = Field(40, description="study=tune: configurations that each search may try")
    split: Literal["shared", "seed"] = Field("shared", description="one split for all seeds, or one a seed")
    limit: Count | None = Field(None, description="smoke mode: at most so many examples of each split")
    pretrained: bool = Field(False, description="start from timm's weights; epochs=0 only calibrates them")

    data: Path | None = Field(None, description="folder of the data; else $CALIB_BENCH_DATA/<task>, else the Hub")
    out: Path = Field(
        Path("runs"), description="where run folders go: a folder, or an object store as s3://bucket/folder"
    )
    precision: Precision = Field("fp32", description="fp32, bf16 or fp64")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    executor: Literal["local", "ray"] = Field("local", description="where trials run: this machine, or a Ray cluster")
    ray_address: str = Field(
        "auto",
        description="executor=ray: HOST[:PORT] of a cluster; local starts one; auto joins one here, or starts",
    )
    ray_gpus: NonNegative | None = Field(
        None, description="executor=ray: share of a GPU a task takes; default 1 where the cluster has any"
    )
    ray_memory: NonNegative = Field(0.0, description="executor=ray: GiB of memory a task asks for; 0 asks for none")
    retries: Natural = Field(3, description="executor=ray: how often a task that lost its worker starts again")
    gang: Count = Field(
        1,
        description="executor=ray: processes, one a GPU, that train together each trial that is not stacked",
    )
    micro_batch: Count | None = Field(
        None, description="most examples that a process takes at once: gradients add up to those of the whole batch"
    )
    workers: Count | None = Field(None, description="worker processes; default one a core, or one on a GPU")
    threads: Count = Field(1, description="threads a worker; part of what makes results repeat to the bit")
    compile: Literal["auto", "yes", "no"] = Field(
        "auto", description="compile models that train alone and record CUDA graphs: auto when the run is long enough"
    )
    stack: Count = Field(128, description="most small models trained as one; 1 trains each alone")
    checkpoint: NonNegative = Field(60.0, description="seconds between checkpoints; 0 writes one every step")
    lease: Positive = Field(
        120.0, description="several drivers on one store: seconds without a sign of life until one takes over another's"
    )
    stall: NonNegative = Field(
        0.0,
        description="seconds without progress after which a trial is stopped and counted as failed; 0 waits for ever. "
        "Trials then run in processes of their own",
    )
    wandb: Literal["offline", "online", "disabled"] = Field("offline", description="Weights & Biases")
    wandb_runs: Literal["selected", "all"] = Field(
        "selected", description="which trials are runs of their own: those at chosen rates, or all; all are in tables"
    )
    wandb_wait: Positive = Field(60.0, description="seconds that a Weights & Biases server may stay silent")
    log_format: Literal["text", "json"] = Field(
        "text",
        description="--log-format json writes progress as JSON lines to standard output, all else to standard error",
    )
    plugins: tuple[Path, ...] = Field((), description="folders with your own tasks, baselines, studies")
    yes: bool = Field(False, description="do not ask before a long run")

    spaces: dict[str, dict[str, tuple[Any, ...]]] | None = Field(None, description="")
    """Resolved settings only: the grid of each model, all keys but seed."""

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return f"{self.task.replace('/', '-')}-{self.study}"

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.out / self.name

    def words(self) -> list[str]:
        """The command line that gives these settings: only what differs from the default."""
        words = []
        for key in KEYS:
            value = getattr(self, key)
            if value is not None and value != Settings.model_fields[key].default:
                words.append(f"{key}={','.join(map(_text, value)) if isinstance(value, tuple) else _text(value)}")
        return words

    def command(self, verb: str = "run") -> str:
        """The same as one shell line, to be shown and stored: secrets in it are hidden."""
        return shell_line(verb, self.words())


KEYS = tuple(name for name in Settings.model_fields if name != "spaces")


def shell_line(verb: str, words: Iterable[str]) -> str:
    """A command as it may be shown and stored: secrets in it are hidden."""
    return shlex.join(["python", "-m", "calib_bench", verb, *map(redact, words)])


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return url_of(value) or str(value)
    return repr(value) if isinstance(value, float) else str(value)


def _is_grid(key: str) -> bool:
    return "tuple" in str(Settings.model_fields[key].annotation)


def parse(words: Iterable[str]) -> Settings:
    """Command-line words -> Settings.

    Raises:
        SettingsError: an unknown or repeated key, a value of the wrong kind, a repeated or non-finite grid value, or
            two units of the learning rate at once.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, text = split_word(word)
        if key not in KEYS:
            raise SettingsError(f"unknown key {key!r} in {word!r}: {nearest(key, KEYS)}")
        if key in values:
            raise SettingsError(f"{key} is given twice: give one list, for example {key}=a,b")
        values[key] = _value(key, text)
    units = [unit for unit in RATES if unit in values]
    if len(units) > 1:
        raise SettingsError(f"{' and '.join(units)} are units of one rate: give one of them")
    return Settings(**values)


def _value(key: str, text: str) -> Any:
    raw: Any = text
    if _is_grid(key):
        raw = expand(key, text)
    elif key in ("yes", "pretrained") and text.lower() not in ("true", "false"):
        raise SettingsError(f"{key}={text} is neither true nor false")
    try:
        value = getattr(Settings.model_validate({key: raw}), key)
    except ValidationError as error:
        first = error.errors()[0]
        bad = first.get("input", text)
        raise SettingsError(f"{key}={bad} is not valid: {_reason(first)}; {key} is {describe(key)}") from None
    if isinstance(value, tuple):
        seen: set[Any] = set()
        for item in value:
            if item in seen:
                raise SettingsError(f"{key}={text} names {_text(item)} twice: remove one")
            seen.add(item)
    return value


def _reason(error: Any) -> str:
    if error["type"] == "literal_error":
        choices = [c.strip("' ") for c in error["ctx"]["expected"].replace(" or ", ",").split(",")]
        return nearest(str(error["input"]), choices)
    return str(error["msg"]).lower()


def describe(key: str) -> str:
    """One line on a key, for help and errors."""
    return Settings.model_fields[key].description or ""
