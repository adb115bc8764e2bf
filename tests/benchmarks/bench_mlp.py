"""Many small networks: the digits MLP 64-128-128-10 over beta, rate and seed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tests.benchmarks.harness import OURS, Bench, Case

if TYPE_CHECKING:
    from calib_bench.core.splits import Splits
    from calib_bench.core.trial import Trial

MODEL, EPOCHS, BATCH = "mlp_128_128", 80, 60
ROOT = Path(__file__).parents[2]
FLOPS = 2 * (3 * (64 * 128 + 128 * 128 + 128 * 10) - 64 * 128)
"""Multiplications and additions of an example's forward and backward pass; the input needs no gradient."""


# The peers: PyTorch as its tutorials write it.


@dataclass(frozen=True)
class Data:
    """Inputs [N, 64] and labels [N] by split."""

    x: dict[str, Tensor]
    y: dict[str, Tensor]


def plain_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    for layer in (model[0], model[2]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


def plain_train(
    model: nn.Module, data: Data, beta: float, lr: float, epochs: int, orders: Sequence[list[int]] | None = None
) -> None:
    """The usual loop. `orders` fixes each epoch's order of examples, which is otherwise drawn."""
    from torch.utils.data import DataLoader, TensorDataset

    train = TensorDataset(data.x["train"], data.y["train"])
    loader: Any = DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(epochs):
        if orders is not None:
            loader = DataLoader(train, batch_size=BATCH, sampler=orders[epoch], drop_last=True)
        for x, y in loader:
            loss = nn.functional.cross_entropy(beta * model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def plain_metrics(model: nn.Module, data: Data, beta: float) -> dict[str, float]:
    """Temperature scaling by LBFGS, then accuracy, log loss, Brier score and ECE, before it and after it."""
    with torch.no_grad():
        Z = {name: beta * model(data.x[name]) for name in ("selection", "calibration", "test")}
    log_T = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_T], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(Z["calibration"] / log_T.exp(), data.y["calibration"])
        loss.backward()
        return loss

    optimizer.step(closure)
    y, found = data.y["test"], {}
    for name, T in (("raw", 1.0), ("scaled", float(log_T.detach().exp()))):
        p = (Z["test"] / T).softmax(-1)
        found[f"{name}_accuracy"] = (p.argmax(-1) == y).float().mean().item()
        found[f"{name}_log_loss"] = nn.functional.cross_entropy(Z["test"] / T, y).item()
        found[f"{name}_brier"] = (p - nn.functional.one_hot(y, 10)).square().sum(-1).mean().item()
        found[f"{name}_ece"] = plain_ece(p, y)
    return found


def plain_ece(p: Tensor, y: Tensor, bins: int = 15) -> float:
    confidence, predicted = p.max(-1)
    correct, total = (predicted == y).float(), 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            total += (inside.float().mean() * (correct[inside].mean() - confidence[inside].mean()).abs()).item()
    return total


def plain_trial(data: Data, beta: float, lr: float, seed: int) -> dict[str, float]:
    model = plain_model(seed)
    plain_train(model, data, beta, lr, EPOCHS)
    return plain_metrics(model, data, beta)


def processes(folder: Path, wanted: Sequence[Trial]) -> list[dict[str, float]]:
    """One process a trial, two at a time."""
    waiting, running, found = list(wanted), [], []  # type: ignore[var-annotated]
    while waiting or running:
        while waiting and len(running) < 2:
            one = waiting.pop()
            command = [sys.executable, "-m", __name__, str(folder), *map(str, (one.beta, one.lr, one.seed))]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            assert process.returncode == 0, "a peer's process failed"
            found.append(json.loads(process.stdout.read()))
        time.sleep(0.005)
    return found


def alone(folder: str, beta: str, lr: str, seed: str) -> None:
    """One trial in this process, with the data it finds in the folder."""
    torch.set_num_threads(1)
    saved = torch.load(Path(folder) / "data.pt")
    print(json.dumps(plain_trial(Data(saved["x"], saved["y"]), float(beta), float(lr), int(seed))))


# This project.


def trials(betas: Iterable[float], rates: Iterable[float], seeds: Iterable[int], epochs: int) -> list[Trial]:
    """The digits recipe over a grid; rates are over beta, since small ones train at large rates only."""
    from calib_bench.core.trial import Trial

    recipe = {"task": "digits", "model": MODEL, "objective": "cross_entropy", "optimizer": "sgd", "lr_unit": "lr"}
    recipe |= {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0, "batch": BATCH}
    rates, seeds = list(rates), list(seeds)
    return [
        Trial(**recipe, epochs=epochs, beta=beta, lr=rate / beta, seed=seed)  # type: ignore[arg-type]
        for beta in betas
        for rate in rates
        for seed in seeds
    ]


def load() -> tuple[Splits, Data]:
    from calib_bench import registry
    from calib_bench.core.splits import SPLITS, Request

    splits = registry.task("digits").load(Request(task="digits", model=MODEL))
    every: Any = {name: splits[name] for name in ("train", *SPLITS)}
    x = {name: split.inputs(torch.arange(len(split)), torch.device("cpu")) for name, split in every.items()}
    return splits, Data(x, {name: split.labels for name, split in every.items()})


def whole_job(wanted: list[Trial]) -> dict[str, float]:
    """Plan, load, train with two workers, store, read, calibrate, and every metric: raw test accuracy by key."""
    from calib_bench.core.settings import UserSettings
    from calib_bench.core.study import Analysis, Study
    from calib_bench.execute import local
    from calib_bench.metrics import measure
    from calib_bench.planning import plan as planning
    from calib_bench.planning.defaults import resolve
    from calib_bench.registry import calibrators
    from calib_bench.store.store import Store

    study = Study("How fast?", lambda settings, scores: wanted, lambda settings, store: Analysis((), {}), {})
    with tempfile.TemporaryDirectory() as folder:
        given = UserSettings(task="digits", workers=2, device="cpu", out=Path(folder), wandb="disabled")
        settings = resolve(given)
        store = Store(settings.folder)
        plan = planning.make(settings, study, store, workers=2)
        store.write_study(settings, settings.command())
        with local.Workers(settings, 2) as workers:
            workers.run(plan.groups, store, lambda amount: None)
        assert planning.make(settings, study, store, workers=2).pending == 0
        repair = calibrators(("temperature_scaling",))["temperature_scaling"]
        found = {}
        for one in wanted:
            logits, labels = store.logits(one), store.labels(one)
            if store.record(one).status == "done":
                Z = {name: one.beta * logits[name].double() for name in ("calibration", "test")}
                raw = measure(Z["test"].log_softmax(-1), labels["test"])
                measure(repair.apply(repair.fit(Z["calibration"], labels["calibration"]), Z["test"]), labels["test"])
                found[one.key] = float(raw["accuracy"])
    return found


def make_job() -> Bench:
    _, data = load()
    wanted = trials((10 ** (i / 4 - 2) for i in range(13)), (0.0125 * 2**i for i in range(10)), range(3), EPOCHS)
    middle = [one for one in wanted if math.isclose(one.lr * one.beta, 0.1)]
    some, few = middle[::3], middle[::10]
    folder = tempfile.TemporaryDirectory()
    torch.save({"x": data.x, "y": data.y}, Path(folder.name) / "data.pt")

    def loop(threads: int, over: Sequence[Trial]) -> list[dict[str, float]]:
        torch.set_num_threads(threads)
        try:
            return [plain_trial(data, one.beta, one.lr, one.seed) for one in over]
        finally:
            torch.set_num_threads(1)

    def timed(threads: int) -> float:
        start = time.perf_counter()
        loop(threads, some[:1])
        return time.perf_counter() - start

    timed(1)  # imports
    threads = min((1, 2), key=timed)

    def check(results: Any) -> str:
        ours, peers = results[OURS], {"plain loop": some, "one process a trial": few}
        said = []
        for name, over in peers.items():
            mine = sum(ours[one.key] for one in over) / len(over)
            other = sum(row["raw_accuracy"] for row in results[name]) / len(over)
            assert abs(mine - other) < 0.04 / math.sqrt(len(over)) + 0.01, (name, mine, other)
            said.append(f"test accuracy {mine:.3f} here and {other:.3f} in the {name} over the same {len(over)} trials")
        diverged = len(wanted) - len(ours)
        return (
            f"{'; '.join(said)}; {diverged} of {len(wanted)} diverge here. Peers are timed on those trials and scaled "
            f"to all; their data is loaded beforehand; the plain loop has {threads} threads, its faster choice of 1, 2"
        )

    scale = {"plain loop": len(wanted) / len(some), "one process a trial": len(wanted) / len(few)}
    return Bench(
        ours=lambda: (whole_job(wanted), folder)[0],
        peers={
            "plain loop": lambda: loop(threads, some),
            "one process a trial": lambda: processes(Path(folder.name), few),
        },
        pairs=2,
        warm=False,
        check=check,
        unit=(len(wanted) * EPOCHS * len(data.y["train"]), "examples x models"),
        scale=scale,
    )


def make_stack() -> Bench:
    from calib_bench.train import initialize
    from calib_bench.train.stacked_loop import train_fused

    epochs, cpu = 40, torch.device("cpu")
    splits, data = load()
    wanted = trials((0.1, 0.3, 1.0, 3.0), (0.005 * 2**i for i in range(8)), range(2), epochs)
    torch.set_flush_denormal(True)
    orders = {seed: [splits.train.order(seed, epoch).tolist() for epoch in range(epochs)] for seed in range(2)}  # type: ignore[attr-defined]
    starts = [initialize.initial_model(one, splits, cpu) for one in wanted]
    some = [0, len(wanted) - 1]

    def ours(epochs: int = epochs) -> list[Tensor]:
        outcomes = train_fused([one.model_copy(update={"epochs": epochs}) for one in wanted], splits, device=cpu)
        return [one.logits["test"] for one in outcomes]

    def loop(epochs: int = epochs) -> list[Tensor]:
        found = []
        for i in some:
            model = initialize.initial_model(wanted[i], splits, cpu)
            plain_train(model, data, wanted[i].beta, wanted[i].lr, epochs, orders[wanted[i].seed])
            with torch.no_grad():
                found.append(model(data.x["test"]))
        return found

    def stack(epochs: int = epochs) -> list[Tensor]:
        return list(vmap_grad(starts, wanted, data, orders, epochs))

    def check(results: Any) -> str:
        mine, all_of = ours(1), range(len(wanted))
        worst = 0.0
        for theirs, of in ((loop(1), some), (stack(1), all_of)):
            worst = max(
                worst, *(((z - mine[i]).norm() / mine[i].norm()).item() for z, i in zip(theirs, of, strict=True))
            )
        assert worst < 1e-3, worst
        right = lambda z: (z.argmax(-1) == data.y["test"]).double().mean()  # noqa: E731
        gaps = [abs(right(a) - right(b)) for a, b in zip(results[OURS], results["vmap(grad)"], strict=True)]
        gaps += [abs(right(results[OURS][i]) - right(z)) for i, z in zip(some, results["plain loop"], strict=True)]
        middle = float(torch.stack(gaps).median())
        assert middle < 0.01, middle
        return (
            f"same weights and batches: after an epoch logits differ by at most {worst:.0e} of their norm; after "
            f"{epochs}, test accuracies by {middle:.4f} (median). The plain loop is "
            f"timed on {len(some)} members and scaled"
        )

    return Bench(
        ours=ours,
        peers={"plain loop": loop, "vmap(grad)": stack},
        pairs=3,
        limit=("matmul fp32", len(wanted) * epochs * 300 * FLOPS),
        check=check,
        unit=(len(wanted) * epochs * 300, "examples x models"),
        scale={"plain loop": len(wanted) / len(some)},
    )


def vmap_grad(
    starts: Sequence[nn.Module], wanted: Sequence[Trial], data: Data, orders: dict[int, list[list[int]]], epochs: int
) -> Tensor:
    """The models as torch.func's ensembling tutorial trains them: test logits [S, N, K]."""
    from torch.func import functional_call, grad, stack_module_state, vmap

    params, _ = stack_module_state(list(starts))
    params = {name: p.detach().clone() for name, p in params.items()}
    beta_S, rate_S = torch.tensor([[one.beta, one.lr] for one in wanted]).unbind(1)
    model = starts[0]

    def loss(params: dict[str, Tensor], beta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(beta * functional_call(model, params, (x,)), y)

    gradient = vmap(grad(loss))
    for epoch in range(epochs):
        order_SN = torch.tensor([orders[one.seed][epoch] for one in wanted])
        for index_SB in order_SN.split(BATCH, 1):
            grads = gradient(params, beta_S, data.x["train"][index_SB], data.y["train"][index_SB])
            for name, p in params.items():
                p.sub_(grads[name] * rate_S.view(-1, *[1] * (p.dim() - 1)))
    with torch.no_grad():
        return vmap(lambda params: functional_call(model, params, (data.x["test"],)))(params)


CASES = [
    Case(
        "digits_mlp",
        "digits MLP, 390 trials over beta x rate x seed: whole job, two cores",
        make_job,
        {"plain loop": 5.0, "one process a trial": 25.0},
    ),
    Case(
        "mlp_stack",
        "digits MLP, 64 trials as one stack, one thread",
        make_stack,
        {"plain loop": 1.0, "vmap(grad)": 1.0},
    ),
]

if __name__ == "__main__":
    alone(*sys.argv[1:])
