"""Image models on a CPU: a worker with one thread a core, channels-last, bfloat16 where matrix units make it pay."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from calib_bench import models, registry
from calib_bench.core.splits import InputSpec, Request, Splits
from calib_bench.core.trial import Trial
from calib_bench.models import flops as cost
from calib_bench.system.device import has_bfloat16
from tests.benchmarks.harness import OURS, Bench, Case

WORKERS = 2
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def trial(model: str, seed: int) -> Trial:
    digits = model.startswith("cnn")
    return Trial(
        task="digits" if digits else "cifar10", model=model, beta=1.0, objective="cross_entropy", optimizer="sgd",
        lr=0.02, lr_unit="lr", momentum=0.9, weight_decay=5e-4, schedule="cosine", warmup=0.0, epochs=30,
        batch=64 if digits else 128, seed=seed, precision="bf16" if has_bfloat16() and not digits else "fp32",
    )  # fmt: skip


def splits(one: Trial) -> Splits:
    """The task's data; noise of the shape of CIFAR-10 where that is not here."""
    if one.task == "digits" or real():
        return registry.task(one.task).load(Request(one.task, model=one.model))
    from calib_bench.data import crop, flip
    from calib_bench.data.tensors import tensor_splits

    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (4096, 3, 32, 32), dtype=torch.uint8, generator=generator)
    rows = dict(zip(("train", "selection", "calibration", "test"), torch.arange(4096).split(1024), strict=True))
    parts = tensor_splits({"train": x}, {"train": torch.arange(4096) % 10}, rows, (crop(4), flip()), (MEAN, STD))
    spec, names = InputSpec("image", (3, 32, 32)), tuple(map(str, range(10)))
    return Splits(**parts, spec=spec, classes=10, class_names=names, source="noise", digest="", notes={})


def real() -> bool:
    return bool(os.environ.get("CALIB_BENCH_DATA"))


def start_worker(model: str, barrier: Any) -> None:
    """A trial that is on its way, as `train` has it."""
    global _go, _barrier
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    _go, _barrier = on_its_way(trial(model, os.getpid() % 1000)), barrier


def on_its_way(one: Trial) -> Callable[[int], float]:
    """(updates to make) -> mean loss over them, by this project's own loop."""
    from calib_bench.train import initialize
    from calib_bench.train.loss import Loss
    from calib_bench.train.optimizer import factor, make_optimizer
    from calib_bench.train.update import Updater

    data, cpu = splits(one), torch.device("cpu")
    model = initialize.initial_model(one, data, cpu).train()
    updater = Updater(one, model, make_optimizer(one, model, one.lr), Loss({}), cpu)
    per_epoch = data.train.steps(one.batch)
    batches = endless(lambda epoch: data.train.train_batches(seed=one.seed, epoch=epoch, batch=one.batch, device=cpu))
    steps = iter(range(10**9))

    def go(count: int) -> float:
        updater.tally.zero_()
        for _ in range(count):
            (x, y), step = next(batches), next(steps)
            updater(x, y, step, factor("cosine", step, per_epoch * 30, per_epoch, 0.0), {"beta": one.beta})
        return float(updater.tally[0] / updater.tally[2])

    return go


def endless(epoch_of: Callable[[int], Any]) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from epoch_of(epoch)
        epoch += 1


def in_worker(count: int) -> float:
    _barrier.wait()  # each worker takes one task
    return _go(count)


class Pictures(Dataset):
    """Decoded pictures with a transform of each, as torchvision's own data sets are."""

    def __init__(self, pixels: np.ndarray, labels: Tensor, transform: Callable[[Any], Tensor]) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[row])), int(self.labels[row])


def usual_data(data: Splits) -> Dataset:
    from torchvision import transforms

    x, y = data.train.x, data.train.labels  # type: ignore[attr-defined]
    if x.dtype != torch.uint8:
        return TensorDataset(x, y)
    steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    return Pictures(x.permute(0, 2, 3, 1).contiguous().numpy(), y, transforms.Compose(steps))


def usual_loop(one: Trial, data: Splits) -> Callable[[int], float]:
    """The loop as it is usually written: fp32, NCHW, a DataLoader, a scheduler, the loss looked at."""
    torch.manual_seed(one.seed)
    model = models.build(one.model, data.spec, data.classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=one.lr, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30 * data.train.steps(one.batch))
    loader = DataLoader(usual_data(data), one.batch, shuffle=True, drop_last=True)
    batches = endless(lambda epoch: loader)

    def go(count: int) -> float:
        model.train()
        total = 0.0
        for _ in range(count):
            x, y = next(batches)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            total += loss.item()
        return total / count

    return go


