"""One update of one model: eager, compiled, or recorded once and replayed as a CUDA graph.

Whatever differs between the trials of a grid (beta, rate, objective strengths, mixing) reaches the device as tensors,
so that one compiled function serves them all and a recording serves a whole run.
"""

from __future__ import annotations

import shutil
import types
import warnings
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.models import flops as cost
from calib_bench.train import distributed, initialize
from calib_bench.train.history import batch_sums, first_bad, tally_dtype
from calib_bench.train.loss import Loss
from calib_bench.train.optimizer import set_rate

Compile = Literal["auto", "yes", "no"]
Numbers = Mapping[str, "float | Tensor"]

WARM = 3
"""Updates made on a side stream before one is recorded: allocators, autotuners and optimizer states settle in them."""

COMPILE_SECONDS = {"cpu": 120.0, "cuda": 90.0}
"""What compiling a convolutional network takes, generously."""

SAVED = {"cpu": 0.2, "cuda": 0.25}
"""Share of an eager update that compiling saves at least."""

SPEED = {"cpu": 5e10, "cuda": 5e13}
"""Nominal operations a second of an eager update: constants, so that a trial's mode never depends on the clock."""

NATIVE = ("sgd", "adam", "adamw")
"""Optimizers that can keep their rate and their count of steps on the device."""

RECORD_STEPS = 200
"""A recording costs about a second, and saves a few milliseconds an update."""


@dataclass(frozen=True)
class Mode:
    """How updates are made."""

    compiled: bool = False
    recorded: bool = False

    def __str__(self) -> str:
        """What a trial's metadata say.

        >>> str(Mode()), str(Mode(compiled=True, recorded=True))
        ('single', 'single, compiled, CUDA graph')
        """
        return "single" + ", compiled" * self.compiled + ", CUDA graph" * self.recorded


def choose(
    trial: Trial, word: Compile, device: torch.device, spec: InputSpec, classes: int, steps: int, alone: bool = True
) -> Mode:
    """The mode of a trial: a function of what it is and of the machine's kind, never of measured times.

    Compiled when `steps` updates save more than compiling costs, which in bfloat16 on a CPU they never do: an epoch of
    a small convolutional net took a third longer compiled. Eager in any case with dropout (a compiled one draws
    other numbers), under distributed data parallel, and for words, whose batches differ in length; recorded only with
    an optimizer that can keep its rate (in float32, hence not for fp64) and its count of steps on the device.

    Args:
        trial: the trial.
        word: "auto", or "yes" or "no" to everything but plain eager updates.
        device: where it trains.
        spec: its inputs.
        classes: number of classes K.
        steps: updates of the whole run.
        alone: whether it is free of dropout and of other processes.

    Raises:
        SettingsError: "yes" without a C++ compiler on a CPU.
    """
    if word == "no" or not alone or spec.kind == "tokens" or device.type not in SPEED:
        return Mode()
    insists = word == "yes"
    compiles = insists or _repays_compiling(trial, device.type, spec, classes, steps)
    if compiles and _lacks_compiler(device.type, insists):
        compiles = False
    is_long = insists or steps >= RECORD_STEPS
    return Mode(compiles, is_long and _can_be_recorded(trial, device.type))


def _repays_compiling(trial: Trial, device: str, spec: InputSpec, classes: int, steps: int) -> bool:
    if device == "cpu" and trial.precision == "bf16":
        return False
    flops = trial.copies * cost.flops_per_example(trial.model, spec, classes)
    eager_seconds = cost.TRAINING * flops * trial.batch / SPEED[device]
    return steps * eager_seconds * SAVED[device] > COMPILE_SECONDS[device]


def _lacks_compiler(device: str, insists: bool) -> bool:
    """Whether compiling for a device needs a C++ compiler, and there is none.

    Raises:
        SettingsError: so it is, and the user insists on compiling.
    """
    lacks = device == "cpu" and shutil.which("g++") is None and shutil.which("clang++") is None
    if lacks and insists:
        raise SettingsError("compile=yes needs a C++ compiler (g++ or clang++) and there is none: give compile=no")
    return lacks


def _can_be_recorded(trial: Trial, device: str) -> bool:
    return device == "cuda" and trial.optimizer in NATIVE and trial.precision != "fp64"


