"""A GRU over film reviews on a CPU: unpacked, bucketed by length, denormals flushed, one thread for each worker."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial
from tests.benchmarks.harness import OURS, Bench, Case, Unavailable

LIMIT, BATCH, WORKERS = 256, 64, 2


def trial(seed: int) -> Trial:
    return Trial(
        task="imdb", model="gru_64", beta=1.0, objective="cross_entropy", optimizer="adam", lr=1e-3, lr_unit="lr",
        momentum=0.9, weight_decay=0.0, schedule="constant", warmup=0.0, epochs=1, batch=BATCH, seed=seed, limit=LIMIT,
    )  # fmt: skip


def start_worker() -> None:
    from calib_bench.execute.worker import prepare

    prepare(parse(["task=imdb", "threads=1"]))
    splits()


def splits() -> Any:
    from calib_bench.execute.worker import load_splits

    return load_splits(parse(["task=imdb"]), trial(0))


def train_one(seed: int) -> dict[str, Tensor]:
    from calib_bench.train.train import train

    return train([trial(seed)], splits(), device=torch.device("cpu"))[0].logits


class Packed(nn.Module):
    """The same architecture as its users write it: packed sequences, the last hidden state."""

    def __init__(self, vocabulary: int, width: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layer = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.layer(packed)[1][0])


def collate(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    texts, labels = zip(*rows, strict=True)
    lengths = torch.tensor([len(text) for text in texts])
    return pad_sequence(list(texts), batch_first=True), lengths, torch.stack(labels)


def texts(split: Any) -> list[tuple[Tensor, Tensor]]:
    tokens, lengths = split.inputs(torch.arange(len(split)), torch.device("cpu"))
    return [(row[:n], y) for row, n, y in zip(tokens, lengths, split.labels, strict=True)]


def usual_loop(data: dict[str, list[tuple[Tensor, Tensor]]], vocabulary: int, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = Packed(vocabulary, 64, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    predict(model, data["selection"])
    for tokens, lengths, y in DataLoader(data["train"], BATCH, shuffle=True, drop_last=True, collate_fn=collate):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(tokens, lengths), y).backward()
        optimizer.step()
    return {name: predict(model, data[name]) for name in ("selection", "selection", "calibration", "test")}


@torch.no_grad()
def predict(model: nn.Module, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([model(tokens, lengths) for tokens, lengths, _ in DataLoader(rows, 256, collate_fn=collate)])


def make() -> Bench:
    if not os.environ.get("CALIB_BENCH_DATA"):
        raise Unavailable("the film reviews are not here (CALIB_BENCH_DATA)")
    found = splits()
    data = {name: texts(found[name]) for name in ("train", "selection", "calibration", "test")}
    pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), initializer=start_worker)
    list(pool.map(train_one, range(WORKERS)))
    vocabulary = found.spec.vocabulary

    def ours() -> list[dict[str, Tensor]]:
        return list(pool.map(train_one, range(WORKERS)))

    def peer(threads: int) -> list[dict[str, Tensor]]:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
        return [usual_loop(data, vocabulary, seed) for seed in range(WORKERS)]

    def check(results: Mapping[str, Any]) -> str:
        worst = parity(found, data, vocabulary)
        assert worst < 1e-5
        losses = {side: loss(found, results[side]) for side in results}
        means = {side: sum(values) / len(values) for side, values in losses.items()}
        assert all(abs(mean - means[OURS]) < 0.1 for mean in means.values())
        tokens = sum(len(text) for text, _ in data["train"]) / len(data["train"])
        said = ", ".join(f"{side} {mean:.3f}" for side, mean in means.items())
        return (
            f"equal weights give logits within {worst:.0e}; test log loss after the epoch: {said}; {WORKERS} models of "
            f"{LIMIT:,} reviews of {tokens:.0f} tokens, with predictions for 4 x {LIMIT:,}; two cores on every side"
        )

    peers = {"nn.GRU, packed, one thread": lambda: peer(1), "nn.GRU, packed, two threads": lambda: peer(2)}
    tokens = WORKERS * sum(len(text) for text, _ in data["train"])
    return Bench(ours, peers, pairs=2, warm=False, check=check, unit=(tokens, "training tokens"))


def parity(found: Any, data: dict[str, list[tuple[Tensor, Tensor]]], vocabulary: int) -> float:
    """Largest difference between the logits of both architectures at equal weights."""
    from calib_bench import models

    ours, theirs = models.build("gru_64", found.spec, 2), Packed(vocabulary, 64, 2)
    theirs.load_state_dict(ours.state_dict())
    batch = found.test.inputs(torch.arange(256), torch.device("cpu"))
    with torch.no_grad():
        return float((ours(batch) - predict(theirs, data["test"][:256])).abs().max())


def loss(found: Any, outcomes: list[dict[str, Tensor]]) -> list[float]:
    return [float(nn.functional.cross_entropy(logits["test"], found.test.labels)) for logits in outcomes]


CASES = [
    Case(
        "gru_imdb",
        "GRU of width 64 on IMDB, two trials, one epoch of 256 reviews",
        make,
        least={"nn.GRU, packed, one thread": 6.0, "nn.GRU, packed, two threads": 6.0},
    )
]
