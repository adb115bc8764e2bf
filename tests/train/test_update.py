"""Compiled and recorded updates against the plain loop."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from calib_bench import registry
from calib_bench.core.splits import InputSpec, Request, Splits
from calib_bench.core.trial import Trial
from calib_bench.train import initialize
from calib_bench.train import update as stepping
from calib_bench.train.loss import Loss
from calib_bench.train.optimizer import make_optimizer
from calib_bench.train.single_loop import train_single
from calib_bench.train.update import Mode, Recording, Updater, choose, settle

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OBJECTIVES = registry.objectives()
CIFAR = InputSpec("image", (3, 32, 32))
TRACED = "aot_eager"
"""The compiler's front end and its joint graph, without the minutes its back end takes."""


@cache
def digits() -> Splits:
    return registry.task("digits").load(Request(task="digits", model="cnn_4", limit=240))


def trial(**changes: Any) -> Trial:
    base: dict[str, Any] = {
        "task": "digits", "model": "cnn_4", "beta": 2.0, "objective": "label_smoothing:0.1", "optimizer": "sgd",
        "lr": 0.125, "lr_unit": "lr", "momentum": 0.9, "weight_decay": 1e-3, "schedule": "constant", "warmup": 0.0,
        "epochs": 3, "batch": 60, "seed": 0, "limit": 240, "precision": "fp64",
    }  # fmt: skip
    return Trial(**{**base, **changes})


def updated(
    one: Trial, mode: Mode, count: int, scale: float = 1.0, numbers: dict[str, Any] | None = None
) -> tuple[dict[str, Tensor], Updater]:
    """Parameters and buffers after `count` updates."""
    model = initialize.initial_model(one, digits(), CPU, OBJECTIVES)
    dtype = torch.float64 if one.precision == "fp64" else torch.float32
    loss = Loss({name: torch.tensor(strength, dtype=dtype) for name, strength in one.terms.items()}, OBJECTIVES)
    updater = Updater(one, model, make_optimizer(one, model, one.lr), loss, CPU, mode, backend=TRACED)
    batches = list(digits().train.train_batches(seed=0, epoch=0, batch=one.batch, device=CPU))
    for step in range(count):
        x, y = batches[step % len(batches)]
        updater(x, y, step, scale, numbers or {"beta": one.beta})
    return {name: value.detach().clone() for name, value in model.state_dict().items()}, updater


