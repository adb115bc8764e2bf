"""What a training run leaves, and the measurements both loops share."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from calib_bench.train.loss import cross_entropy
from calib_bench.train.temperature import best_temperature

COLUMNS = (
    "epoch",
    "step",
    "train_loss",
    "train_accuracy",
    "selection_log_loss",
    "selection_repaired_log_loss",
    "selection_kappa",
    "selection_accuracy",
    "logit_norm",
    "scale_share",
    "weight_norm",
    "head_norm",
    "lr",
    "seconds",
)
"""History: epochs and updates done; mean objective and accuracy over the epoch's batches as they were met (nan at
epoch 0); of softmax(Z), Z = beta z, on the selection split: log loss (nats), the same after the temperature kappa that
makes it least there, kappa = beta T* (nan where none does), accuracy; ||Z||_F / sqrt(N) there; the share of Z's change
since the last row that lies along Z, see `along`; Euclidean norms of all parameters and of the head's; the latest rate
before the factors of body and head (at epoch 0, the first); seconds so far."""

CHECK_STEPS = 100
"""Divergence is looked for at least this often; the step recorded is exact."""

EVAL_BATCH = 256


ROW_STEPS = 20
"""History rows are at least this many steps apart but for the first: measuring takes a pass over a split."""


def row_epochs(epochs: int, per_epoch: int) -> frozenset[int]:
    """The epochs (counted when done) after which a history row is taken: each, but of more than 20 epochs shorter than
    `ROW_STEPS` steps every so many that they are not, with the first and the last.

    >>> sorted(row_epochs(3, 5)), sorted(row_epochs(30, 2))
    ([0, 1, 2, 3], [0, 1, 10, 20, 30])
    """
    stride = 1 if epochs <= 20 else math.ceil(ROW_STEPS / per_epoch)
    return frozenset({0, min(1, epochs), epochs} | set(range(0, epochs + 1, stride)))


def accurate(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the CPU where its device has none (mps)."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def tally_dtype(device: torch.device) -> torch.dtype:
    """The type of sums over an epoch's batches: float64, or float32 where the device has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def batch_sums(loss: Tensor, z: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums [3, ...] over a batch: of losses [..., B], of correct predictions by logits z [..., B, K], of examples."""
    correct = (z.argmax(-1) == y).sum(-1)
    sums = (loss.sum(-1), correct, torch.full_like(correct, y.shape[-1]))
    return torch.stack([value.to(dtype) for value in sums])


class SelectionScores:
    """Measures a model, or a stack of them, on the selection split, and remembers what it last measured.

    Attributes:
        memory: that of the last row: raw logits "z" [..., N, K], "beta", which broadcasts to them, and "kappa" [...];
            empty before the first.
    """

    def __init__(self, y_N: Tensor) -> None:
        self.y_N = y_N
        self.memory: dict[str, Tensor] = {}

    def __call__(self, z: Tensor, beta: Tensor) -> dict[str, Tensor]:
        """The columns that come of the split's raw logits z [..., N, K], float64 [...]; beta broadcasts to z."""
        Z = accurate(beta) * accurate(z)
        y = self.y_N.to(Z.device).expand(Z.shape[:-1])
        nothing = Z.new_full(Z.shape[:-2], torch.nan)
        kappa, repaired = best_temperature(Z, y, self.memory.get("kappa", nothing).to(Z.device))
        share = along(self._last_Z(Z.device), Z) if self.memory else nothing
        self.memory = {"z": z, "beta": beta, "kappa": kappa}
        return {
            "selection_log_loss": cross_entropy(Z, y).mean(-1),
            "selection_repaired_log_loss": repaired,
            "selection_kappa": kappa,
            "selection_accuracy": (z.to(Z.device).argmax(-1) == y).double().mean(-1),
            "logit_norm": Z.square().sum(-1).mean(-1).sqrt(),
            "scale_share": share,
        }

    def _last_Z(self, device: torch.device) -> Tensor:
        return accurate(self.memory["beta"].to(device)) * accurate(self.memory["z"].to(device))


def along(before: Tensor, now: Tensor) -> Tensor:
    """The share of a change of logits that lies along their own scale, which a temperature can undo.

    With d the change of logits less their row's mean, which softmax does not see, <d, before>^2 over
    (||d||^2 ||before||^2): 1 where logits were multiplied by a number. Nan where nothing changed or all were equal.

    Args:
        before: logits [..., N, K].
        now: later ones.

    Returns:
        Shares [...] in [0, 1].
    """
    before, now = (logits - logits.mean(-1, keepdim=True) for logits in (before, now))
    change = now - before
    product, changed, size = (
        (one * other).sum((-2, -1)) for one, other in ((change, before), (change, change), (before, before))
    )
    return product.square() / (changed * size)


def table(rows: list[dict[str, float]], diverged_step: int | None) -> dict[str, list[float]]:
    """Rows as columns, without those measured after the first bad loss."""
    kept = [row for row in rows if diverged_step is None or row["step"] <= diverged_step]
    return {name: [row[name] for row in kept] for name in (kept[0] if kept else COLUMNS)}


def environment_metadata(device: torch.device) -> dict[str, Any]:
    """The device, its name and the number of threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "device_name": name, "threads": torch.get_num_threads()}


def first_bad(bad: Tensor, loss: Tensor, step: int | Tensor) -> Tensor:
    """`bad` int64 [...], -1 while all is well, set to `step` where `loss` [...] is the first that is not finite."""
    return torch.where((bad < 0) & (loss - loss != 0), step, bad)


class ProgressThrottle:
    """Reports how many steps were done, at most a few times a second."""

    def __init__(self, progress: Callable[[int], None], weight: int = 1, every: float = 0.2) -> None:
        """
        Args:
            progress: called with the steps done since the last call, times `weight`.
            weight: how many runs each step is of.
            every: least seconds between two calls, but for the last.
        """
        self.progress, self.weight, self.every = progress, weight, every
        self.reported, self.done, self.last = 0, 0, 0.0

    def add(self, steps: int) -> None:
        """So many more steps are done."""
        self.done += steps
        if time.monotonic() - self.last >= self.every:
            self._report()

    def finish(self, total: int) -> None:
        """All `total` steps are done, or never will be."""
        self.done = total
        self._report()

    def _report(self) -> None:
        if self.done != self.reported:
            self.progress((self.done - self.reported) * self.weight)
            self.reported = self.done
        self.last = time.monotonic()