def forward(model: nn.Module, loss: Loss, x: Any, y: Tensor, numbers: Mapping[str, Tensor], bf16: bool) -> Any:
    """Per-example losses [B] and raw logits [B, K] of a batch, a pure function of tensors.

    Args:
        model: the model.
        loss: the objective.
        x: inputs, as `setup.prepare` makes them.
        y: labels [B], int64.
        numbers: "beta", and where inputs are mixed "share" and "partner" [B], see `TrialSchedule.mixture`.
        bf16: whether the body works in bfloat16.
    """
    partner_B = numbers.get("partner")
    if partner_B is not None:
        share = numbers["share"].to(x.dtype)
        x = share * x + (1 - share) * x[partner_B]
    with torch.autocast(y.device.type, torch.bfloat16, enabled=bf16):
        z_BK = model(x)
    loss_B = loss(z_BK, y, numbers["beta"])
    if partner_B is not None:
        loss_B = numbers["share"] * loss_B + (1 - numbers["share"]) * loss(z_BK, y[partner_B], numbers["beta"])
    return loss_B, z_BK


@lru_cache(maxsize=32)
def compiled(key: Hashable, backend: str) -> Callable[..., Any]:
    """`forward`, compiled; one function for all trials of a key, which share architecture, shapes and terms.

    Each key gets a code object of its own, since the compiler bounds how many variants it keeps of one.
    """
    code = forward.__code__.replace(co_name="forward")
    function = types.FunctionType(code, forward.__globals__, "forward", forward.__defaults__, forward.__closure__)
    return torch.compile(function, dynamic=False, backend=backend)


class Recording:
    """A function of tensors, without result, that is run `WARM` times, then recorded and from then on replayed.

    Its inputs are copied to fixed places. Where there are no CUDA graphs it is run every time, on the same places.
    """

    def __init__(self, body: Callable[[dict[str, Tensor]], None], device: torch.device) -> None:
        self.body, self.device, self.calls = body, device, 0
        self.inputs: dict[str, Tensor] = {}
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.graph: Any = None

    def __call__(self, inputs: Numbers) -> None:
        """Run on these inputs; the same names, shapes and types every time, numbers as numbers.

        Raises:
            ValueError: they have changed.
        """
        if self.calls and inputs.keys() != self.inputs.keys():
            raise ValueError(f"recorded with {sorted(self.inputs)}, called with {sorted(inputs)}")
        for name, value in inputs.items():
            self._put(name, value)
        self.calls += 1
        if self.stream is None:
            self.body(self.inputs)
        elif self.graph is not None:
            self.graph.replay()
        elif self.calls <= WARM:
            self._aside()
        else:
            self._record()

    def _put(self, name: str, value: float | Tensor) -> None:
        if name not in self.inputs:
            if isinstance(value, Tensor):
                self.inputs[name] = value.to(self.device, copy=True)
            else:
                dtype = torch.int64 if isinstance(value, int) else torch.float64
                self.inputs[name] = torch.tensor(value, dtype=dtype, device=self.device)
        elif not isinstance(value, Tensor):
            self.inputs[name].fill_(value)
        elif value.shape != self.inputs[name].shape:
            raise ValueError(f"{name} was recorded as {tuple(self.inputs[name].shape)}, and is {tuple(value.shape)}")
        else:
            self.inputs[name].copy_(value, non_blocking=True)

    def _aside(self) -> None:
        assert self.stream is not None
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable=True.*")  # said of every update that is no replay
            self.body(self.inputs)
        current.wait_stream(self.stream)

    def _record(self) -> None:
        """Recording runs nothing: the replay does. Loaders may go on pinning memory in threads of their own."""
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.body(self.inputs)
        self.graph.replay()


