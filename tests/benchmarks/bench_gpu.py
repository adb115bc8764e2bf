"""One GPU: compiled updates replayed as CUDA graphs on resident data, against timm's loop; and what keeps it fed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from calib_bench import models
from calib_bench.core.splits import InputSpec, Request, Splits
from calib_bench.core.trial import Trial
from calib_bench.train.update import Mode
from tests.benchmarks.bench_images import endless, real, splits, usual_data
from tests.benchmarks.harness import Bench, Case

DEVICE, MODE = torch.device("cuda"), Mode(compiled=True, recorded=True)
TIMM = "timm's loop, same GPU"


def trial(model: str, batch: int = 128, task: str = "cifar10") -> Trial:
    return Trial(
        task=task, model=model, beta=1.0, objective="cross_entropy", optimizer="sgd", lr=0.05, lr_unit="lr",
        momentum=0.9, weight_decay=5e-4, schedule="cosine", warmup=0.0, epochs=30, batch=batch, seed=0,
        precision="bf16",
    )  # fmt: skip


def ours(one: Trial, spec: InputSpec, classes: int, batches: Iterator[Any]) -> Callable[[int], float]:
    """(updates to make) -> mean loss, compiled and replayed; the device is waited for once, at the end."""
    from calib_bench.train import initialize
    from calib_bench.train.loss import Loss
    from calib_bench.train.optimizer import factor, make_optimizer
    from calib_bench.train.update import Updater

    device = DEVICE
    shapes = Splits(*[None] * 4, spec, classes, (), "", "", {})  # type: ignore[arg-type]
    model = initialize.initial_model(one, shapes, device).train()
    updater = Updater(one, model, make_optimizer(one, model, one.lr), Loss({}), device, MODE)
    steps = itertools.count()

    def go(count: int) -> float:
        updater.tally.zero_()
        for _ in range(count):
            (x, y), step = next(batches), next(steps)
            updater(x, y, step, factor("cosine", step % 10_000, 10_000, 351, 0.0), {"beta": one.beta})
        loss, _, number = updater.tally.tolist()
        return loss / number

    return go


def timm_loop(one: Trial, spec: InputSpec, classes: int, batches: Iterator[Any]) -> Callable[[int], float]:
    """The loop of timm's script: bf16 autocast, channels-last, its optimizer, schedule and loss; a log every 50."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    torch.manual_seed(0)
    model = models.build(one.model, spec, classes).to(DEVICE).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt="sgd", lr=one.lr, weight_decay=one.weight_decay, momentum=0.9)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", 30, step_on_epochs=False, updates_per_epoch=351)
    loss_fn, steps = LabelSmoothingCrossEntropy(0.0), itertools.count()

    def go(count: int) -> float:
        losses = []
        for at in range(count):
            x, y = next(batches)
            x = x.to(DEVICE, non_blocking=True).contiguous(memory_format=torch.channels_last)
            y = y.to(DEVICE, non_blocking=True)
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step_update(next(steps))
            losses.append(loss.detach())
            if at % 50 == 0:
                losses[-1].item()
        return float(torch.stack(losses).mean())

    return go


def timm_batches(data: Splits, batch: int) -> Iterator[Any]:
    loader = DataLoader(
        usual_data(data), batch, shuffle=True, drop_last=True, num_workers=8, pin_memory=True, persistent_workers=True
    )
    return endless(lambda epoch: loader)


def cifar(model: str, count: int, flops: float, against_timm: bool = True) -> Bench:
    """`count` updates on CIFAR-10 with its augmentation; both sides have been compiled, recorded and loaded before."""
    one, device = trial(model), DEVICE
    data = splits(one)
    resident = endless(lambda epoch: data.train.train_batches(seed=0, epoch=epoch, batch=one.batch, device=device))
    mine = ours(one, data.spec, data.classes, resident)
    peers = {}
    if against_timm:
        theirs = timm_loop(one, data.spec, data.classes, timm_batches(data, one.batch))
        peers[TIMM] = partial(theirs, count)

    def check(results: Mapping[str, Any]) -> str:
        assert all(loss == loss for loss in results.values())
        said = ", ".join(f"{side} {loss:.2f}" for side, loss in results.items())
        return f"mean loss of the last round: {said}; {'real images' if real() else 'noise'}; {torch_device()}"

    return Bench(
        partial(mine, count), peers, pairs=5, check=check,
        limit=("cuda matmul bf16", count * one.batch * flops), unit=(count * one.batch, "images"),
    )  # fmt: skip


def resnet(count: int, jpeg: bool) -> Bench:
    """ResNet-50 at 224, batch 256: from the device itself, or from JPEG by this project's and timm's loaders."""
    one, spec, classes = trial("timm/resnet50", 256, "imagenet"), InputSpec("image", (3, 224, 224)), 1000
    if jpeg:
        classes, mine, theirs = jpegs(one)
    else:
        generator = torch.Generator(DEVICE).manual_seed(0)
        x = torch.randn(one.batch, 3, 224, 224, device=DEVICE, generator=generator)
        y = torch.randint(classes, (one.batch,), device=DEVICE, generator=generator)
        mine, theirs = itertools.repeat((x, y)), itertools.repeat((x, y))
    go, peer = ours(one, spec, classes, mine), timm_loop(one, spec, classes, theirs)

    def check(results: Mapping[str, Any]) -> str:
        said = ", ".join(f"{side} {loss:.2f}" for side, loss in results.items())
        return f"mean loss of the last round: {said}; {torch_device()}" + (f"; {fed(mine, one.batch)}" if jpeg else "")

    work = count * one.batch * 24.6e9
    return Bench(
        partial(go, count), {TIMM: partial(peer, count)}, pairs=3, check=check, limit=("cuda matmul bf16", work),
        unit=(count * one.batch, "images"),
    )  # fmt: skip