def timm_loop(one: Trial, data: Splits) -> Callable[[int], float]:
    """The same with the settings of timm's script: channels-last, bf16 autocast, its optimizer, schedule and loss."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    torch.manual_seed(one.seed)
    model = models.build(one.model, data.spec, data.classes).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=one.lr, weight_decay=5e-4, momentum=0.9)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", 30, step_on_epochs=False, updates_per_epoch=data.train.steps(one.batch)
    )
    loss_fn = LabelSmoothingCrossEntropy(0.0)
    loader = DataLoader(
        usual_data(data), one.batch, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
    )
    batches, steps = endless(lambda epoch: loader), iter(range(10**9))

    def go(count: int) -> float:
        model.train()
        total = 0.0
        for _ in range(count):
            x, y = next(batches)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_fn(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(next(steps))
            total += loss.item()
        return total / count

    return go


def make(model: str, count: int, flops: float | None = None, timm: bool = True) -> Bench:
    """Two models of `count` updates each, on both sides, in the middle of training.

    Args:
        model: its name.
        count: updates a model and round.
        flops: of one image forward and backward; counted without.
        timm: whether to time timm's settings too.
    """
    one = trial(model, 0)
    data = splits(one)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(WORKERS, context, initializer=start_worker, initargs=(model, context.Barrier(WORKERS)))
    plain = usual_loop(one, data)

    def ours() -> list[float]:
        return list(pool.map(in_worker, [count] * WORKERS))

    def peer(loop: Callable[[int], float], threads: int) -> list[float]:
        torch.set_num_threads(threads)
        return [loop(count) for _ in range(WORKERS)]

    peers = {f"plain fp32 loop, {threads}": partial(peer, plain, n) for n, threads in ((1, "one thread"), TWO)}
    if timm:
        peers["timm's settings, two threads"] = partial(peer, timm_loop(one, data), 2)
    examples = WORKERS * count * one.batch
    work = examples * (flops or cost.TRAINING * cost.flops_per_example(model, data.spec, data.classes))

    def check(results: Mapping[str, Any]) -> str:
        apart = alike(one, data)
        assert apart < 0.01, f"losses {apart:.1%} apart at equal weights"
        said = ", ".join(f"{side} {np.mean(losses):.2f}" for side, losses in results.items())
        kind = "real images" if one.task == "digits" or real() else "noise in the shape of CIFAR-10"
        return (
            f"equal weights give losses within {apart:.1e}; mean loss of the last round: {said}; {kind}; "
            f"{WORKERS} models of {count} updates of {one.batch}, {WORKERS} cores, {OURS} in {one.precision}"
        )

    limit = ("matmul fp32" if one.precision == "fp32" else "matmul bf16", work / WORKERS)  # the peak is one thread's
    return Bench(ours, peers, pairs=3, check=check, limit=limit, unit=(examples, "images"))


TWO = (2, "two threads")


@torch.no_grad()
def alike(one: Trial, data: Splits) -> float:
    """Relative difference of the mean loss of a batch between this project's model and the plain one's weights."""
    from calib_bench.train import initialize

    ours = initialize.initial_model(one, data, torch.device("cpu")).train()
    plain = models.build(one.model, data.spec, data.classes).train()
    plain.load_state_dict(ours.state_dict())
    x, y = data.train.inputs(torch.arange(128), torch.device("cpu")), data.train.labels[:128]  # type: ignore[attr-defined]
    with initialize.autocast(one, torch.device("cpu")):
        z = ours(initialize.prepare(x, one.precision))
    a, b = nn.functional.cross_entropy(z.float(), y), nn.functional.cross_entropy(plain(x), y)
    return float((a - b).abs() / b)


def case(name: str, title: str, least: float, model: str, count: int, **options: Any) -> Case:
    sides = {f"plain fp32 loop, {threads}": least for threads in ("one thread", "two threads")}
    return Case(name, title, partial(make, model, count, **options), least=sides, threads=2)


CASES = [
    case("cnn_digits", "CNN of widths 16, 32 on digits, batch 64", 2.3, "cnn_16_32", 100),
    case("wrn_16_1_cifar10", "WRN-16-1 on CIFAR-10, batch 128", 2.3, "wrn_16_1", 4, flops=0.159e9),
    case("wrn_16_4_cifar10", "WRN-16-4 on CIFAR-10, batch 128", 3.5, "wrn_16_4", 1, flops=2.355e9, timm=False),
]