class Updater:
    """Makes the updates of one run, and keeps what is known of them on the device: nothing here waits for it.

    Attributes:
        mode: how.
        bad: int64 scalar: the step of the first loss that was not finite, or -1.
        tally: [3] sums since it was zeroed: of losses, of correct predictions, of examples.

    Both are of all processes, at every step: the main one's checkpoint is what all go on from.
    """

    def __init__(
        self,
        trial: Trial,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        device: torch.device,
        mode: Mode | None = None,
        backend: str = "inductor",
        parts: int = 1,
    ) -> None:
        """
        Args:
            trial: the trial.
            model: what is trained, on the device, within whatever wraps it.
            optimizer: its optimizer, in the state from which to go on.
            loss: the objective, with strengths on the device.
            device: the device.
            mode: how updates are made; eager without.
            backend: of torch.compile.
            parts: in how many equal parts each batch is taken, part i rows i, i + parts, ...; gradients add up.
        """
        self.trial, self.model, self.optimizer, self.loss, self.device = trial, model, optimizer, loss, device
        self.mode, self.parts = mode or Mode(), parts
        self.bad = torch.full((), -1, dtype=torch.int64, device=device)
        self.tally = torch.zeros(3, dtype=tally_dtype(device), device=device)
        self.dtype = torch.float64 if trial.precision == "fp64" else torch.float32
        self.forward: Callable[..., Any] = forward
        if self.mode.compiled:
            self.forward = compiled(
                (trial.model, trial.copies, trial.batch, trial.precision, tuple(sorted(trial.terms))), backend
            )
        self.recording = Recording(self._recorded, device) if self.mode.recorded else None
        if trial.optimizer in NATIVE:
            settle(optimizer, device, self.mode.recorded)
        self._held: dict[str, tuple[float, Tensor]] = {}

    def __call__(self, x: Any, y: Tensor, step: int, scale: float, numbers: Numbers) -> None:
        """One update.

        Args:
            x: inputs as the split gives them.
            y: labels [B], int64, on the device.
            step: which update of the run this is, from 0.
            scale: the schedule's factor on every rate.
            numbers: as in `forward`; floats, or tensors on any device.
        """
        x = initialize.prepare(x, self.trial.precision)
        set_rate(self.optimizer, scale)
        placed = {name: self._number(name, value) for name, value in numbers.items()}
        if self.recording is not None:
            self.recording({"x": x, "y": y, "step": step, **placed})
        else:
            self._update(x, y, step, placed)

    def _in_parts(self, x: Any, y: Tensor, numbers: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the whole batch's mean loss, part by part; processes meet once, at the last part."""
        losses, logits, labels = [], [], []
        for part in range(self.parts):
            waits = part < self.parts - 1 and isinstance(self.model, nn.parallel.DistributedDataParallel)
            with self.model.no_sync() if waits else nullcontext():  # type: ignore[operator]
                examples = rows(x, part, self.parts), y[part :: self.parts]
                loss_B, z_BK = self.forward(self.model, self.loss, *examples, numbers, self.trial.precision == "bf16")
                (loss_B.sum() / len(y)).backward()
            losses.append(loss_B.detach())
            logits.append(z_BK.detach())
            labels.append(examples[1])
        return torch.cat(losses), torch.cat(logits), torch.cat(labels)

    def _number(self, name: str, value: float | Tensor) -> Tensor:
        """A number on the device; one that stays as it was is not sent again."""
        if isinstance(value, Tensor):
            return value.to(self.device, non_blocking=True)
        if name not in self._held:
            self._held[name] = value, torch.tensor(value, dtype=self.dtype, device=self.device)
        elif self._held[name][0] != value:
            self._held[name] = value, torch.full_like(self._held[name][1], value)
        return self._held[name][1]

    def _recorded(self, inputs: dict[str, Tensor]) -> None:
        numbers = {name: value for name, value in inputs.items() if name not in ("x", "y", "step")}
        self._update(inputs["x"], inputs["y"], inputs["step"], numbers)

    def _update(self, x: Any, y: Tensor, step: int | Tensor, numbers: Mapping[str, Tensor]) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        if self.parts == 1:
            loss_B, z_BK = self.forward(self.model, self.loss, x, y, numbers, self.trial.precision == "bf16")
            loss = loss_B.mean()
            loss.backward()
        else:
            loss_B, z_BK, y = self._in_parts(x, y, numbers)
            loss = loss_B.mean()
        if self.trial.clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trial.clip)
        self.optimizer.step()
        with torch.no_grad():
            sums = distributed.total(batch_sums(loss_B, z_BK, y, self.tally.dtype))
            self.bad.copy_(first_bad(self.bad, loss if distributed.world() == 1 else sums[0], step))
            self.tally += sums


def rows(x: Any, start: int, parts: int) -> Any:
    """Rows start, start + parts, ... of a batch: of a tensor, or of each in a tuple."""
    return x[start::parts] if isinstance(x, Tensor) else type(x)(rows(one, start, parts) for one in x)


def settle(optimizer: torch.optim.Optimizer, device: torch.device, recorded: bool) -> None:
    """Let the rates and counts of an optimizer live where its mode wants them, whichever mode its state is from.

    Recorded SGD, Adam and AdamW keep both on the device and use fused kernels.
    """
    for group in optimizer.param_groups:
        _settle_rate(group, device, recorded)
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(device if recorded else "cpu")


def _settle_rate(group: dict[str, Any], device: torch.device, recorded: bool) -> None:
    """Put the rate of a group of parameters on the device, or take it from there."""
    rate = float(group["lr"])
    if recorded:
        group["lr"] = torch.tensor(rate, dtype=torch.float32, device=device)
        group["fused"], group["foreach"] = True, False
    elif isinstance(group["lr"], Tensor):
        group["lr"], group["fused"], group["foreach"] = rate, None, None
    if "capturable" in group and (recorded or group["capturable"]):
        group["capturable"] = recorded and device.type == "cuda"