@pytest.mark.parametrize(
    ("mode", "model"),
    [
        (Mode(recorded=True), "wrn_10_1"),
        (Mode(recorded=True), "wrn_10_1_nonorm"),
        (Mode(compiled=True), "cnn_4"),
        (Mode(True, True), "wrn_10_1"),
    ],
    ids=str,
)
def test_modes_agree_in_float64(mode: Mode, model: str) -> None:
    one = trial(model=model)
    plain, reference = updated(one, Mode(), 6)
    got, updater = updated(one, mode, 6)
    for name, value in plain.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(updater.tally, reference.tally)
    assert int(updater.bad) == -1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_recorded_optimizers_agree(optimizer: str, momentum: float) -> None:
    one = trial(optimizer=optimizer, momentum=momentum, lr=2.0**-7, clip=0.25, head_lr=4.0)
    plain, got = (updated(one, mode, 6, scale=0.5)[0] for mode in (Mode(), Mode(recorded=True)))
    for name, value in plain.items():
        torch.testing.assert_close(got[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", [Mode(compiled=True), Mode(recorded=True)], ids=str)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_first_update_is_that_of_the_plain_loop(mode: Mode, precision: str) -> None:
    one = trial(precision=precision, model="wrn_10_1")
    plain, got = updated(one, Mode(), 1)[0], updated(one, mode, 1)[0]
    start = initialize.initial_model(one, digits(), CPU, OBJECTIVES).state_dict()
    moved = sum((plain[name] - start[name]).double().square().sum() for name in plain).sqrt()
    apart = sum((plain[name] - got[name]).double().square().sum() for name in plain).sqrt()
    assert moved > 0
    assert apart < (1e-5 if precision == "fp32" else 2e-2) * moved


def test_an_update_is_written_out() -> None:
    """One step of SGD by hand, on mixed inputs."""
    one = trial(objective="cross_entropy", momentum=0.0, weight_decay=0.0)
    x, y = next(iter(digits().train.train_batches(seed=0, epoch=0, batch=60, device=CPU)))
    partner, share = torch.arange(60).flip(0), 0.3
    model = initialize.initial_model(one, digits(), CPU, OBJECTIVES)
    z = model(initialize.prepare(share * x.double() + (1 - share) * x.double()[partner], "fp64"))
    (share * F.cross_entropy(2 * z, y) + (1 - share) * F.cross_entropy(2 * z, y[partner])).backward()
    for mode in (Mode(), Mode(compiled=True), Mode(recorded=True)):
        got, _ = updated(one, mode, 1, 0.5, {"beta": 2.0, "share": share, "partner": partner})
        for name, p in model.named_parameters():
            torch.testing.assert_close(got[name], p.detach() - 0.0625 * p.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", [Mode(), Mode(recorded=True)], ids=str)
def test_the_first_bad_step_is_kept(mode: Mode) -> None:
    _, updater = updated(trial(precision="fp32", lr=1e30, momentum=0.0), mode, 8)
    _, plain = updated(trial(precision="fp32", lr=1e30, momentum=0.0), Mode(), 8)
    assert 0 < int(updater.bad) == int(plain.bad) < 8


def test_one_compiled_function_serves_a_grid() -> None:
    """Another beta, rate, strength, seed or share of mixing compiles nothing."""
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("eager")
    for at, beta in enumerate((0.1, 1.0, 10.0)):
        one = trial(precision="bf16", model="wrn_10_1", beta=beta, seed=at, lr=0.1 * beta)
        model = initialize.initial_model(one, digits(), CPU, OBJECTIVES)
        loss = Loss({"label_smoothing": torch.tensor(0.1 * at)}, OBJECTIVES)
        updater = Updater(one, model, make_optimizer(one, model, one.lr), loss, CPU, Mode(compiled=True), counter)  # type: ignore[arg-type]
        for step, (x, y) in enumerate(digits().train.train_batches(seed=at, epoch=0, batch=60, device=CPU)):
            updater(x, y, step, 1 / (step + 1), {"beta": beta})
    assert counter.frame_count == 1


def test_a_recording_copies_what_it_is_given() -> None:
    seen: list[tuple[float, int]] = []
    recording = Recording(lambda inputs: seen.append((float(inputs["x"].sum()), int(inputs["step"]))), CPU)
    x = torch.ones(2, 3)
    for step in range(3):
        recording({"x": x * step, "step": step})
    assert seen == [(0.0, 0), (6.0, 1), (12.0, 2)]
    with pytest.raises(ValueError, match="recorded as"):
        recording({"x": torch.ones(1, 3), "step": 3})
    with pytest.raises(ValueError, match="called with"):
        recording({"x": x})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_state_passes_between_modes(optimizer: str) -> None:
    """A run begun in one mode and gone on with in another ends where it would have."""
    one = trial(optimizer=optimizer, lr=2.0**-7)
    whole, _ = updated(one, Mode(), 4)
    batches = list(digits().train.train_batches(seed=0, epoch=0, batch=60, device=CPU))
    for first, then in ((False, True), (True, False)):
        model = initialize.initial_model(one, digits(), CPU, OBJECTIVES)
        loss = Loss(
            {name: torch.tensor(strength, dtype=torch.float64) for name, strength in one.terms.items()}, OBJECTIVES
        )
        made = make_optimizer(one, model, one.lr)
        begun = Updater(one, model, made, loss, CPU, Mode(recorded=first))
        for step in (0, 1):
            begun(*batches[step], step, 1.0, {"beta": one.beta})
        resumed = make_optimizer(one, model, one.lr)
        resumed.load_state_dict(copy.deepcopy(made.state_dict()))
        going = Updater(one, model, resumed, loss, CPU, Mode(recorded=then))
        for step in (2, 3):
            going(*batches[step], step, 1.0, {"beta": one.beta})
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12)


def test_other_optimizers_are_left_alone() -> None:
    one = trial(optimizer="timm/lamb", precision="fp32", lr=0.01)
    assert not choose(one, "yes", CUDA, CIFAR, 10, 10_000).recorded
    model = initialize.initial_model(one, digits(), CPU, OBJECTIVES)
    optimizer = make_optimizer(one, model, 0.01)
    Updater(one, model, optimizer, Loss({}), CPU)
    assert isinstance(optimizer.param_groups[0]["lr"], float)
    plain = torch.optim.SGD(model.parameters(), lr=0.01)
    settle(plain, CPU, recorded=False)
    assert plain.param_groups[0]["lr"] == 0.01


def test_long_runs_are_compiled_and_short_ones_are_not() -> None:
    one = trial(task="cifar10", model="wrn_16_4", batch=128, precision="bf16")

    def at(device: torch.device, steps: int, word: Any = "auto", **changes: Any) -> Mode:
        return choose(one.model_copy(update=changes), word, device, CIFAR, 10, steps)

    assert at(CPU, 351 * 30, precision="fp32").compiled
    assert not at(CPU, 50, precision="fp32").compiled
    assert at(CPU, 351 * 30) == Mode(), "in bfloat16 it takes longer compiled"
    assert at(CPU, 50, "yes").compiled
    assert at(CPU, 351 * 30, "no") == Mode()
    assert at(CUDA, 351 * 200) == Mode(True, True)
    assert at(CUDA, 400) == Mode(False, True)
    assert at(CUDA, 20) == Mode()
    assert at(CUDA, 351 * 200, precision="fp64") == Mode(True, False)
    assert choose(one, "yes", CPU, CIFAR, 10, 10**6, alone=False) == Mode()
    assert choose(one, "yes", CPU, InputSpec("tokens", vocabulary=9), 2, 10**6) == Mode()


def test_without_a_compiler_auto_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    one = trial(task="cifar10", model="wrn_16_4", batch=128, precision="fp32")
    assert choose(one, "auto", CPU, CIFAR, 10, 10**6) == Mode()
    with pytest.raises(stepping.SettingsError, match="compile=no"):
        choose(one, "yes", CPU, CIFAR, 10, 10**6)


@pytest.mark.soak
def test_a_compiled_run_ends_as_accurate() -> None:
    one = trial(precision="fp32", epochs=6, model="cnn_8")
    plain, got = (
        train_single(one, digits(), device=CPU, objectives=OBJECTIVES, compile=word) for word in ("no", "yes")
    )
    assert (plain.metadata["mode"], got.metadata["mode"]) == ("single", "single, compiled")
    y = digits().test.labels
    accuracy = [(run.logits["test"].argmax(1) == y).double().mean() for run in (plain, got)]
    assert accuracy[0] > 0.5
    assert abs(accuracy[0] - accuracy[1]) < 0.03
    assert abs(plain.history["train_loss"][1] - got.history["train_loss"][1]) < 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_cuda_graph_ends_where_the_plain_loop_does(optimizer: str) -> None:
    one = trial(precision="fp32", optimizer=optimizer, lr=2.0**-7, epochs=3)
    plain, got = (
        train_single(one, digits(), device=CUDA, objectives=OBJECTIVES, compile=word) for word in ("no", "yes")
    )
    assert "CUDA graph" in got.metadata["mode"]
    torch.testing.assert_close(got.logits["test"], plain.logits["test"], rtol=1e-2, atol=1e-2)


def test_random_numbers_drawn_for_many_steps_are_those_of_each() -> None:
    from calib_bench.data import crop, flip
    from calib_bench.data.tensors import tensor_splits

    x = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = tensor_splits({"train": x}, {"train": torch.arange(40)}, {"train": torch.arange(40)}, (crop(2), flip()))
    split = made["train"]
    together = split._drawn(range(1, 4), 10, 5, 2, CPU, 1, 2)
    for at, step in enumerate(range(1, 4)):
        for augment, alone in enumerate(split._drawn(range(step, step + 1), 10, 5, 2, CPU, 0, 1)):
            assert torch.equal(together[augment][at], alone[0][1::2])