def jpegs(one: Trial) -> tuple[int, Iterator[Any], Iterator[Any]]:
    """Number of classes, this project's endless batches, and timm's, of the ImageNet folder at hand."""
    import os

    from timm.data import create_loader

    from calib_bench import registry

    if not os.environ.get("CALIB_BENCH_DATA"):
        raise SystemExit("no JPEG images are here: set CALIB_BENCH_DATA to a folder with imagenet/")
    data = registry.task("imagenet").load(Request("imagenet", model=one.model))
    batch, device = one.batch, DEVICE
    mine = endless(lambda epoch: data.train.train_batches(seed=0, epoch=epoch, batch=batch, device=device))
    loader = create_loader(
        Decoded(data.train), (3, 224, 224), one.batch, is_training=True, color_jitter=None, interpolation="bilinear",
        num_workers=os.cpu_count() or 1, persistent_workers=True, pin_memory=True, device=DEVICE,
    )  # fmt: skip
    return data.classes, mine, endless(lambda epoch: loader)


class Decoded(torch.utils.data.Dataset):
    """The same JPEG files for timm's loader, which sets the transform."""

    def __init__(self, split: Any) -> None:
        self.part, self.rows, self.labels, self.transform = split._images.part, split.rows, split.labels, None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from calib_bench.data.decoding import decode

        image = decode(self.part.row(int(self.rows[index])), "RGB", f"row {index}")
        return (self.transform(image) if self.transform else image), int(self.labels[index])


def fed(batches: Iterator[Any], batch: int, count: int = 8) -> str:
    """What the loader alone delivers."""
    import time

    next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    torch.cuda.synchronize()
    return f"the loader alone delivers {count * batch / (time.perf_counter() - start):,.0f} images a second"


def torch_device() -> str:
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def stack(size: int, epochs: int) -> Bench:
    """`size` digits MLPs over beta and seed, as one stack on the GPU, and one after the other."""
    from calib_bench import registry
    from calib_bench.train.single_loop import train_single
    from calib_bench.train.stacked_loop import train_fused

    data, device = registry.task("digits").load(Request("digits")), DEVICE
    base = trial("mlp_128_128", 64, "digits").model_copy(update={"precision": "fp32", "epochs": epochs})
    trials = [base.model_copy(update={"beta": 0.1 * 2 ** (i % 8), "seed": i // 8}) for i in range(size)]
    few = trials[:: max(1, size // 4)]

    def together() -> Tensor:
        outcomes = train_fused(trials, data, device=device)
        return torch.stack([outcomes[trials.index(one)].logits["test"] for one in few])

    def alone() -> Tensor:
        return torch.stack(
            [train_single(one, data, device=device, compile="no").logits["test"] for one in trials]
        )[:: max(1, size // 4)]  # fmt: skip

    def check(results: Mapping[str, Any]) -> str:
        a, b = results.values()
        agree = (a.argmax(-1) == b.argmax(-1)).double().mean().item()
        assert agree > 0.95
        return f"predictions agree on {agree:.1%} of test examples; {torch_device()}"

    examples = size * epochs * len(data.train)
    return Bench(together, {"one after another, same GPU": alone}, 3, check=check, unit=(examples, "examples x models"))


def share(count: int) -> Bench:
    """WRN-28-10: against the matrix-multiply peak instead of a peer, as seconds for this GPU."""
    from tests.benchmarks.limits import limit

    bench = cifar("wrn_28_10", count, 31.5e9, against_timm=False)
    assert bench.limit is not None
    work, said = bench.limit[1], bench.check

    def at_peak() -> None:
        import time

        time.sleep(work / limit("cuda matmul bf16"))

    assert said is not None
    return Bench(
        bench.ours, {PEAK: at_peak}, 3, limit=bench.limit, unit=bench.unit,
        check=lambda results: said({name: loss for name, loss in results.items() if name != PEAK}),
    )  # fmt: skip


PEAK = "its operations at the bf16 matrix-multiply peak"

CASES = [
    Case(
        "gpu_wrn_16_4", "WRN-16-4 on CIFAR-10, batch 128, full recipe, 351 updates",
        partial(cifar, "wrn_16_4", 351, 2.355e9), least={TIMM: 3.0}, needs="cuda",
    ),
    Case(
        "gpu_wrn_28_10", "WRN-28-10 on CIFAR-10, batch 128, 100 updates: share of the peak",
        partial(share, 100), least={PEAK: 0.30}, needs="cuda",
    ),
    Case(
        "gpu_resnet50", "ResNet-50 at 224, batch 256, synthetic, 40 updates", partial(resnet, 40, False),
        least={TIMM: 1.0}, needs="cuda",
    ),
    Case(
        "gpu_resnet50_jpeg", "ResNet-50 at 224, batch 256, from JPEG, 20 updates", partial(resnet, 20, True),
        least={TIMM: 1.0}, needs="cuda",
    ),
    Case(
        "gpu_mlp_stack", "64 digits MLPs as one stack, 5 epochs", partial(stack, 64, 5),
        least={"one after another, same GPU": 5.0}, needs="cuda",
    ),
]  # fmt: skip
